"""A small HAT on Python's own standard library: four minutes of training on two CPU cores.

    hat train configs/quickstart.py
"""

from hat.data.config import DataConfig
from hat.models.hat import ConnectorConfig, HatConfig
from hat.models.layers import StackConfig
from hat.training.config import OptimizerConfig, SampleConfig, ScheduleConfig, TrainingConfig
from hat.training.experiment import Experiment


def config() -> Experiment:
    shared = dict(qk_norm=True, residual_init=0.0)
    byte_stack = dict(
        hidden_size=96, num_heads=2, intermediate_size=256, window=32, **shared
    )
    return Experiment(
        name="quickstart",
        model=HatConfig(
            encoder=StackConfig(num_layers=1, **byte_stack),
            connector=ConnectorConfig(hidden_size=128, num_heads=2),
            backbone=StackConfig(
                hidden_size=128, num_layers=3, num_heads=2, intermediate_size=344, **shared
            ),
            decoder=StackConfig(num_layers=3, **byte_stack),
            embedding_std=1.0,
            guide_init=0.0,
            dtype="float32",
            scan_layers=False,
        ),
        data=DataConfig(source="stdlib", row_length=512, row_words=120, validation_fraction=0.05),
        training=TrainingConfig(
            seconds=240.0,
            batch_size=1,
            optimizer=OptimizerConfig(
                name="muon",
                learning_rate=8e-3,
                muon_steps=3,
                weight_decay=0.0,
                clip_norm=1.0,
            ),
            schedule=ScheduleConfig(
                name="wsd", warmup_fraction=0.02, decay_fraction=0.5, final_fraction=0.0
            ),
            samples=SampleConfig(prompts=("def ", "import ", "class ")),
        ),
    )
