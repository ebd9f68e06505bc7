"""Direct preference optimisation against its equation in float64, and as a run."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.config import override
from hat.data.prepare import prepare
from hat.errors import UserError
from hat.inference.run import load_run
from hat.training import loop
from hat.training.checkpoints import Checkpoints
from hat.training.config import PreferenceConfig
from hat.training.metrics import read_metrics
from hat.training.objectives import make_objective
from hat.training.preference import by_pair, compare
from hat.training.program import Program
from tests.inference.helpers import built
from tests.training import tiny

NAMES = ["preference_loss", "preference_accuracy", "reward_margin", "chosen_log_ratio",
         "rejected_log_ratio"]  # fmt: skip

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HAT_CACHE", str(tmp_path / "cache"))


def equation(config, chosen, rejected) -> dict[str, float]:
    """Equation 7 of arXiv 2305.18290 and its neighbours, of one pair, in float64. chosen, rejected:
    (log-probability under the model, under the reference)."""
    ratios = [np.float64(model) - np.float64(reference) for model, reference in (chosen, rejected)]
    margin = config.beta * (ratios[0] - ratios[1])
    right, wrong = np.log1p(np.exp(-margin)), np.log1p(np.exp(margin))  # -log of sigmoids
    loss = (1 - config.label_smoothing) * right + config.label_smoothing * wrong
    return dict(zip(NAMES, [loss, float(margin > 0), margin, *ratios]))


nats = st.floats(-40, 40, width=32)


@settings(max_examples=40)
@given(pairs=st.lists(st.tuples(nats, nats), max_size=6), beta=st.sampled_from([0.1, 0.5]),
       smoothing=st.sampled_from([0.0, 0.2]))  # fmt: skip
def test_the_loss_is_the_equation(pairs, beta, smoothing):
    """To 1e-5, relative to the largest term: fp32 keeps 1e-7 of each, and there are few."""
    config = PreferenceConfig(beta=beta, label_smoothing=smoothing)
    gained, present = np.full((2, 3, 2), 7, np.float32), np.zeros((2, 3), bool)
    for index, pair in enumerate(pairs):
        gained[index // 3, index % 3], present[index // 3, index % 3] = pair, True
    found = jax.device_get(compare(config, gained, present))
    wanted = [equation(config, (chosen, 0), (rejected, 0)) for chosen, rejected in pairs]
    assert set(found) == set(NAMES)
    for name, (total, count) in found.items():
        assert count == len(pairs)
        values = [one[name] for one in wanted]
        scale = max(map(abs, values), default=1.0)
        assert total == pytest.approx(sum(values), abs=1e-5 * max(scale, 1.0), rel=1e-5)


@settings(max_examples=30)
@given(lengths=st.lists(st.integers(3, 7), max_size=8))
def test_sums_by_pair_are_those_of_spans(lengths):
    lengths = lengths[: len(lengths) // 2 * 2]
    while sum(lengths) > 36:
        lengths = lengths[2:]
    segment = np.zeros((1, 36), np.int32)
    x = np.arange(1, 37, dtype=np.float32)[None]
    start, wanted = 0, []
    for number, length in enumerate(lengths, start=1):
        segment[0, start : start + length] = number
        wanted.append(x[0, start : start + length].sum())
        start += length
    found = np.asarray(by_pair(x, segment))
    assert found.shape == (1, 6, 2)
    np.testing.assert_array_equal(found.ravel()[: len(wanted)], wanted)
    assert not found.ravel()[len(wanted) :].any()


# --- rows -----------------------------------------------------------------------------------------

PAIRS = [(f"say {i}", f"{i}, yes{'!' * (i % 4)}", f"no{'o' * (i % 3)} {i}") for i in range(24)]


def source(folder, pairs=PAIRS):
    path = folder / "pairs.jsonl"
    names = ("prompt", "chosen", "rejected")
    path.write_text("".join(json.dumps(dict(zip(names, pair))) + "\n" for pair in pairs))
    return path


def changes(folder, init, steps=6, *more: str):
    return (
        f"data.source={source(folder)}", "data.format=preference", "data.row_length=512",
        "data.row_words=240", "training.batch_size=8", f"training.steps={steps}",
        "training.schedule.name=constant", "training.log_every_steps=1", f"init={init}", *more,
    )  # fmt: skip


def experiment(make, folder, init, steps=6, *more: str):
    """tiny's, with an objective, which `--set` alone cannot make."""
    base = make(folder)
    data = dataclasses.replace(base.data, format="preference")
    training = dataclasses.replace(base.training, objective=PreferenceConfig(beta=0.5))
    whole = dataclasses.replace(base, data=data, training=training, init="later")
    return override(whole, changes(folder, init, steps, *more))


@pytest.mark.parametrize("make", [tiny.experiment, tiny.one_layer])
def test_a_pair_counts_the_same_wherever_it_stands(tmp_path, make):
    """Packed rows in batches, against every answer alone in its row, its log-probability added up
    in float64 under model and reference; fp32 sums in another order, of 10 answers of 9 nats."""
    config = experiment(make, tmp_path, "nowhere")
    model, params = built(config.model)
    reference = jax.tree.map(lambda leaf: leaf * np.float32(0.97), params)
    objective = make_objective(config)
    measure = jax.jit(lambda params, batch, frozen: objective.measure(model, params, batch, frozen))
    corpus = prepare(config.data, tmp_path / "packed")
    size = corpus.num_rows("train")
    (packed,) = corpus.batches("train", size)
    sums, ratios = jax.device_get(measure(params, packed, reference))

    nats = jax.jit(lambda params, batch: model.nats(params, batch)[0])
    total, chosen_nats, count = dict.fromkeys(NAMES, 0.0), 0.0, 0
    for row in range(size):
        for first in range(1, packed["segment"][row].max(), 2):
            sides = []
            for segment in (first, first + 1):
                here = {name: values[row : row + 1] for name, values in packed.items()}
                alone = here | {"answer": here["answer"] * (here["segment"] == segment)}
                sides.append([-np.asarray(nats(p, alone), np.float64).sum()
                              for p in (params, reference)])  # fmt: skip
            for name, value in equation(config.training.objective, *sides).items():
                total[name] += value
            chosen_nats -= sides[0][0]
            count += 1
    assert count == corpus.info.splits["train"].documents > 10
    for name, (above, below) in ratios.items():
        assert below == count
        assert above == pytest.approx(total[name], rel=1e-3, abs=1e-3 * count)
    assert sums.nats == pytest.approx(chosen_nats, rel=1e-4)

    moved = {name: np.roll(values, 1, axis=0) for name, values in packed.items()}
    again = jax.device_get(measure(params, moved, reference))[1]
    for name in NAMES:
        assert again[name][0] == pytest.approx(ratios[name][0], rel=1e-5, abs=1e-5)
    same = jax.device_get(measure(params, packed, params))[1]
    assert same["preference_loss"][0] == pytest.approx(count * np.log(2), rel=1e-6)


def test_a_run_prefers_and_resumes(tmp_path):
    make = tiny.one_layer
    loop.train(make(tmp_path, "training.steps=1"), tmp_path / "init")
    init = str(tmp_path / "init")
    result = loop.train(experiment(make, tmp_path, init), tmp_path / "whole")
    loop.train(experiment(make, tmp_path, init, 2), tmp_path / "parts")
    loop.train(experiment(make, tmp_path, init), tmp_path / "parts")
    both = [load_run(tmp_path / name).params for name in ("whole", "parts")]
    jax.tree.map(np.testing.assert_array_equal, *both)
    lines = [line for line in read_metrics(tmp_path / "whole" / "metrics.jsonl") if "loss" in line]
    first, last = lines[0], lines[-1]
    assert first["preference_loss"] == pytest.approx(np.log(2), rel=1e-6)
    assert first["reward_margin"] == pytest.approx(0, abs=1e-5) and last["reward_margin"] > 0
    assert last["preference_loss"] < first["preference_loss"] - 0.02
    assert last["chosen_log_ratio"] > last["rejected_log_ratio"]
    assert result["heldout_preference_accuracy"] in (0, 0.5, 1)
    assert 0 < result["heldout_preference_loss"] < 1

    # The reference is of step 1 of init, which has been trained on since.
    checkpoints = Checkpoints(tmp_path / "init")
    checkpoints.save(2, {"params": both[0]}, {"experiment": {"model": {}}}, force=True)
    checkpoints.close()
    with pytest.raises(UserError, match=r"init_step: 1 \(checkpoint\) != 2 \(now\)"):
        loop.train(experiment(make, tmp_path, init, 8), tmp_path / "parts")


def test_every_pair_weighs_the_same_in_the_gradient(tmp_path):
    """Of a step whose two pieces have different numbers of pairs, against the gradient of the mean
    over all pairs, written anew. fp32 sums in another order; 1e-4 as for accumulated text."""
    config = experiment(
        tiny.one_layer, tmp_path, "nowhere", 1, "training.accumulation_steps=2",
        "training.batch_size=16",
    )  # fmt: skip
    loader = loop.Loader(loop.prepare_corpus(config), 16, 0)
    objective = make_objective(config)
    program = Program(config, loader.shapes, objective=objective)
    program.compile()
    state = program.init()
    params = jax.device_get(state.params)
    reference = jax.tree.map(lambda leaf: leaf * np.float32(0.9), params)
    vars(program)["frozen"] = jax.device_put(reference, program._frozen_shardings)
    batch = loader.batch(0)
    for name in ("segment", "answer"):  # rows of padding, of the first piece
        batch[name][0:6:2] = 0
    _, metrics = program.step(state, program.place(batch), 0.0)

    def mean(params):
        nats = program.model.nats(reference, batch)[0] - program.model.nats(params, batch)[0]
        chosen, rejected = (
            jnp.stack([
                jnp.sum(jnp.where(batch["segment"] == segment, nats, 0.0), axis=1)
                for segment in range(first, batch["segment"].max() + 1, 2)
            ])
            for first in (1, 2)
        )  # fmt: skip
        there = np.stack([(batch["segment"] == segment).any(axis=1)
                          for segment in range(1, batch["segment"].max() + 1, 2)])  # fmt: skip
        losses = jnp.logaddexp(0.0, -config.training.objective.beta * (chosen - rejected))
        return jnp.sum(losses * there) / there.sum()

    gradient = jax.device_get(jax.jit(jax.grad(mean))(params))
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(gradient)))
    assert float(metrics.grad_norm) == pytest.approx(norm, rel=1e-4) and norm > 1e-3


def test_experiments_that_cannot_be(tmp_path):
    good = experiment(tiny.one_layer, tmp_path, "somewhere")
    with pytest.raises(UserError, match="the run that it departs from"):
        dataclasses.replace(good, init=None)
    for change in ({"objective": None}, {}):
        data = good.data if change else dataclasses.replace(good.data, format="chat")
        training = dataclasses.replace(good.training, **change)
        with pytest.raises(UserError, match="pairs of answers need 'preference' and"):
            dataclasses.replace(good, data=data, training=training)
    for fields, told in (({"beta": 0.0}, "beta=0.0"), ({"label_smoothing": 0.5}, "label_smoothing")):
        with pytest.raises(UserError, match=told):
            PreferenceConfig(**fields)
