"""The baseline of quickstart.py: a Llama over 4,096 byte-pair tokens of the same training text."""

import dataclasses
from pathlib import Path

from hat.config import load
from hat.models.layers import StackConfig
from hat.models.llama import LlamaConfig
from hat.training.experiment import Experiment


def config() -> Experiment:
    quickstart = load(Path(__file__).with_name("quickstart.py"))
    return Experiment(
        name="quickstart_bpe",
        model=LlamaConfig(
            stack=StackConfig(
                hidden_size=128,
                num_layers=4,
                num_heads=2,
                intermediate_size=344,
                window=96,
                qk_norm=True,
                residual_init=0.0,
            ),
            num_tokens=4096,
            embedding_std=1.0,
            dtype="float32",
            scan_layers=False,
        ),
        data=dataclasses.replace(quickstart.data, tokenizer="bpe:4096", row_length=384),
        training=quickstart.training,
    )
