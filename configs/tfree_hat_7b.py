"""The HAT trained from scratch: 7,192,507,136 parameters in the released layout.

The sizes of `tfree_hat_8b_llama.py`, with QK-norm in every attention and scores capped at 100 for
stability (arXiv 2603.15953). Trained on rows of 3,500 words, 28,000 bytes at most, at first. The
rotary settings and epsilons are not published; those of the other config stand in for them, and
without a Llama to continue nothing asks for its scaling.
"""

from __future__ import annotations

from hat.data.config import DataConfig
from hat.models.hat import ConnectorConfig, HatConfig
from hat.models.layers import StackConfig
from hat.training.config import OptimizerConfig, CheckpointConfig, ScheduleConfig, TrainingConfig
from hat.training.experiment import Experiment


def model() -> HatConfig:
    return HatConfig(
        encoder=StackConfig(
            hidden_size=1024,
            num_layers=6,
            num_heads=8,
            intermediate_size=2816,
            window=768,
            rope_theta=500_000.0,
            qk_norm=True,
            logit_softcap=100.0,
        ),
        connector=ConnectorConfig(hidden_size=4096, num_heads=32, qk_norm=True),
        backbone=StackConfig(
            hidden_size=4096,
            num_layers=32,
            num_heads=32,
            num_kv_heads=8,
            intermediate_size=14_336,
            rope_theta=500_000.0,
            qk_norm=True,
            logit_softcap=100.0,
        ),
        decoder=StackConfig(
            hidden_size=1024,
            num_layers=4,
            num_heads=8,
            intermediate_size=2816,
            window=768,
            rope_theta=500_000.0,
            qk_norm=True,
            logit_softcap=100.0,
        ),
        remat="full",
    )


def config() -> Experiment:
    return Experiment(
        name="tfree_hat_7b",
        model=model(),
        # Room for 3,500 words and special ids; at 5.1 bytes a word both caps fill.
        data=DataConfig(source="corpus", row_length=18_432, row_words=3_584),
        training=TrainingConfig(
            steps=1_000_000,
            batch_size=1024,  # about 3.7 million words
            # Rates and batch are not published; these follow arXiv 2501.10322, section 4.
            optimizer=OptimizerConfig(learning_rate=2.7e-4),
            schedule=ScheduleConfig(warmup_fraction=0.005),
            checkpoint=CheckpointConfig(every_steps=5_000),
        ),
    )
