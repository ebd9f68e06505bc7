"""`hat bench dynamic` on a tiny model: every comparison runs, and recounting finds the same merges."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from hat.benchmarks import dynamic
from tests.training import tiny

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("config", ["hypernetwork", "hypernetwork_bytes"])
def test_it_compares_all(tmp_path, monkeypatch, config):
    monkeypatch.setattr(dynamic, "read_experiment", lambda _: tiny.llama(tmp_path))
    monkeypatch.setattr(dynamic, "TOKENIZER_BYTES", 20_000)
    monkeypatch.setattr(dynamic, "ROWS", 8)
    arguments = argparse.Namespace(
        hypernetwork=ROOT / "configs" / f"{config}.py", bytes=3000, merges=20, vocabulary=500,
        repeats=1,
    )  # fmt: skip
    found = dynamic.run(arguments)
    assert all(value > 0 for value in found.values()) and len(found) == 10
    ratio = found["merges a second"] / found["merges a second, recounting"]
    assert found["merging over recounting"] == pytest.approx(ratio)
