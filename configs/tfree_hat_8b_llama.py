"""A HAT around the blocks of Llama 3.1 8B: 7,192,495,104 parameters in the released layout.

Sizes: arXiv 2603.15953. The rotary settings and epsilons of its encoder and decoder are not
published; those of Llama 3.1 (without the scaling, since no byte sees more than 768 others)
stand in for them.
"""

from hat.data.config import DataConfig
from hat.models.hat import ConnectorConfig, HatConfig
from hat.models.layers import RopeScaling, StackConfig
from hat.training.config import OptimizerConfig, PartConfig, ScheduleConfig, TrainingConfig
from hat.training.experiment import Experiment


def config() -> Experiment:
    byte_stack = dict(
        hidden_size=1024, num_heads=8, intermediate_size=2816, window=768, rope_theta=500_000.0
    )
    return Experiment(
        name="tfree_hat_8b_llama",
        model=HatConfig(
            encoder=StackConfig(num_layers=6, **byte_stack),
            connector=ConnectorConfig(hidden_size=4096, num_heads=32),
            backbone=StackConfig(
                hidden_size=4096,
                num_layers=32,
                num_heads=32,
                num_kv_heads=8,
                intermediate_size=14_336,
                rope_theta=500_000.0,
                rope_scaling=RopeScaling(),
            ),
            decoder=StackConfig(num_layers=4, **byte_stack),
            remat="full",
        ),
        # Room for 3,500 words and special ids; at 5.1 bytes a word both caps fill.
        data=DataConfig(source="corpus", row_length=18_432, row_words=3_584),
        training=TrainingConfig(
            steps=20_000,
            batch_size=1024,
            # Published: the backbone frozen for 2,000 steps, then at a tenth of the rate. The rate
            # itself, the batch and the number of steps are not.
            optimizer=OptimizerConfig(
                learning_rate=2.7e-4,
                parts=(PartConfig("backbone", multiplier=0.1, freeze_until_step=2_000),),
            ),
            schedule=ScheduleConfig(warmup_fraction=0.025),
        ),
    )
