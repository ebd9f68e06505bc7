"""Small Llamas for the tests of bytes, and a slow one in float64 to compare with."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from hat.models.layers import StackConfig
from hat.models.llama import LlamaConfig, LlamaModel
from hat.models.model import Params
from hat.text.tokenizers import Tokenizer
from tests.byte_exact.brute import Sequence, TokenModel
from tests.models.reference import float64, rms_norm, run_stack
from tests.models.toy import random_params

STACK = StackConfig(
    hidden_size=16, num_layers=2, num_heads=4, intermediate_size=24, num_kv_heads=2, qk_norm=True
)


@functools.cache
def random_llama(its: Tokenizer, window: int | None = None) -> tuple[LlamaModel, Params]:
    """A Llama over the ids of a tokenizer, with distributions that are far from even; logits of a
    few units, so that float32 rounds them at 1e-7."""
    stack = dataclasses.replace(STACK, window=window)
    eot = its.eot if its.eot < its.vocab_size else None
    model = LlamaConfig(stack, its.vocab_size, eot_id=eot, dtype="float32").build()
    params = random_params(model, 3)
    params["head"]["projection"]["kernel"] *= 0.3
    return model, params


def reference_rows(model: LlamaModel, params: Params, bos: int) -> TokenModel:
    """The Llama in float64: whole sequences, no caches, no masks."""
    params, config = float64(params), model.config
    predicted = np.arange(config.num_ids)
    predicted = (predicted < config.num_tokens) | (predicted == config.eot)

    @functools.cache
    def rows(tokens: Sequence) -> np.ndarray:
        x = run_stack(config.stack, params["backbone"], params["embedding"]["table"][[bos, *tokens]])
        x = rms_norm(x[-1], params["head"]["norm"]["scale"], config.stack.norm_eps)
        logits = np.where(predicted, x @ params["head"]["projection"]["kernel"], -np.inf)
        p = np.exp(logits - logits.max())
        return p / p.sum()

    return rows
