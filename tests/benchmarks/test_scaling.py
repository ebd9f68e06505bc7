from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from hat.benchmarks import scaling
from hat.config import load
from tests.models import reference

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TINY = ["model.encoder.hidden_size=8", "model.decoder.hidden_size=8",
        "model.encoder.num_layers=1", "model.decoder.num_layers=1", "model.backbone.num_layers=1",
        "model.backbone.hidden_size=8", "model.connector.hidden_size=8",
        "model.encoder.window=4", "model.decoder.window=4"]  # fmt: skip


def parse(*argv):
    parser = argparse.ArgumentParser()
    scaling.add_arguments(parser)
    return parser.parse_args(argv)


def test_table(capsys, monkeypatch):
    monkeypatch.setattr(scaling, "DOUBLINGS", 2)
    assert parse().config == "configs/quickstart.py"
    config = str(CONFIGS / "quickstart.py")
    result = scaling.run(parse(config, "--set", *TINY, "--length", "32", "--repeats", "1"))
    assert result["lengths"] == [32, 64, 128]
    assert list(result["parts"]) == ["encoder", "connector", "backbone", "decoder", "head"]
    for row in result["parts"].values():
        assert len(row["seconds"]) == len(row["temporary_bytes"]) == 3
        assert len(row["time_ratios"]) == len(row["memory_ratios"]) == 2
    # The compiler's own numbers, the same on every run; 4 where the square of the row is held.
    for name in ("encoder", "connector", "decoder", "head"):
        assert result["parts"][name]["memory_ratios"][-1] < 2.2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(result["parts"])


@pytest.mark.parametrize("length", [1, 5, 64, 512])
def test_one_document_is_a_batch_as_the_reference_builds_it(length):
    experiment = load(CONFIGS / "quickstart.py")
    batch = scaling.one_document(experiment, length)
    words = max(1, length * 120 // 512)
    assert batch["bytes"].shape == (1, length) and batch["word_segment"].shape == (1, words)
    assert (batch["segment"] == 1).all() and (batch["word_segment"] == 1).all()
    assert batch["word"][0].tolist() == [t * words // length for t in range(length)]
    assert batch["guide"].tolist() == batch["word"].tolist()
    rows = reference.build_batch([], length, words)
    assert set(batch) == set(rows)


def test_a_row_of_tokens():
    batch = scaling.one_document(load(CONFIGS / "quickstart_bytes.py"), 16)
    assert {name: rows.shape for name, rows in batch.items()} == {
        name: (1, 16) for name in ("tokens", "segment", "position", "token_bytes")
    }
    assert np.asarray(batch["tokens"]).max() < 256


def test_ratios():
    row = scaling.with_ratios([1.0, 2.0, 5.0], [0, 10, 25])
    assert row["time_ratios"] == [2.0, 2.5] and row["memory_ratios"][1] == 2.5


def test_the_fastest_call_of_each_counts_after_the_first(monkeypatch):
    clock, made = [0.0], []
    monkeypatch.setattr(scaling.time, "perf_counter", lambda: clock[0])

    def call(name, *seconds):
        left = iter(seconds)

        def called():
            made.append(name)
            clock[0] += next(left)

        return called

    calls = [call("a", 1.0, 5.0, 3.0), call("b", 2.0, 4.0, 8.0)]
    assert scaling.fastest_seconds(calls, 2) == [3.0, 4.0]
    assert made == list("ababab")
