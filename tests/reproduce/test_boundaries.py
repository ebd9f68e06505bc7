"""The experiment from end to end, at its smallest, and its equal FLOPs."""

from __future__ import annotations

import json

import pytest

from hat import cli
from hat.errors import UserError
from hat.reproduce import boundaries, finish
from hat.reproduce.boundaries import SMOKE, Size

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HAT_CACHE", str(tmp_path / "cache"))


def test_it_runs_and_does_not_repeat_itself(tmp_path, monkeypatch, capsys):
    text = tmp_path / "text.txt"
    lines = (f"The {i}th line of {i * i} is 世界の人々 and สวัสดีชาวโลก, too.\n" for i in range(200))
    text.write_text("".join(lines), encoding="utf-8")
    kinds = ["words", "merges", "entropy-monotonic", "learned"]
    words = ["reproduce", "boundaries", "--smoke", "--text", f"mixed={text}", "--out",
             str(tmp_path / "out"), "--json", "--kinds", *kinds]  # fmt: skip
    assert cli.main(words) == 0
    result = json.loads(capsys.readouterr().out)
    rows = result["results"]["mixed"]
    assert list(rows) == kinds
    for row in rows.values():
        assert 0 < row["bits_per_byte"] < 12 and row["bytes_per_word"] > 1
        assert row["heldout_bytes"] == rows["words"]["heldout_bytes"] >= SMOKE.heldout_bytes
    assert rows["merges"]["causality"] == "sequence"
    assert {rows[kind]["causality"] for kind in kinds} == {"byte", "sequence"}
    page = (tmp_path / "out" / "boundaries.md").read_text(encoding="utf-8")
    assert all(f"| {kind} |" in page for kind in kinds)

    def refuse(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(finish, "train", refuse)
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out) == result
    assert cli.main([*words, "--seed", "1"]) == 2
    assert "other options" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["words", "hat-2025"])
def test_flops_are_equal_whatever_the_words(kind):
    """Within 2 %: widths are whole multiples of 8, and rows have whole words."""
    size = Size()
    target = boundaries.target_flops(size)
    layers = []
    for ratio in (3.2, 4.5, 6.0, 9.0):
        config = boundaries.fitted(size, kind, target, ratio)
        found = boundaries.flops_per_byte(config.build(), size, ratio)
        assert found == pytest.approx(target, rel=0.02)
        layers.append(config.backbone.num_layers)
    assert layers == sorted(layers) and layers[0] < layers[-1]


def test_bad_input(tmp_path, capsys):
    out = ["--smoke", "--out", str(tmp_path / "out")]
    assert cli.main(["reproduce", "boundaries", "--kinds", "wrods", *out]) == 2
    assert "choose from words" in capsys.readouterr().err
    assert cli.main(["reproduce", "boundaries", "--text", "x.txt", *out]) == 2
    assert "NAME=SOURCE" in capsys.readouterr().err
    (tmp_path / "a.txt").write_text("a text")
    twice = [f"a={tmp_path / 'a.txt'}"] * 2
    assert cli.main(["reproduce", "boundaries", "--text", *twice, *out]) == 2
    assert "a is named twice" in capsys.readouterr().err
    assert cli.main(["reproduce", "boundaries", "--text", f"a={tmp_path / 'none'}", *out]) == 2
    assert "set --text to" in capsys.readouterr().err
    with pytest.raises(UserError, match="has 900 bytes: give one of 4,500"):
        boundaries.documents_of("few", b"x" * 900, SMOKE, 0)


