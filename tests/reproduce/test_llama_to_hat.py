"""The experiment from end to end, at its smallest, and the numbers that it draws from curves."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hat import cli
from hat.data.config import DataConfig
from hat.inference.generation import Generation
from hat.inference.run import load_run
from hat.models.hat import HatConfig
from hat.models.layers import StackConfig
from hat.reproduce import llama_to_hat, teacher_text
from hat.training import loop

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HAT_CACHE", str(tmp_path / "cache"))


def test_it_runs_and_does_not_repeat_itself(tmp_path, monkeypatch, capsys):
    sources = sorted((ROOT / "hat" / "text").glob("*.py"))
    text = tmp_path / "text.txt"
    text.write_text("\n".join(path.read_text(encoding="utf-8") for path in sources))
    words = ["reproduce", "llama-to-hat", "--smoke", "--text", str(text), "--out",
             str(tmp_path / "out"), "--json"]  # fmt: skip
    assert cli.main(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["bits_per_byte"]) == set(llama_to_hat.ARMS)
    assert all(0 < bits < 20 for bits in result["bits_per_byte"].values())  # ends of words included
    ends = {arm: curve[-1][0] for arm, curve in result["curves"].items()}
    assert ends["random"] == ends["published"] == ends["staged"] > 6_000  # equal bytes
    assert ends["half"] == pytest.approx(ends["staged"] / 2, rel=0.05)
    # The training loop and the scorer score the same held-out bytes, packed otherwise.
    experiment = load_run(tmp_path / "out" / "staged").experiment
    heldout = teacher_text.heldout_documents(str(text), experiment.data.heldout_fraction)
    assert sum(map(len, heldout)) == result["heldout_bytes"]
    score = teacher_text.bits_per_byte(load_run(tmp_path / "out" / "staged"), heldout)
    assert score == pytest.approx(result["bits_per_byte"]["staged"], rel=0.02)
    assert (tmp_path / "out" / "curves.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == result
    # The arms begin with what their names say: the teacher's blocks, and words beside, or nothing.
    configs = {arm: json.loads((tmp_path / "out" / arm / "config.json").read_text())
               for arm in llama_to_hat.ARMS}
    inits = {arm: config["init"] and Path(config["init"]).name for arm, config in configs.items()}
    assert inits == {"random": None, "published": "blocks", "staged": "words", "half": "words"}
    # All have the same model, over the same words.
    assert all(config["model"] == configs["random"]["model"] for config in configs.values())
    assert {config["data"]["splitter"] for config in configs.values()} == {
        f"tokens:{tmp_path / 'out' / 'teacher'}"
    }

    def refuse(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(loop, "train", refuse)
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out) == result
    assert cli.main([*words, "--seed", "1"]) == 2
    assert "other options" in capsys.readouterr().err


def test_words_by_rule():
    """Several tokens a word: the encoder cannot be taught alone, and nothing stays frozen."""
    size, stack = llama_to_hat.SMOKE, StackConfig(32, 3, 2, 64)
    data = DataConfig(row_length=size.row_length)
    model, data = llama_to_hat.make_hat("rule", stack, Path("teacher"), data, size)
    assert type(model) is HatConfig and model.backbone == stack and data.splitter == "words"
    arms = {
        arm: llama_to_hat.make_experiment(arm, model, data, Path("teacher"), Path("o"), size, 0)
        for arm in llama_to_hat.ARMS
    }
    assert [its.init for its in arms.values()] == [None, "o/blocks", "o/blocks", "o/blocks"]
    terms = arms["staged"].training.objective.terms
    assert [term.layers for term in terms[:-1]] == [0, 1, 2, 3] and terms == (
        arms["half"].training.objective.terms
    )
    assert all(part.multiplier == 1 for part in arms["staged"].training.optimizer.parts)
    assert arms["half"].training.steps == arms["staged"].training.steps // 2


def test_where_one_curve_reaches_the_end_of_another():
    published = [(0, 8.0), (50, 4.0), (100, 2.0)]
    assert llama_to_hat.reached([(0, 8.0), (20, 3.0), (60, 1.0)], published) == 0.4
    assert llama_to_hat.reached([(0, 8.0), (100, 2.5)], published) is None
    assert llama_to_hat.reached(published, published) == 1.0


def test_the_id_that_ends_texts_is_the_likelier_one():
    from tests.dynamic_tokenization.models import llama
    from tests.dynamic_tokenization.texts import bpe

    model, params = llama()
    eot, bos = 5, 7  # any two that the model may predict
    its = SimpleNamespace(eot=eot, bos=bos, encode=bpe().encode)
    kernel = params["head"]["projection"]["kernel"]
    swapped = kernel.at[:, [eot, bos]].set(kernel[:, [bos, eot]])
    other = {**params, "head": {**params["head"], "projection": {"kernel": swapped}}}
    texts = [b"a text", b"and another one, that is longer"]
    found = [
        teacher_text.ending_id(SimpleNamespace(model=model, params=given, tokenizer=its), texts)
        for given in (params, other)
    ]
    assert sorted(found) == sorted((eot, bos))
    total = 0.0  # of EOT over BOS, without padding
    for text in texts:
        ids = np.array([bos, *bpe().encode(text)])
        row = {"tokens": ids, "segment": np.ones_like(ids), "position": np.arange(len(ids))}
        last = model.logits(params, {name: x[None] for name, x in row.items()})[0, -1]
        total += float(last[eot] - last[bos])
    assert found[0] == (eot if total > 0 else bos)


def test_only_texts_that_ended_are_kept(tmp_path, monkeypatch):
    from hat.data.sources import Skipped, Source
    from hat.inference import generation

    seeds = []

    def generate(run, prompts, *, samples, seed, **options):
        seeds.append(seed)
        return [Generation(b"", bytes([i]) * 10 + b"\xff", 0.0, i % 2 == 0)
                for i in range(97, 97 + min(samples, 20))]

    monkeypatch.setattr(generation, "generate", generate)
    path = tmp_path / "sampled.arrayrecord"
    teacher_text.write_text(None, path, 150, 3, lambda text: None)
    documents = [document.data for document in Source(str(path)).documents(Skipped())]
    assert sum(map(len, documents)) == 154 and seeds == [3000, 3001]
    assert all(data.endswith(b"\xff") and data[0] % 2 == 0 for data in documents)
    held = teacher_text.heldout_documents(str(path), 0.2)
    assert held == documents[-3:]


def test_a_teacher_that_never_ends_is_refused(tmp_path, monkeypatch):
    from hat.errors import UserError
    from hat.inference import generation

    endless = [Generation(b"", b"a" * 10, 0.0, False)] * 20
    monkeypatch.setattr(generation, "generate", lambda *a, **b: endless)
    with pytest.raises(UserError, match="ended only 0 of 20 texts"):
        teacher_text.write_text(None, tmp_path / "x.arrayrecord", 100, 0, lambda text: None)
    assert not (tmp_path / "x.arrayrecord").exists()
    assert not np.any([path.suffix == ".arrayrecord" for path in tmp_path.iterdir()])
