"""M1 of equal-info compression: a small flat Llama over bytes, made to begin anywhere in a text.

The size of the paper (arXiv 2404.03626, section 3.2): 3 layers, width 256, 2.4 million parameters
in them. Rotary positions stand in for Shaw's, SwiGLU of equal cost for ReLU, and one key-value head
for four, which makes the step of a coder cheaper. Half of the steps read rows of 64 bytes: a window
of the code begins anywhere and ends after a few bytes, so M1 must know how to begin.

    hat equal-info train-m1 --data TEXT --out m1
"""

from hat.data.config import BucketConfig, DataConfig
from hat.models.layers import StackConfig
from hat.models.llama import LlamaConfig
from hat.training.config import OptimizerConfig, SampleConfig, ScheduleConfig, TrainingConfig
from hat.training.experiment import Experiment


def config() -> Experiment:
    return Experiment(
        name="equal_info_m1",
        model=LlamaConfig(
            stack=StackConfig(
                hidden_size=256,
                num_layers=3,
                num_heads=4,
                num_kv_heads=1,
                intermediate_size=688,
                window=256,
                qk_norm=True,
                residual_init=0.0,
            ),
            num_tokens=256,
            embedding_std=1.0,
            dtype="float32",
            scan_layers=False,
        ),
        data=DataConfig(
            source="stdlib",
            tokenizer="bytes",
            row_length=512,
            validation_fraction=0.05,
            buckets=(BucketConfig(length=64), BucketConfig(length=512)),
        ),
        training=TrainingConfig(
            seconds=600.0,
            batch_size=2,
            optimizer=OptimizerConfig(
                name="muon", learning_rate=8e-3, muon_steps=3, weight_decay=0.0
            ),
            schedule=ScheduleConfig(
                name="wsd", warmup_fraction=0.02, decay_fraction=0.5, final_fraction=0.0
            ),
            samples=SampleConfig(prompts=("",)),
        ),
    )
