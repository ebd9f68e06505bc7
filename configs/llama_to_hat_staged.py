"""`llama_to_hat.py`, with the Llama itself as the teacher of the HAT that is made of it.

    hat convert path/to/llama --to native --out llama
    hat convert path/to/llama --to hat --config configs/llama_to_hat_staged.py --out ckpt
    hat train configs/llama_to_hat_staged.py --set init=ckpt data.source=TEXT

While the backbone is frozen the encoder learns to give it words as it knows them, and the decoder
to read it; then all learn from the teacher's distributions. What that saves is measured on a small
Llama alone: `hat reproduce llama-to-hat`.
"""

import dataclasses
from pathlib import Path

from hat.config import load
from hat.training.distill_config import ChunkLikelihood, DistillConfig, NextBytes, WordEmbeddings
from hat.training.experiment import Experiment

FROZEN_STEPS = 2_000  # as published


def config() -> Experiment:
    published = load(Path(__file__).with_name("llama_to_hat.py"))
    objective = DistillConfig(
        teacher="llama",
        terms=(
            WordEmbeddings(layers=0, until_step=FROZEN_STEPS),
            WordEmbeddings(layers=4, until_step=FROZEN_STEPS),
            NextBytes(),
            ChunkLikelihood(from_step=FROZEN_STEPS),
        ),
        bytes_per_token=2.0,
    )
    training = dataclasses.replace(published.training, objective=objective)
    return dataclasses.replace(published, name="llama_to_hat_staged", training=training)
