from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hat.errors import UserError
from hat.training.metrics import MetricsWriter, read_metrics
from hat.training.plots import plot_loss, running_mean


def write_run(out, steps, value=1.0, start=0):
    with MetricsWriter(out, step=start) as writer:
        for step in steps:
            writer.write(step, {"bytes": 100 * step, "bits_per_byte": value})


def steps_in(out) -> list[int]:
    return [entry["step"] for entry in read_metrics(out / "metrics.jsonl")]


def test_a_line_is_on_disk_when_write_returns(tmp_path):
    with MetricsWriter(tmp_path / "run") as writer:
        writer.write(5, {"loss": np.float32(0.5), "bytes": np.int64(7), "bits_per_byte": 2})
        assert read_metrics(tmp_path / "run" / "metrics.jsonl") == [
            {"step": 5, "loss": 0.5, "bytes": 7, "bits_per_byte": 2}
        ]


def test_what_is_not_finite_is_null_in_strict_json(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"loss": float("nan"), "gradient_norm": float("inf")})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "step": 1, "loss": None, "gradient_norm": None
    }


def test_resuming_drops_the_lines_after_the_checkpoint(tmp_path):
    """Killed at step 40, resumed from a checkpoint of step 20: one history remains."""
    write_run(tmp_path, [10, 20, 30, 40], value=1.0)
    write_run(tmp_path, [30, 40, 50], value=2.0, start=20)
    entries = read_metrics(tmp_path / "metrics.jsonl")
    assert [(e["step"], e["bits_per_byte"]) for e in entries] == [
        (10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0), (50, 2.0)
    ]
    assert not list(tmp_path.glob("*.tmp"))


def test_starting_anew_keeps_nothing(tmp_path):
    write_run(tmp_path, [10, 20])
    write_run(tmp_path, [10])
    assert steps_in(tmp_path) == [10]


def test_the_file_is_replaced_at_once_or_not_at_all(tmp_path, monkeypatch):
    write_run(tmp_path, [10, 20, 30])
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError):
        MetricsWriter(tmp_path, step=10)
    assert steps_in(tmp_path) == [10, 20, 30]


@given(cut=st.integers(1, 60))
def test_a_torn_last_line_is_left_out(tmp_path_factory, cut):
    out = tmp_path_factory.mktemp("run")
    path = out / "metrics.jsonl"
    lines = [json.dumps({"step": s, "bytes": s, "bits_per_byte": 8 / s}) + "\n" for s in (1, 2, 3)]
    path.write_text("".join(lines[:2]) + lines[2][: -min(cut, len(lines[2]))])
    assert steps_in(out) == [1, 2]
    write_run(out, [3, 4], start=2)  # and writing goes on behind whole lines
    assert steps_in(out) == [1, 2, 3, 4]


@pytest.mark.parametrize("bad", ["{", "[1]", "3", '{"loss": 1}', '{"step": "x"}', ""])
def test_a_broken_line_elsewhere_is_named(tmp_path, bad):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{bad}\n{{"step": 2}}\n')
    with pytest.raises(UserError, match="metrics.jsonl:2: not a line of metrics"):
        read_metrics(path)


def test_missing_metrics_are_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match="cannot read the metrics"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_tensorboard_has_the_same_numbers(tmp_path):
    """Read back record by record: length, its checksum, the event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    write_run(tmp_path, [10, 20])
    (path,) = (tmp_path / "tensorboard").iterdir()
    data, events = path.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12:12 + length]))
        data = data[16 + length:]
    scalars = {(e.step, v.tag): v.simple_value for e in events for v in e.summary.value}
    assert scalars == {
        (10, "bytes"): 1000, (10, "bits_per_byte"): 1, (20, "bytes"): 2000, (20, "bits_per_byte"): 1
    }


# --- plots ------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.integers(0, 40))
def test_running_mean_is_the_mean_of_the_neighbours(values, reach):
    expected = [
        np.mean(values[max(0, i - reach): i + reach + 1]) for i in range(len(values))
    ]
    np.testing.assert_allclose(running_mean(np.array(values), reach), expected, atol=1e-12)


@pytest.mark.parametrize("points", [1, 2, 60])
def test_plot_draws_training_evaluations_and_rate(tmp_path, points):
    from matplotlib.image import imread

    with MetricsWriter(tmp_path) as writer:
        for step in range(1, points + 1):
            writer.write(step, {"bytes": 1000 * step, "bits_per_byte": 2 + 6 / step,
                                "learning_rate": 1e-3})
            writer.write(step, {"bytes": 1000 * step, "validation_bits_per_byte": 2.2 + 6 / step})
        writer.write(points, {"bytes": 1000 * points, "heldout_bits_per_byte": 2.5})
    plot_loss(tmp_path / "metrics.jsonl", tmp_path / "loss.png")
    image = imread(tmp_path / "loss.png")[..., :3]
    assert image.shape == (1200, 1800, 3)
    for colour in ("#2563eb", "#d9480f", "#9c36b5", "#0f766e"):
        rgb = np.array([int(colour[i: i + 2], 16) for i in (1, 3, 5)]) / 255
        assert (np.abs(image - rgb).max(-1) < 0.02).sum() > 20
    assert not list(tmp_path.glob("*.tmp"))


def test_a_diverged_step_leaves_a_gap_not_an_error(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for step in range(1, 6):
            bits = float("nan") if step == 3 else 2.0
            writer.write(step, {"bytes": step, "bits_per_byte": bits, "learning_rate": 1e-3})
    plot_loss(tmp_path / "metrics.jsonl", tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 1000


def test_plot_before_the_first_step_is_the_users_mistake(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="no training step yet"):
        plot_loss(tmp_path / "metrics.jsonl", tmp_path / "loss.png")
