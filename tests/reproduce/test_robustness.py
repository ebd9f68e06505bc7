"""`hat reproduce robustness`, very small: it runs through, resumes, and counts right."""

from __future__ import annotations

import argparse
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hat.config import load
from hat.errors import UserError
from hat.evaluation import results
from hat.reproduce import robustness

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

pytestmark = pytest.mark.usefixtures("quick_runs")


def prose(words: str, sentences: int) -> str:
    """Sentences of these words in an order that repeats only after a while."""
    words = words.split()
    drawn = (words[(i * i + 7 * (i // 3)) % len(words)] for i in range(12 * sentences))
    return " ".join(w + ("." if i % 12 == 11 else "") for i, w in enumerate(drawn)) + "\n"


ENGLISH = "the cat a dog saw and then went home where was old tree with green leaves over house"
GERMAN = "die Katze ein Hund sah und dann ging heim wo war alter Baum mit grünen Blättern am Haus"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reproduce")
    (folder / "english.txt").write_text(prose(ENGLISH, 600), encoding="utf-8")
    (folder / "deutsch.txt").write_text(prose(GERMAN, 100), encoding="utf-8")
    return folder


def test_the_smoke_run(files, capsys, monkeypatch):
    """Of one of the models, as time is short: the one whose tokenizer is trained, and kept when it
    goes on."""
    monkeypatch.setattr(robustness, "MODELS", {"subword": robustness.MODELS["subword"]})
    parser = argparse.ArgumentParser()
    robustness.add_arguments(parser)
    argv = ["--smoke", "--text", f"{files}/english.txt", "--second", f"{files}/deutsch.txt",
            "--out", f"{files}/out", "--configs", str(CONFIGS)]
    told = robustness.run(parser.parse_args(argv))
    spent = told["spent"]["subword"]
    # Whole steps: at most half a step from the FLOPs that were asked for.
    assert abs(spent["flops"] - 4e8) <= 0.5 * spent["flops"] / spent["steps"]
    found = results.read(files / "out" / "results.json")
    assert [m.kind for m in found.models] == ["subword"]
    assert [p.name for p in found.perturbations] == ["keyboard", "drop"]
    assert (found.rates, found.seeds, found.tasks[0].items) == ((0.02, 0.05, 0.1, 0.2, 0.4), 5, 6)
    (adaptation,) = found.adaptations
    assert adaptation.language == "deutsch" and len(adaptation.bytes) == 2
    assert adaptation.bytes[0] == 0 < adaptation.bytes[1]
    assert adaptation.new[-1].high < adaptation.new[0].low  # German is learnt
    assert adaptation.bytes_to_recover.estimate == adaptation.bytes[-1]  # of the only model
    assert "mean noise cost" in capsys.readouterr().out
    assert "deutsch" in (files / "out" / "report.md").read_text(encoding="utf-8")
    for name in ("heat_map", "severity", "adaptation"):
        picture = ElementTree.parse(files / "out" / f"{name}.svg").getroot()
        assert picture.tag.endswith("svg") and "drop" in "".join(picture.itertext()) or \
            name == "adaptation"  # fmt: skip
    # Kept: what was measured before the model went on is not measured again.
    monkeypatch.setattr(robustness, "piece_nats", None)
    monkeypatch.setattr(robustness, "evaluate", lambda *_: found)
    again = robustness.run(parser.parse_args(argv))
    assert again["adaptations"] == told["adaptations"]
    with pytest.raises(UserError, match="was made with --seed 0, not 1; give another --out"):
        robustness.run(parser.parse_args([*argv, "--seed", "1"]))


@pytest.mark.parametrize("config", robustness.MODELS.values())
def test_every_model_has_a_small_form(config):
    experiment = load(CONFIGS / f"{config}.py")
    small = robustness.shrink(experiment)
    assert type(small.model) is type(experiment.model)
    assert sum(small.model.build().parameter_counts().values()) < 30_000
    assert small.data.tokenizer in (None, "bytes", "bpe:270")


def test_items_are_pieces_of_the_held_out_text(files):
    divided = robustness.divide(f"{files}/english.txt", 0.1, files / "text")
    whole = (files / "english.txt").read_bytes()
    (heldout,) = divided.heldout
    assert whole.endswith(heldout) and 0.09 < len(heldout) / len(whole) < 0.11
    task = robustness.make_task(divided.heldout, 5)
    assert task == robustness.make_task(divided.heldout, 5)
    for item in task.items:
        (context,), (continuation,) = item.contexts, item.continuations
        assert context + continuation in heldout and continuation[:1] == b" "
        assert len(context) >= 80 and len(continuation) >= 32
    with pytest.raises(UserError, match="yields only .* items of 5000"):
        robustness.make_task(divided.heldout, 5000)
