"""A small Llama that learns to read bytes, taught by itself: minutes on a laptop, or a GPU.

    hat convert path/to/llama --to native --out llama
    hat convert llama --to hat --config configs/llama_to_hat_small.py --fit --word-steps 600 --out ckpt
    hat train ckpt --set init=ckpt data.source=TEXT --out runs/mine

The recipe is that of `hat reproduce llama-to-hat`: words are the Llama's tokens, in a HAT that
predicts where they end. --word-steps teaches the encoder, without any text, what the Llama's
embeddings of them are, and the decoder learns from TEXT, under blocks that stay as they are, what the
Llama says comes next. TEXT should be such as the Llama knows. Where it is to learn more than the Llama
knows, train on with `--set init=runs/mine training.optimizer.parts=() training.objective=none`.

The backbone below is that of a Llama of 260,000 parameters; --fit puts that of yours in its place, and
the length of its longest token in that of word_bytes.
Encoder and decoder are as wide as is quick to train; give a Llama of millions of parameters wider
ones, such as `--set model.encoder.hidden_size=256 model.decoder.hidden_size=256`.
"""

from hat.data.config import DataConfig
from hat.models.hat_2025 import Hat2025Config
from hat.models.layers import StackConfig
from hat.training.config import (
    OptimizerConfig,
    PartConfig,
    SampleConfig,
    ScheduleConfig,
    TrainingConfig,
)
from hat.training.distill_config import DistillConfig, NextBytes
from hat.training.experiment import Experiment

STEPS = 2_000


def config() -> Experiment:
    byte_stack = StackConfig(
        hidden_size=128, num_layers=2, num_heads=4, intermediate_size=352, residual_init=0.0
    )
    return Experiment(
        name="llama_to_hat_small",
        model=Hat2025Config(
            encoder=byte_stack,
            backbone=StackConfig(
                hidden_size=64, num_layers=5, num_heads=8, num_kv_heads=4, intermediate_size=172
            ),
            decoder=byte_stack,
            word_bytes=16,
            embedding_std=1.0,
            dtype="float32",
            scan_layers=False,
        ),
        data=DataConfig(source="corpus", splitter="tokens:llama", row_length=1024, row_words=682),
        training=TrainingConfig(
            steps=STEPS,
            batch_size=1,
            optimizer=OptimizerConfig(
                name="muon",
                learning_rate=8e-3,
                muon_steps=3,
                weight_decay=0.0,
                parts=(PartConfig("encoder", multiplier=0.0), PartConfig("backbone", multiplier=0.0)),
            ),
            schedule=ScheduleConfig(
                name="wsd", warmup_fraction=0.02, decay_fraction=0.5, final_fraction=0.0
            ),
            objective=DistillConfig("llama", (NextBytes(),), bytes_per_token=1.5),
            evaluate_every_steps=STEPS // 10,
            samples=SampleConfig(prompts=("Once upon a time",)),
        ),
    )
