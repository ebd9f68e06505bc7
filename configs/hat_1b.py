"""A HAT of 1.3 billion parameters, for one node of GPUs or a small TPU slice.

The backbone has the block of Llama 3.2 1B, 20 times; encoder and decoder are those of the 1B model
of arXiv 2501.10322 (3 layers of width 768 each) in the form of the released models. Heads are 128
wide, which is what the attention kernels are fastest at. Weights, optimizer and one row of 16,384
bytes fit a GPU of 80 GB.
"""

from hat.data.config import DataConfig
from hat.models.hat import ConnectorConfig, HatConfig
from hat.models.layers import StackConfig
from hat.training.config import (
    CheckpointConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from hat.training.experiment import Experiment


def config() -> Experiment:
    byte_stack = dict(
        hidden_size=768, num_layers=3, num_heads=6, intermediate_size=2048, window=768
    )
    return Experiment(
        name="hat_1b",
        model=HatConfig(
            encoder=StackConfig(**byte_stack),
            connector=ConnectorConfig(hidden_size=2048, num_heads=16),
            backbone=StackConfig(
                hidden_size=2048,
                num_layers=20,
                num_heads=16,
                num_kv_heads=8,
                intermediate_size=8192,
                rope_theta=500_000.0,
                qk_norm=True,
            ),
            decoder=StackConfig(**byte_stack),
            remat="full",
        ),
        # At 5.1 bytes a word both caps fill.
        data=DataConfig(source="corpus", row_length=16_384, row_words=3_200),
        training=TrainingConfig(
            steps=50_000,
            batch_size=64,  # a million bytes
            optimizer=OptimizerConfig(learning_rate=3e-4),
            schedule=ScheduleConfig(warmup_fraction=0.01),
            checkpoint=CheckpointConfig(every_steps=2_000),
        ),
    )
