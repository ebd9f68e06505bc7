"""`hat bench generate` on tiny models: every rival runs, and every number is one."""

from __future__ import annotations

import argparse
import math

from hat.benchmarks import generate


def test_every_rival_runs(monkeypatch):
    monkeypatch.setattr(generate, "LENGTHS", 2)
    result = generate.run(argparse.Namespace(
        size="tiny", batches=[2], bytes=4, length=16, repeats=1, without=[]))  # fmt: skip
    assert result["uncached"] > 0 and result["torch"] > 0
    rates = result["bytes_per_second"]
    assert set(rates) == {"hat", "llama"} and set(result["together"]) == {2}
    numbers = [*rates["hat"].values(), *rates["llama"].values(), *result["together"][2].values()]
    assert all(math.isfinite(number) and number > 0 for number in numbers)
