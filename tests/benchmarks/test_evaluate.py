"""`hat bench evaluate` on a tiny model: both ways give the same scores."""

from __future__ import annotations

import argparse

from hat.benchmarks import evaluate
from tests.training import tiny


def test_both_ways_agree(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "read_experiment", lambda _: tiny.one_layer(
        tmp_path, "data.row_length=256"))
    result = evaluate.run(argparse.Namespace(items=3, batch_size=2))
    assert result["items"] == 3 and result["largest_difference"] < 1e-3
    assert result["ratio"] > 0 and set(result["items_per_second"]) == {"packed", "one at a time"}


def test_items_are_always_the_same():
    items = evaluate.make_items(4)
    assert all(len(item) == 4 and len({context for context, _ in item}) == 1 for item in items)
    assert items == evaluate.make_items(4)
