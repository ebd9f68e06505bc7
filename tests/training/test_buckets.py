"""A run over two corpora in rows of two lengths: one compiled step each, resumed bit for bit."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from hat.data.config import BucketConfig, SourceConfig
from hat.errors import UserError
from hat.inference.run import load_run
from hat.training import loop
from hat.training.experiment import Experiment
from hat.training.metrics import read_metrics
from hat.training.run_folder import read_experiment
from tests.training import tiny

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HAT_CACHE", str(tmp_path / "cache"))


def experiment(folder, steps: int) -> Experiment:
    """The lengths 32 and 64 by turns until step 4, then 64 alone."""
    base = tiny.experiment(folder, f"training.steps={steps}", "training.log_every_steps=1")
    # One schedule whatever the steps, so that a shorter run is the beginning of a longer one.
    schedule = dataclasses.replace(base.training.schedule, name="constant", warmup_fraction=0.0)
    other = folder / "other.txt"
    other.write_text("".join(f"the {i}th line of some prose\n" for i in range(300)))
    data = dataclasses.replace(
        base.data,
        mixture=(
            SourceConfig(name="code", source=base.data.source, weight=2.0),
            SourceConfig(name="prose", source=str(other)),
        ),
        buckets=(
            BucketConfig(length=32, weight_changes=((4, 0.0),)),
            BucketConfig(length=64),
        ),
    )
    training = dataclasses.replace(base.training, schedule=schedule)
    return dataclasses.replace(base, data=data, training=training)


def losses(folder) -> dict[int, float]:
    lines = read_metrics(folder / "metrics.jsonl")
    return {line["step"]: line["bits_per_byte"] for line in lines if "loss" in line}


def test_a_resumed_run_equals_a_straight_one(tmp_path, monkeypatch, capsys):
    lengths = []
    step = loop.Program.step

    def recorded(self, state, batch, *rest):
        lengths.append(batch["bytes"].shape)
        return step(self, state, batch, *rest)

    monkeypatch.setattr(loop.Program, "step", recorded)
    result = loop.train(experiment(tmp_path, 6), tmp_path / "straight")
    assert lengths == [(16, 32), (8, 64), (16, 32), (8, 64), (8, 64), (8, 64)]
    said = capsys.readouterr().err
    assert "code, rows of 32 ids: " in said and "prose, rows of 64 ids: " in said

    loop.train(experiment(tmp_path, 3), tmp_path / "resumed")
    loop.train(experiment(tmp_path, 6), tmp_path / "resumed")
    assert lengths[6:] == lengths[:6]
    assert losses(tmp_path / "resumed") == losses(tmp_path / "straight")
    jax.tree.map(
        np.testing.assert_array_equal,
        load_run(tmp_path / "straight").params, load_run(tmp_path / "resumed").params,
    )  # fmt: skip

    by_source = result["heldout_bits_per_byte_by_source"]
    assert set(by_source) == {"code", "prose"}
    assert min(by_source.values()) < result["heldout_bits_per_byte"] < max(by_source.values())
    line = read_metrics(tmp_path / "straight" / "metrics.jsonl")[-1]
    assert line["heldout_bits_per_byte/code"] == by_source["code"]
    assert read_experiment(tmp_path / "straight") == experiment(tmp_path, 6)


def test_rows_of_an_experiment_are_as_long_as_its_longest_bucket(tmp_path):
    long = experiment(tmp_path, 6)
    short = dataclasses.replace(long.data, row_length=32, row_words=16)
    with pytest.raises(UserError, match="data.row_length is 32, but the last of data.buckets"):
        dataclasses.replace(long, data=short)
