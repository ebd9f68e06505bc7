"""Exact byte probabilities of a Llama as what a HAT learns: computed as it trains, or stored."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from hat.cli import main
from hat.commands.byte_teachers import ExactTeacher
from hat.data.loader import Loader
from hat.errors import UserError
from hat.training import loop
from hat.training.converted_run import write_run
from hat.training.distill_config import ByteProbabilities, DistillConfig
from hat.training.metrics import read_metrics
from hat.training.objectives import Openers, make_objective
from tests.models.toy import random_params
from tests.training import tiny

DEVICES = jax.devices()
CHANGES = ("model.backbone.num_layers=1", "training.batch_size=2", "training.steps=2",
           "training.log_every_steps=1", "training.samples.max_bytes=4")  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """teacher/: the run of a Llama of 300 tokens. config.py: a HAT that it teaches. stored/: what
    the command wrote."""
    folder = tmp_path_factory.mktemp("byte_teacher")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAT_CACHE", str(folder / "cache"))
        patch.setattr(jax, "devices", lambda *a: DEVICES[:1])  # compiles faster than for eight
        llama = tiny.llama(
            folder, "model.stack.num_layers=1", "data.heldout_fraction=0.9", "data.row_length=64"
        )
        (folder / "teacher").mkdir()
        write_run(folder / "teacher", llama, random_params(llama.model.build()))
        loop.prepare_corpus(llama).tokenizer.save(folder / "teacher")
        (folder / "config.py").write_text(
            "import dataclasses\n"
            "from pathlib import Path\n"
            "from tests.training import tiny\n"
            "from hat.training.distill_config import ByteProbabilities, DistillConfig\n"
            "def config():\n"
            f"    hat = tiny.experiment(Path({str(folder)!r}), *{CHANGES!r},\n"
            "                          'data.heldout_fraction=0.9')\n"
            f"    objective = DistillConfig({str(folder / 'teacher')!r}, (ByteProbabilities(),))\n"
            "    training = dataclasses.replace(hat.training, objective=objective)\n"
            "    return dataclasses.replace(hat, training=training)\n"
        )
        words = ["byte-exact", "store", f"{folder}/config.py", "--out", f"{folder}/stored"]
        assert main(words) == 0
        yield folder


def taught(home, *changes, stored: str | None = None):
    hat = tiny.experiment(home, *CHANGES, "data.heldout_fraction=0.9", *changes)
    term = ByteProbabilities(stored=stored)
    objective = DistillConfig(str(home / "teacher"), (term,))
    return dataclasses.replace(hat, training=dataclasses.replace(hat.training, objective=objective))


def test_stored_distributions_are_those_of_the_teacher(home):
    looked_up = make_objective(taught(home, stored=str(home / "stored")))
    corpus = loop.prepare_corpus(taught(home))
    loader = Loader(corpus, 2, 0)
    batch = loader.batch(0)
    found = looked_up.annotate(batch, 0)["byte_logprobs"].view(np.float32)
    computed = make_objective(taught(home), Openers(ExactTeacher)).annotate(batch, 0)
    expected = computed["byte_logprobs"].view(np.float32)
    real = batch["segment"] > 0
    ends = batch["bytes"] == 257  # nothing follows the end of a text
    p, q = (np.exp(x.astype(np.float64))[real & ~ends] for x in (expected, found))
    assert len(p) > 50 and not found[~real].any()
    np.testing.assert_allclose(p.sum(-1), 1.0, atol=1e-5)  # float32
    # 257 symbols below 1e-5 are dropped, and float16 rounds the logarithms of the others.
    np.testing.assert_allclose(q, p, atol=257e-5)


def test_a_run_learns_from_what_is_stored(home, capsys):
    folder = str(home / "stored")
    told = "training.objective.terms.0.stored="
    assert main(["train", f"{home}/config.py", "--out", f"{home}/run", "--set", told + folder]) == 0
    lines = [line for line in read_metrics(home / "run" / "metrics.jsonl") if "loss" in line]
    assert len(lines) == 2 and all(line["byte_probabilities"] > 0 for line in lines)
    # Nothing is computed again; another seed, and so other batches, reads the same texts.
    capsys.readouterr()
    words = ["byte-exact", "store", f"{home}/config.py", "--out", folder, "--json"]
    assert main([*words, "--set", "training.seed=5"]) == 0
    assert json.loads(capsys.readouterr().out)["texts"] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--law", "all"), "--law all"),
        (("--floor", "2"), "floor 2.0"),
        (("--law", "last-free"), "another teacher, law or floor"),
        (("--set", "training.objective=none"), "names no teacher"),
    ],
)
def test_mistakes_are_one_line(home, words, said, capsys):
    command = ["byte-exact", "store", f"{home}/config.py", "--out", f"{home}/stored", *words]
    assert main(command) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_what_is_stored_must_be_of_this_teacher_and_this_text(home, tmp_path, monkeypatch):
    monkeypatch.setenv("HAT_CACHE", str(tmp_path / "cache"))
    changed = taught(home, stored=str(home / "stored"))
    settings = home / "stored" / "settings.json"
    text = settings.read_text()
    settings.write_text(text.replace('"num_tokens": 300', '"num_tokens": 301'))
    with pytest.raises(UserError, match="another teacher: model.num_tokens: 301"):
        make_objective(changed)
    settings.write_text(text)
    (tmp_path / "other").mkdir()
    other = taught(tmp_path, stored=str(home / "stored"))
    objective = dataclasses.replace(
        other.training.objective, teacher=str(home / "teacher")
    )
    training = dataclasses.replace(other.training, objective=objective)
    data = dataclasses.replace(other.data, row_length=48)
    other = dataclasses.replace(other, training=training, data=data)
    loader = Loader(loop.prepare_corpus(other), 2, 0, annotate=make_objective(other).annotate)
    with pytest.raises(UserError, match="no probabilities of the text"):
        loader.batch(0)
