"""An experiment small enough to train in a test, on a text of a few kilobytes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hat.config import override
from hat.data.config import DataConfig
from hat.models.hat import ConnectorConfig, HatConfig
from hat.models.hat_2025 import Hat2025Config
from hat.models.layers import StackConfig
from hat.models.llama import LlamaConfig
from hat.training.config import MeshConfig, OptimizerConfig, TrainingConfig
from hat.training.experiment import Experiment

ONE_DEVICE = ("training.mesh.fsdp=1",)


def text(folder: Path, repeats: int = 60) -> Path:
    """A file of about 6 kB in the given folder."""
    path = folder / "text.txt"
    lines = (f"def f{i}(x):\n    return x + {i * i}  # naïve — {i}\n\n" for i in range(repeats * 2))
    path.write_text("".join(lines), encoding="utf-8")
    return path


def experiment(folder: Path, *changes: str) -> Experiment:
    """A HAT on `text(folder)`; its mesh is the first device unless changed."""
    byte_stack = dict(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, window=8)
    return override(
        Experiment(
            name="tiny",
            model=HatConfig(
                encoder=StackConfig(**byte_stack),
                connector=ConnectorConfig(hidden_size=16, num_heads=2),
                backbone=StackConfig(
                    hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, qk_norm=True
                ),
                decoder=StackConfig(**byte_stack),
                dtype="float32",
            ),
            data=DataConfig(source=str(text(folder)), row_length=64, row_words=32),
            training=TrainingConfig(
                steps=20,
                batch_size=8,
                optimizer=OptimizerConfig(learning_rate=3e-3),
                mesh=MeshConfig(),
                log_every_steps=5,
            ),
        ),
        changes,
    )


def llama(folder: Path, *changes: str) -> Experiment:
    """A subword Llama on the same text."""
    hat = experiment(folder)
    model = LlamaConfig(
        stack=StackConfig(hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32),
        num_tokens=300,
        dtype="float32",
    )
    data = dataclasses.replace(hat.data, tokenizer="bpe:300", row_length=32)
    return override(dataclasses.replace(hat, model=model, data=data), changes)


def hat_2025(folder: Path, *changes: str) -> Experiment:
    """A HAT that predicts where its words end, on the same text."""
    hat = experiment(folder)
    byte_stack = dataclasses.replace(hat.model.encoder, window=None)
    model = Hat2025Config(
        byte_stack, hat.model.backbone, byte_stack, word_bytes=40, embedding_std=1.0, dtype="float32"
    )
    return override(dataclasses.replace(hat, model=model), changes)


def one_layer(folder: Path, *changes: str) -> Experiment:
    """A flat byte-level Llama of one layer on the same text: compiles faster than the others."""
    small = ("data.tokenizer=bytes", "model.num_tokens=256", "model.stack.num_layers=1")
    return llama(folder, *small, "training.samples.max_bytes=4", *changes)
