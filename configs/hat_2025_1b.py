"""The HAT of the first paper, 1B: arXiv 2501.10322, table 2 and section 4.

A backbone of 18 layers and 1.1 billion parameters, encoder and decoder of 3 layers and 23 million
each. Words by white space; 72,000 steps of 1,024 rows of 16,384 bytes; learning rate 3e-4 * 32 / H
with the H heads of the backbone. Widths follow from the published numbers of parameters; norms,
initialisation and clipping are not published.
"""

from hat.data.config import DataConfig
from hat.models.hat_2025 import Hat2025Config
from hat.models.layers import StackConfig
from hat.training.config import (
    CheckpointConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from hat.training.experiment import Experiment


def config() -> Experiment:
    bytes_ = StackConfig(hidden_size=768, num_layers=3, num_heads=6, intermediate_size=2048)
    words = StackConfig(hidden_size=2304, num_layers=18, num_heads=18, intermediate_size=6144)
    return Experiment(
        name="hat_2025_1b",
        model=Hat2025Config(encoder=bytes_, backbone=words, decoder=bytes_, remat="full"),
        # 5.97 bytes a word on average, and some room beside.
        data=DataConfig(
            source="corpus", splitter="whitespace", row_length=16_384, row_words=3_200
        ),
        training=TrainingConfig(
            steps=72_000,
            batch_size=1024,
            optimizer=OptimizerConfig(learning_rate=5.3e-4),
            schedule=ScheduleConfig(warmup_fraction=500 / 72_000),
            checkpoint=CheckpointConfig(every_steps=4_000),
        ),
    )
