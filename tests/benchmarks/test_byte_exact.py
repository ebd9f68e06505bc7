"""`hat bench byte-exact` on a tiny model: every way runs, and the ratios are of its rates."""

from __future__ import annotations

import argparse

import pytest

from hat.benchmarks import byte_exact
from tests.training import tiny


def test_it_compares_all_ways(tmp_path, monkeypatch):
    monkeypatch.setattr(byte_exact, "read_experiment", lambda _: tiny.llama(tmp_path))
    monkeypatch.setattr(byte_exact, "PROMPT", 5)
    arguments = argparse.Namespace(run=None, bytes=12, repeats=1)
    found = byte_exact.run(arguments)
    rates = found["bytes_per_second"]
    assert len(rates) >= 7 and all(rate > 0 for rate in rates.values())
    each = rates["generate: exact, every byte"] / rates["generate: tokens"]
    assert found["ratios"]["every byte over tokens, a token"] == pytest.approx(
        each * found["bytes_per_token"])
    assert set(found["ratios"]) == set(found["processor_ratios"])
