from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from hat.benchmarks import convert
from hat.errors import UserError


def arguments(*words):
    parser = argparse.ArgumentParser()
    convert.add_arguments(parser)
    return parser.parse_args(words)


def test_table(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    words = ("--layers", "2", "--hidden", "64", "--vocab", "128", "--out", str(tmp_path))
    result = convert.run(arguments(*words))
    assert result["same"]
    # Two layers of attention, MLP and norms, the embedding and the last norm, two bytes each.
    layer = 64 * (64 + 64 + 64 + 64) + 3 * 64 * 256 + 2 * 64
    assert result["bytes"] == 2 * (2 * layer + 128 * 64 + 64)
    for row in result["conversions"].values():
        assert row["seconds"] > 0 and row["peak_bytes"] > result["bytes"]
    assert not list(tmp_path.iterdir())


def test_a_width_that_makes_no_heads():
    with pytest.raises(UserError, match="--hidden 100"):
        convert.run(arguments("--hidden", "100"))
