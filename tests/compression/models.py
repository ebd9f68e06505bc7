"""A tiny M1 with random parameters, and what is built of it; once for all tests."""

from __future__ import annotations

import functools

from hat.compression.build import build_table
from hat.compression.predictor import LlamaPredictor
from hat.compression.windows import WindowConfig
from hat.models.layers import StackConfig
from hat.models.llama import LlamaConfig
from hat.text.window_table import TableTokenizer
from tests.inference.helpers import built

CONFIG = LlamaConfig(
    StackConfig(hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1, intermediate_size=24,
                window=24, qk_norm=True),
    num_tokens=256, dtype="float32",
)  # fmt: skip
CONTEXT = 23


@functools.cache
def model():
    model, params = built(CONFIG)
    head = params["head"]
    kernel = 3 * head["projection"]["kernel"]  # so that bytes differ in their chances
    return model, {**params, "head": {**head, "projection": {"kernel": kernel}}}


def predictor(rows: int = 64) -> LlamaPredictor:
    return LlamaPredictor(*model(), rows, CONTEXT)


@functools.cache
def tokenizer(mode: str = "stop-cell", bits: int = 16) -> TableTokenizer:
    config = WindowConfig(bits, mode, context=CONTEXT)
    return TableTokenizer(build_table(predictor(), config))
