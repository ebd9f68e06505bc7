"""Fine-tuning on conversations, from a run that continues text to one that answers."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from hat.inference.run import load_run
from hat.inference.samples import sample_texts
from hat.training import loop
from hat.training.metrics import read_metrics
from tests.training import tiny

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HAT_CACHE", str(tmp_path / "cache"))


def conversations(folder):
    """A parrot that answers in capitals."""
    path = folder / "chats.jsonl"
    lines = []
    for i in range(60):
        turns = [("user", f"say ab{i}"), ("assistant", f"AB{i}!"), ("user", "and?"), ("assistant", "AB!")]
        messages = [{"role": role, "content": content} for role, content in turns]
        lines.append(json.dumps({"messages": messages}) + "\n")
    path.write_text("".join(lines))
    return path


def experiment(make, folder, steps: int, init=None):
    """One schedule whatever the steps, so that a shorter run is the beginning of a longer one."""
    changes = (
        f"data.source={conversations(folder)}", "data.format=chat", "data.row_length=256",
        "data.row_words=80", f"training.steps={steps}", "training.schedule.name=constant",
        "training.log_every_steps=1", "training.samples.max_bytes=4", 'training.samples.prompts="say ab1"', f"init={init}",
    )  # fmt: skip
    return make(folder, *changes)


def test_tuning_resumes_where_it_was_and_learns_to_answer(tmp_path):
    make = tiny.one_layer
    loop.train(make(tmp_path, "training.steps=1"), tmp_path / "init")
    start = str(tmp_path / "init")
    result = loop.train(experiment(make, tmp_path, 8, start), tmp_path / "whole")
    loop.train(experiment(make, tmp_path, 3, start), tmp_path / "parts")
    loop.train(experiment(make, tmp_path, 8, start), tmp_path / "parts")
    both = [load_run(tmp_path / name).params for name in ("whole", "parts")]
    jax.tree.map(np.testing.assert_array_equal, *both)
    lines = [line for line in read_metrics(tmp_path / "whole" / "metrics.jsonl") if "loss" in line]
    assert lines[-1]["bits_per_byte"] < lines[0]["bits_per_byte"] - 0.3
    # Answers have 3 to 5 bytes of the 240 of a conversation; only they are counted.
    said = sum(len(f"AB{i}!AB!") for i in range(57, 60))
    assert result["heldout_bytes"] == said
    run = load_run(tmp_path / "whole")
    corpus = loop.prepare_corpus(run.experiment)
    (text,) = sample_texts(run.experiment, run.model, run.params, corpus)
    assert text.startswith("say ab1\n> ")
