"""MFU in the metrics of a run, against counts by hand."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from hat.models.model import Sums
from hat.training import report as module
from hat.training.chips import CHIPS
from hat.training.metrics import read_metrics
from hat.training.position import Position
from tests.training import tiny

SUMS = Sums(nats=100.0, targets=60.0, bytes=50.0, words=20.0, correct=5.0)


def batch() -> dict[str, np.ndarray]:
    """Two rows of 64 bytes in 32 words: documents of 10 and 20 bytes, 3 and 6 words; padding."""
    segment, words = np.zeros((2, 64), np.int32), np.zeros((2, 32), np.int32)
    segment[0, :10], segment[1, :20] = 1, 1
    words[0, :3], words[1, :6] = 1, 1
    return {"segment": segment, "word_segment": words}


def log_two_steps(tmp_path, monkeypatch, chip) -> list[dict]:
    monkeypatch.setattr(module, "find_chip", lambda kind: chip)
    experiment = tiny.experiment(tmp_path, "training.log_every_steps=2")
    model = experiment.model.build()
    with module.Report(experiment, tmp_path, Position(), model) as report:
        for step in (1, 2):
            position = Position(step=step, seconds=2.0 * step, bytes=50 * step)
            flops = report.batch_flops(batch())
            report.step(step, position, SUMS, flops, 1e-3, 1.0, True, None)
    return read_metrics(tmp_path / "metrics.jsonl")


def test_mfu_is_model_flops_on_real_bytes_by_the_peak_of_all_devices(tmp_path, monkeypatch, capsys):
    chip = CHIPS["v5e"]
    (line,) = log_two_steps(tmp_path, monkeypatch, chip)
    model = tiny.experiment(tmp_path).model.build()
    forward = sum(
        sum(model.flops(num_bytes=t, num_words=n, context_bytes=t, context_words=n).values())
        for t, n in ((10, 3), (20, 6))
    )
    peak = 197e12 * jax.device_count()
    assert line["mfu"] == pytest.approx(2 * 3 * forward / 4.0 / peak)
    assert "MFU 0%" in capsys.readouterr().err


def test_no_mfu_without_a_data_sheet(tmp_path, monkeypatch, capsys):
    (line,) = log_two_steps(tmp_path, monkeypatch, None)
    assert "mfu" not in line and line["bytes_per_second"] == 25
    assert "MFU" not in capsys.readouterr().err
