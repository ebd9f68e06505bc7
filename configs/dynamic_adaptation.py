"""A trained subword Llama goes on to learn with tokens that are merged, by another table each step.

    hat train configs/dynamic_adaptation.py --set base=RUN data.source=TEXT --out runs/adapted
    hat dynamic apply runs/adapted --text FILE

All weights are trained, at a tenth of the rate that quickstart_bpe.py begins with; or with

    --set training.lora.rank=16

low-rank changes of the matrices of attention and MLP alone (hat.training.low_rank). How many merges
a step takes is drawn anew (`training.objective.law`). Rows of merged tokens are made of their parts
(`training.objective.rows`), or with `--set training.objective.hypernetwork=RUN` those of a
hypernetwork that was trained for the base. `training.optimizer.parts` in a copy of this file freezes
embedding or head.
"""

import dataclasses
from pathlib import Path

from hat.config import load
from hat.training.config import DynamicConfig
from hat.training.experiment import Experiment


def config() -> Experiment:
    base = load(Path(__file__).with_name("quickstart_bpe.py"))
    training = dataclasses.replace(
        base.training,
        steps=1_000,
        seconds=None,
        batch_size=4,
        optimizer=dataclasses.replace(base.training.optimizer, learning_rate=8e-4),
        objective=DynamicConfig(most_merges=256, most_parts=4),
    )
    return dataclasses.replace(
        base, name="dynamic_adaptation", training=training, base="runs/quickstart_bpe"
    )
