"""`hat bench serve` at its smallest: a real server process under load, stopped in the middle."""

from __future__ import annotations

import argparse

from hat.benchmarks import serve


def test_a_load_without_an_error():
    result = serve.run(argparse.Namespace(
        run=None, size="tiny", clients=6, rows=4, seconds=3.0, bytes=6))  # fmt: skip
    assert result["errors"] == result["wrong_texts"] == result["exit_status"] == 0
    assert result["texts"] > 0 and result["bytes_per_second"] > 0
    assert result["memory_bytes"]["end"] < 1.5 * result["memory_bytes"]["first_quarter"]
