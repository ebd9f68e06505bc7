"""Runs of the tests: a small Llama over a few byte-pair tokens, a hypernetwork and an adaptation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hat.dynamic_tokenization.base import fit_to_base
from hat.dynamic_tokenization.objective import Dynamic
from hat.training import loop
from hat.training.config import DynamicConfig
from hat.training.experiment import Experiment
from hat.training.objectives import Openers
from tests.dynamic_tokenization.models import row_config
from tests.training import tiny

OPENERS = Openers(dynamic=Dynamic.open)
MERGING = DynamicConfig(most_merges=24, pool_rows=16, sample_rows=4, most_parts=4, boundary="sentence")


def train_base(home: Path) -> Path:
    loop.train(tiny.llama(home, "training.steps=4", "training.samples.max_bytes=4"), home / "base")
    return home / "base"


def hypernetwork(
    home: Path, base: Path, steps: int = 6, kind: str = "parts", **changes
) -> Experiment:
    objective = dataclasses.replace(MERGING, **changes)
    return _experiment(home, base, row_config(kind), objective, steps)


def adaptation(home: Path, base: Path, steps: int = 4, **changes) -> Experiment:
    objective = dataclasses.replace(MERGING, **changes)
    return _experiment(home, base, tiny.llama(home).model, objective, steps)


def _experiment(home, base, model, objective, steps) -> Experiment:
    whole = tiny.llama(home, f"training.steps={steps}", "training.samples.max_bytes=4",
                       "training.log_every_steps=1", "training.schedule.name=constant",
                       "training.optimizer.learning_rate=1e-2")  # fmt: skip
    training = dataclasses.replace(whole.training, objective=objective)
    whole = dataclasses.replace(whole, model=model, training=training, base=str(base))
    return fit_to_base(whole)
