from __future__ import annotations

import argparse

import pytest

from hat.benchmarks import train
from tests.distributed import processes


def test_table_and_trace(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HAT_CACHE", str(tmp_path / "cache"))
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    config = processes.write_config(tmp_path)
    trace = tmp_path / "trace"
    result = train.run(parser.parse_args([str(config), "--repeats", "1", "--profile", str(trace)]))
    parts = result["parts"]
    assert list(parts)[-2:] == ["optimizer", "loader"] and "backbone" in parts
    # The rates are one another's: FLOPs a byte times bytes a second, by what the device can do.
    assert result["flops_per_byte"] == sum(row["flops_per_byte"] for row in parts.values()) > 0
    rate = result["flops_per_byte"] * result["bytes_per_second"]
    assert result["model_flops_per_second"] == pytest.approx(rate)
    assert result["mfu"] == pytest.approx(rate / result["ceiling_flops_per_second"])
    assert result["ceiling"] == "measured, float32 product"
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out[-len(parts):]] == list(parts)
    assert list(trace.rglob("*.xplane.pb"))
