"""The HAT trained from scratch: 7,192,507,136 parameters in the released layout.

The sizes of `tfree_hat_8b_llama.py`, with QK-norm in every attention and scores capped at 100 for
stability (arXiv 2603.15953). Trained on rows of 3,500 words, 28,000 bytes at most, at first. The
rotary settings and epsilons are not published; those of the other config stand in for them, and
without a Llama to continue nothing asks for its scaling.
"""

import dataclasses
from pathlib import Path

from hat.config import load, override
from hat.training.config import (
    CheckpointConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from hat.training.experiment import Experiment


def config() -> Experiment:
    llama = load(Path(__file__).with_name("tfree_hat_8b_llama.py"))
    training = TrainingConfig(
        steps=1_000_000,
        batch_size=1024,  # about 3.7 million words
        # Rates and batch are not published; these follow arXiv 2501.10322, section 4.
        optimizer=OptimizerConfig(learning_rate=2.7e-4),
        schedule=ScheduleConfig(warmup_fraction=0.005),
        checkpoint=CheckpointConfig(every_steps=5_000),
    )
    stacks = "encoder", "backbone", "decoder"
    return override(
        dataclasses.replace(llama, training=training),
        [
            "name=tfree_hat_7b",
            *(f"model.{stack}.qk_norm=true" for stack in stacks),
            *(f"model.{stack}.logit_softcap=100.0" for stack in stacks),
            "model.connector.qk_norm=true",
            "model.backbone.rope_scaling=none",
        ],
    )
