"""Runs from beginning to end: resume, refusals, steps that are not finite, what is left behind."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hat.errors import UserError
from hat.inference.generation import generate
from hat.inference.run import load_run
from hat.inference.samples import sample_texts
from hat.inference.scoring import bits_per_byte
from hat.models.hat_2025 import Hat2025Config
from hat.models.hat_learned import BoundaryConfig, LearnedHatConfig
from hat.models.model import LanguageModel
from hat.training import loop
from hat.training.metrics import read_metrics
from tests.training import tiny

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HAT_CACHE", str(tmp_path / "cache"))


def params_of(folder):
    return jax.tree.map(np.asarray, load_run(folder).params)


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.parametrize("make", [tiny.experiment, tiny.llama])
def test_a_run_leaves_what_it_promises(tmp_path, make, capsys):
    out = tmp_path / "run"
    experiment = make(tmp_path, "training.evaluate_every_steps=10", 'training.samples.prompts="def "',
                      "training.samples.max_bytes=8")
    result = loop.train(experiment, out, sample_texts)
    assert result["finished"] and result["step"] == 20
    for name in ("config.json", "metrics.jsonl", "samples.txt", "loss.png", "result.json"):
        assert (out / name).stat().st_size > 0, name
    assert any((out / "tensorboard").iterdir())
    metrics = read_metrics(out / "metrics.jsonl")
    steps = [line["step"] for line in metrics if "loss" in line]
    assert steps == [5, 10, 15, 20]
    losses = [line["bits_per_byte"] for line in metrics if "loss" in line]
    assert losses[-1] < losses[0] - 0.5
    heldout = [line["heldout_bits_per_byte"] for line in metrics if "heldout_bits_per_byte" in line]
    assert len(heldout) == 3 and heldout[-1] == pytest.approx(result["heldout_bits_per_byte"])
    assert "def " in (out / "samples.txt").read_text(encoding="utf-8")
    assert json.loads((out / "result.json").read_text()) == result
    assert "sample 1 of 1" in capsys.readouterr().err


def test_ten_steps_and_ten_more_equal_twenty(tmp_path, monkeypatch):
    """Parameter for parameter, bit for bit: same mesh, same programs, same rows."""
    whole = loop.train(tiny.experiment(tmp_path), tmp_path / "whole")
    halves = tmp_path / "halves"
    ended = loop.Position.finished
    with monkeypatch.context() as patch:
        patch.setattr(loop.Position, "finished", lambda self, config: self.step >= 10)
        loop.train(tiny.experiment(tmp_path), halves)
    assert loop.Position.finished is ended
    result = loop.train(tiny.experiment(tmp_path), halves)
    assert result["step"] == 20 and result["bytes"] == whole["bytes"]
    assert_same(params_of(tmp_path / "whole"), params_of(halves))
    assert result["heldout_bits_per_byte"] == whole["heldout_bits_per_byte"]
    names = ("step", "bits_per_byte", "grad_norm", "learning_rate")
    lines = [
        [{name: line.get(name) for name in names} for line in read_metrics(path) if "loss" in line]
        for path in (tmp_path / "whole" / "metrics.jsonl", halves / "metrics.jsonl")
    ]
    assert lines[0] == lines[1]


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = loop.train(tiny.experiment(tmp_path), tmp_path / "run")
    again = loop.train(tiny.experiment(tmp_path), tmp_path / "run")
    assert again["step"] == 20 and again["heldout_bits_per_byte"] == first["heldout_bits_per_byte"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("model.backbone.num_layers=3", "model.backbone.num_layers: 2 (run) != 3 (config)"),
        ("data.row_words=40", "data.row_words: 32 (run) != 40 (config)"),
        ("training.seed=7", "training.seed: 0 (run) != 7 (config)"),
    ],
)
def test_another_experiment_is_refused_by_field(tmp_path, change, field):
    loop.train(tiny.experiment(tmp_path, "training.steps=2"), tmp_path / "run")
    before = params_of(tmp_path / "run")
    with pytest.raises(UserError) as error:
        loop.train(tiny.experiment(tmp_path, "training.steps=2", change), tmp_path / "run")
    assert field in str(error.value) and "\n" not in str(error.value)
    assert_same(before, params_of(tmp_path / "run"))


def test_a_folder_where_nothing_was_trained_is_free(tmp_path):
    """A mistake mended does not ask for another folder."""
    out = tmp_path / "run"
    with pytest.raises(UserError, match="no such file"):
        loop.train(tiny.experiment(tmp_path, "data.source=missing"), out)
    assert loop.train(tiny.experiment(tmp_path, "training.steps=1"), out)["step"] == 1


def test_a_longer_run_goes_on(tmp_path, capsys):
    loop.train(tiny.experiment(tmp_path, "training.steps=2"), tmp_path / "run")
    assert loop.train(tiny.experiment(tmp_path, "training.steps=4"), tmp_path / "run")["step"] == 4
    assert "training.steps: 2 (run) != 4 (config)" in capsys.readouterr().err


def poison(monkeypatch, steps: set[int]):
    """Makes the loss of these calls of the step NaN, through the learning rate's neighbour."""
    whole = loop.Program.step
    calls = iter(range(10**6))

    def step(self, state, batch, *rest):
        if next(calls) in steps:
            # An infinite weight gives a NaN loss; the state is copied, as a real step would own it.
            params = jax.tree.map(lambda leaf: leaf * jnp.inf, state.params)
            good = jax.tree.map(jnp.copy, state)
            bad, metrics = whole(self, state._replace(params=params), batch, *rest)
            return good._replace(step=bad.step), metrics
        return whole(self, state, batch, *rest)

    monkeypatch.setattr(loop.Program, "step", step)


def test_steps_that_are_not_finite_are_counted(tmp_path, monkeypatch, capsys):
    poison(monkeypatch, {3, 4, 9})
    result = loop.train(tiny.experiment(tmp_path), tmp_path / "run")
    assert result["skipped"] == 3 and result["step"] == 20
    assert np.isfinite(result["heldout_bits_per_byte"])
    assert "step 4: loss or gradient not finite" in capsys.readouterr().err


def test_too_many_in_a_row_end_the_run_with_its_checkpoint(tmp_path, monkeypatch):
    poison(monkeypatch, set(range(4, 100)))
    experiment = tiny.experiment(tmp_path, "training.checkpoint.every_steps=2")
    with pytest.raises(UserError, match="5 steps in a row, up to step 9"):
        loop.train(experiment, tmp_path / "run")
    finite = jax.tree.map(lambda leaf: bool(np.isfinite(leaf).all()), params_of(tmp_path / "run"))
    assert all(jax.tree.leaves(finite))


def test_sigterm_saves_and_ends(tmp_path, monkeypatch, capsys):
    whole = loop.Run.step

    def step(self, *args):
        whole(self, *args)
        if self.position.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    assert threading.current_thread() is threading.main_thread()
    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "step", step)
        result = loop.train(tiny.experiment(tmp_path), tmp_path / "run")
    assert result["step"] == 7 and not result["finished"]
    assert "the same command resumes" in capsys.readouterr().err
    assert loop.train(tiny.experiment(tmp_path), tmp_path / "run")["step"] == 20


def test_a_run_of_seconds_ends_by_the_clock(tmp_path):
    changes = ("training.steps=none", "training.seconds=0.3")
    result = loop.train(tiny.experiment(tmp_path, *changes), tmp_path / "run")
    assert result["seconds"] >= 0.3 and result["step"] > 0


def test_a_vocabulary_larger_than_the_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="model.num_tokens"):
        loop.train(tiny.llama(tmp_path, "model.num_tokens=250"), tmp_path / "run")


def test_a_word_longer_than_a_row_is_refused(tmp_path):
    experiment = tiny.experiment(tmp_path, "data.row_length=6")
    with pytest.raises(UserError, match="set the row length"):
        loop.train(experiment, tmp_path / "run")


def test_words_that_look_ahead_give_no_bits_per_byte(tmp_path, capsys):
    """The nats are those of the bytes, the words given."""
    tiny_run = tiny.experiment(
        tmp_path, *tiny.ONE_DEVICE, "data.splitter=words+merges=9", "training.steps=5"
    )
    result = loop.train(tiny_run, tmp_path / "run", sample_texts)
    assert result["finished"] and result["heldout_bits_per_byte"] is None and "plot" not in result
    *_, line, evaluation = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert line["loss"] > 0 and "bits_per_byte" not in line
    assert evaluation["heldout_loss"] > 0
    assert "nats per byte, its words given" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "result.json").read_text())["heldout_bits_per_byte"] is None


def test_a_hat_of_2025_charges_its_words(tmp_path):
    """Whatever splitter drew them; `hat evaluate` agrees with the end of training."""
    hat = tiny.experiment(tmp_path, *tiny.ONE_DEVICE, "data.splitter=words+merges=9")
    byte_stack = dataclasses.replace(hat.model.encoder, window=None)
    model = Hat2025Config(byte_stack, hat.model.backbone, byte_stack, dtype="float32")
    result = loop.train(dataclasses.replace(hat, model=model), tmp_path / "run", sample_texts)
    losses = [line["loss"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in line]
    assert losses[-1] < losses[0] - 0.3 and result["heldout_long_words"] == 0
    run = load_run(tmp_path / "run")
    heldout = (tmp_path / "heldout.txt")
    data = (tmp_path / "text.txt").read_bytes()
    heldout.write_bytes(data[-result["heldout_bytes"] :])
    scored = bits_per_byte(run, [heldout])
    assert scored["bytes"] == result["heldout_bytes"]
    # The same bytes, cut into rows and merged as a document of their own.
    assert scored["bits_per_byte"] == pytest.approx(result["heldout_bits_per_byte"], rel=0.05)
    (made,) = generate(run, [b"def "], num_bytes=30, valid_utf8=True)
    assert made.text and made.text.decode() is not None


def test_a_hat_learns_where_words_end(tmp_path):
    """From the splitter of its rows; what it charges is a code length all the same."""
    hat = tiny.experiment(tmp_path, *tiny.ONE_DEVICE, "training.steps=60", "data.row_words=64")
    boundaries = BoundaryConfig("mlp", "splitter", weight=1.0, mlp_size=32)
    model = LearnedHatConfig(**vars(hat.model), boundaries=boundaries)
    result = loop.train(dataclasses.replace(hat, model=model), tmp_path / "run", sample_texts)
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in line]
    assert lines[-1]["boundary_loss"] < 0.5 * lines[0]["boundary_loss"]
    assert lines[-1]["bits_per_byte"] < lines[0]["bits_per_byte"] - 0.5
    assert result["heldout_bits_per_byte"] > 0 and 0 <= result["heldout_dropped_words"] < 0.2
    run = load_run(tmp_path / "run")
    scored = tmp_path / "heldout.txt"
    scored.write_bytes((tmp_path / "text.txt").read_bytes()[-result["heldout_bytes"] :])
    bits = bits_per_byte(run, [scored])["bits_per_byte"]
    assert bits == pytest.approx(result["heldout_bits_per_byte"], rel=0.1)
    (made,) = generate(run, [b"def "], num_bytes=3)
    assert made.stopped or len(made.text) == 3


def test_the_loss_is_of_the_model(tmp_path):
    """The reported held-out score equals one computed from the restored run by the scorer."""
    from hat.inference.scoring import bits_per_byte

    result = loop.train(tiny.experiment(tmp_path, "data.heldout_fraction=0.2"), tmp_path / "run")
    whole = tiny.text(tmp_path).read_bytes()
    heldout = tmp_path / "heldout.txt"
    heldout.write_bytes(whole[-result["heldout_bytes"] :])
    score = bits_per_byte(load_run(tmp_path / "run"), [heldout])
    # The rows are cut alike; only the order of summation differs.
    assert score["bits_per_byte"] == pytest.approx(result["heldout_bits_per_byte"], rel=1e-4)
    assert isinstance(load_run(tmp_path / "run").model, LanguageModel)
