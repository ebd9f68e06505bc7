"""`hat reproduce dynamic-tokenization`, very small: it runs through, resumes, and judges right."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import pytest

from hat import cli
from hat.reproduce import dynamic_tokenization
from hat.reproduce.dynamic_tokenization import ARMS, rise, verdict

ROOT = Path(__file__).resolve().parents[2]
DEVICES = jax.devices()


@pytest.fixture(autouse=True)
def one_device(tmp_path, monkeypatch):
    monkeypatch.setenv("HAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(jax, "devices", lambda *a: DEVICES[:1])


def test_it_runs_and_does_not_repeat_itself(tmp_path, monkeypatch, capsys):
    sources = sorted((ROOT / "hat" / "text").glob("*.py"))
    text, parallel = tmp_path / "text.txt", tmp_path / "parallel"
    text.write_text("\n".join(path.read_text(encoding="utf-8") for path in sources))
    parallel.mkdir()
    (parallel / "swh.txt").write_text("Watu wote wamezaliwa huru, hadhi na haki zao ni sawa. " * 4)
    words = ["reproduce", "dynamic-tokenization", "--smoke", "--text", str(text), "--configs",
             str(ROOT / "configs"), "--parallel", str(parallel), "--out", str(tmp_path / "out"),
             "--json"]  # fmt: skip
    assert cli.main(words) == 0
    result = json.loads(capsys.readouterr().out)
    for scope, arms in result["curves"].items():
        assert set(arms) == set(ARMS)
        for points in arms.values():
            assert len(points) >= 2 and points[0]["saved"] == 0
            saved = [point["saved"] for point in points]
            assert saved == sorted(saved)
            owed = [point["bits_per_byte"] - point["given_table"] for point in points]
            assert all(x > 0 for x in owed) if scope == "example" else not any(owed)
    assert result["languages"]["swh"]["largest_reduction"] > 0.2

    def refuse(*args):
        raise AssertionError("measured again")

    monkeypatch.setattr(dynamic_tokenization, "measure", refuse)
    monkeypatch.setattr(dynamic_tokenization, "language", refuse)
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out) == result
    assert cli.main([*words, "--boundary", "word"]) == 2
    assert "other options" in capsys.readouterr().err


def test_curves_are_read_by_straight_lines():
    points = [{"saved": s, "bits_per_byte": b} for s, b in ((0.0, 2.0), (0.1, 2.0), (0.2, 2.4))]
    assert rise(points) == pytest.approx(0.1)
    assert rise(points[:2]) is None


@pytest.mark.parametrize("mean, best, word", [
    (0.2, 0.01, "): confirmed"), (0.2, 0.1, "): refuted"), (0.01, 0.01, "): refuted"),
    (None, 0.1, "neither"),
])  # fmt: skip
def test_the_verdict(mean, best, word):
    rise = dict.fromkeys(ARMS) | {"mean": mean, "adapted, hypernetwork": best}
    assert word in verdict(rise)
