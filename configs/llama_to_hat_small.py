"""A small Llama that learns to read bytes, taught by itself: minutes on a laptop, or a GPU.

    hat convert path/to/llama --to native --out llama
    hat convert path/to/llama --to hat --config configs/llama_to_hat_small.py --fit --out ckpt
    hat train ckpt --set init=ckpt data.source=TEXT --out runs/mine

The backbone below is that of a Llama of 260,000 parameters; --fit puts that of yours in its place.
Encoder, connector and decoder are as wide as is quick to train; give a Llama of millions of
parameters wider ones, such as `--set model.encoder.hidden_size=256 model.decoder.hidden_size=256`.
The recipe is the staged one of `hat reproduce llama-to-hat`: a word's state is compared with the
Llama's before the first block and after every one of LAYERS, the last of which counts for more. A
copy of this file can have those of another Llama; with --fit as it is, a deeper one is compared with
after its first five.
"""

from hat.data.config import DataConfig
from hat.models.hat import ConnectorConfig, HatConfig
from hat.models.layers import StackConfig
from hat.training.config import (
    OptimizerConfig,
    PartConfig,
    SampleConfig,
    ScheduleConfig,
    TrainingConfig,
)
from hat.training.distill_config import DistillConfig, NextBytes, WordEmbeddings
from hat.training.experiment import Experiment

STEPS = 2_000
LAYERS = 5  # of the Llama
FROZEN_STEPS = STEPS // 50


def config() -> Experiment:
    byte_stack = dict(
        hidden_size=64, num_heads=2, intermediate_size=176, window=32, residual_init=0.0
    )
    return Experiment(
        name="llama_to_hat_small",
        model=HatConfig(
            encoder=StackConfig(num_layers=1, **byte_stack),
            connector=ConnectorConfig(hidden_size=64, num_heads=2),
            backbone=StackConfig(
                hidden_size=64, num_layers=LAYERS, num_heads=8, num_kv_heads=4, intermediate_size=172
            ),
            decoder=StackConfig(num_layers=3, **byte_stack),
            embedding_std=1.0,
            guide_init=0.0,
            dtype="float32",
            scan_layers=False,
        ),
        data=DataConfig(source="corpus", row_length=512, row_words=170),
        training=TrainingConfig(
            steps=STEPS,
            batch_size=1,
            optimizer=OptimizerConfig(
                name="muon",
                learning_rate=8e-3,
                muon_steps=3,
                weight_decay=0.0,
                parts=(PartConfig("backbone", freeze_until_step=FROZEN_STEPS),),
            ),
            schedule=ScheduleConfig(
                name="wsd", warmup_fraction=0.02, decay_fraction=0.5, final_fraction=0.0
            ),
            objective=DistillConfig(
                teacher="llama",
                terms=(
                    *(WordEmbeddings(layers=layers) for layers in range(LAYERS)),
                    WordEmbeddings(layers=LAYERS, weight=3.0),
                    NextBytes(),
                ),
            ),
            evaluate_every_steps=STEPS // 10,
            samples=SampleConfig(prompts=("Once upon a time",)),
        ),
    )
