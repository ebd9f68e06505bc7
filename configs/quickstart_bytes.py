"""The other baseline of quickstart.py: a flat Llama over bytes."""

import dataclasses
from pathlib import Path

from hat.config import load
from hat.models.layers import StackConfig
from hat.models.llama import LlamaConfig
from hat.training.experiment import Experiment


def config() -> Experiment:
    quickstart = load(Path(__file__).with_name("quickstart.py"))
    return Experiment(
        name="quickstart_bytes",
        model=LlamaConfig(
            stack=StackConfig(
                hidden_size=96,
                num_layers=3,
                num_heads=2,
                intermediate_size=256,
                window=64,
                qk_norm=True,
                residual_init=0.0,
            ),
            num_tokens=256,
            embedding_std=1.0,
            dtype="float32",
            scan_layers=False,
        ),
        data=dataclasses.replace(quickstart.data, tokenizer="bytes", row_length=384),
        training=dataclasses.replace(
            quickstart.training,
            schedule=dataclasses.replace(quickstart.training.schedule, decay_fraction=0.7),
        ),
    )
