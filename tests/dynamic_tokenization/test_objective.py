"""Training in merged tokens: tables, rows, losses, and runs of both kinds."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from hat.data.loader import Loader
from hat.dynamic_tokenization.base import fit_to_base, load_base, load_hypernetwork
from hat.dynamic_tokenization.embeddings import mean_of_parts, pad_parts, source_of
from hat.dynamic_tokenization.merging import largest_reduction
from hat.dynamic_tokenization.objective import Dynamic
from hat.errors import UserError
from hat.inference.run import load_run
from hat.models.hypernetwork import HypernetworkConfig
from hat.models.model import next_ids
from hat.training import loop
from hat.training.metrics import read_metrics
from hat.training.objectives import make_objective
from tests.dynamic_tokenization import runs
from tests.dynamic_tokenization.models import HYPER_STACK
from tests.training import tiny

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(scope="module")
def home(tmp_path_factory, quick_runs):
    return tmp_path_factory.mktemp("dynamic")


@pytest.fixture(scope="module")
def base(home):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAT_CACHE", str(home / "cache"))
        yield runs.train_base(home)


@pytest.fixture(autouse=True)
def cache(home, monkeypatch):
    monkeypatch.setenv("HAT_CACHE", str(home / "cache"))


def opened(home, base, **changes):
    experiment = runs.hypernetwork(home, base, **changes)
    objective = Dynamic.open(experiment)
    loader = Loader(loop.prepare_corpus(experiment), 8, 0, annotate=objective.annotate)
    return experiment, objective, loader


def test_rows_spell_the_same_bytes_in_fewer_tokens(home, base):
    _, objective, loader = opened(home, base)
    its = load_base(base).tokenizer
    num_ids = load_base(base).model.config.num_ids
    plain = Loader(loop.prepare_corpus(runs.hypernetwork(home, base)), 8, 0)
    for number in range(3):
        before, batch = plain.batch(number), loader.batch(number)
        table = objective.table(number)
        assert batch["unit_count"].tolist() == [len(table)] * 8
        assert (batch["segment"] > 0).sum() < (before["segment"] > 0).sum()
        assert batch["base_length"].tolist() == (before["segment"] > 0).sum(axis=1).tolist()
        for row in range(8):
            for segment in range(1, before["segment"][row].max() + 1):
                old = before["tokens"][row][before["segment"][row] == segment]
                symbols = batch["tokens"][row][batch["segment"][row] == segment]
                np.testing.assert_array_equal(table.expand(symbols), old)
                position = batch["position"][row][batch["segment"][row] == segment]
                assert position.tolist() == list(range(len(symbols)))
        assert batch["token_bytes"].sum() == before["token_bytes"].sum()
        merged = batch["tokens"][batch["tokens"] >= num_ids]
        assert len(merged) and merged.max() < num_ids + len(table)
        parts = batch["unit_parts"][0]
        for symbol in np.unique(merged):
            spelled = its.decode(parts[symbol - num_ids][parts[symbol - num_ids] >= 0])
            assert spelled == its.decode(table.parts()[symbol - num_ids])


def test_a_step_is_a_function_of_its_number_and_not_of_the_processes(home, base):
    experiment, objective, loader = opened(home, base)
    corpus = loop.prepare_corpus(experiment)
    other = Dynamic.open(experiment)
    whole = loader.batch(5)
    for process in range(2):
        half = Loader(corpus, 8, 0, "train", process, 2, other.annotate).batch(5)
        for name, values in half.items():
            np.testing.assert_array_equal(values, np.split(whole[name], 2)[process])
    assert not np.array_equal(objective.table(1).pairs, objective.table(2).pairs)


@pytest.mark.parametrize("law, deviation", [("uniform", 12**-0.5), ("gaussian", 1 / 6)])
def test_merge_counts_are_drawn_by_share_of_the_reduction(home, base, law, deviation):
    """All tables are prefixes of one, as there is one row to count in. Of 200 draws a deviation is
    within 20 %; a share is that of whole merges, up to 1/16 too large."""
    experiment = runs.hypernetwork(home, base, law=law, noise=0.0, pool_rows=1, sample_rows=1)
    objective = Dynamic.open(experiment)
    tables = [objective.table(number) for number in range(200)]
    reached = np.array([largest_reduction(table) for table in tables])
    shares = reached / reached.max()
    assert abs(shares.mean() - 0.5) < 0.08 and shares.min() >= 0
    assert 0.8 * deviation < shares.std() < 1.2 * deviation
    longest = max(tables, key=len)
    assert all(np.array_equal(t.pairs, longest.pairs[: len(t)]) for t in tables)


def test_without_merges_the_loss_is_the_models_own(home, base):
    experiment, objective, loader = opened(home, base)
    run = load_base(base)
    batch = Loader(loop.prepare_corpus(experiment), 8, 0).batch(0)
    none = objective._merge(batch, objective.table(0).first(0))
    model = experiment.model.build()
    sums, ratios = objective.measure(model, model.init(jax.random.key(0)), none, run.params)
    assert sums.nats == pytest.approx(float(run.model.loss(run.params, batch).nats), rel=1e-6)
    assert ratios["positions_left"][0] == ratios["positions_left"][1]
    _, mask = next_ids(batch["tokens"], batch["segment"])
    assert sums.targets == mask.sum()


def test_a_hypernetwork_run_learns_resumes_and_predicts(home, base):
    before = jax.tree.map(np.asarray, load_run(base).params)
    experiment = runs.hypernetwork(home, base, steps=30)
    result = loop.train(experiment, home / "hyper", None, runs.OPENERS)
    short = dataclasses.replace(experiment.training, steps=11)
    loop.train(dataclasses.replace(experiment, training=short), home / "parts", None, runs.OPENERS)
    loop.train(experiment, home / "parts", None, runs.OPENERS)
    both = [load_hypernetwork(home / name, load_base(base).model, load_base(base).tokenizer)[0].args[0]
            for name in ("hyper", "parts")]  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, *both)
    jax.tree.map(np.testing.assert_array_equal, before, load_run(base).params)

    lines = [line for line in read_metrics(home / "hyper" / "metrics.jsonl") if "loss" in line]
    assert np.mean([x["loss"] for x in lines[-8:]]) < np.mean([x["loss"] for x in lines[:4]])
    assert 0.3 < lines[-1]["positions_left"] <= 1 and result["heldout_bits_per_byte"] > 0
    run = load_base(base)
    predictor, most_parts = load_hypernetwork(home / "hyper", run.model, run.tokenizer)
    assert most_parts == 4
    source, parts = source_of(run.model, run.params), pad_parts([(3, 4), (5,)], 4)
    moved = np.abs(predictor(source, parts).inputs - mean_of_parts(source, parts).inputs)
    assert moved.max() > 1e-4
    with pytest.raises(UserError, match="is a hypernetwork, which belongs to"):
        load_run(home / "hyper")


def test_a_hypernetwork_over_bytes_learns_too(home, base):
    loop.train(runs.hypernetwork(home, base, 3, "bytes"), home / "bytes", None, runs.OPENERS)
    run = load_base(base)
    predictor, _ = load_hypernetwork(home / "bytes", run.model, run.tokenizer)
    source, parts = source_of(run.model, run.params), pad_parts([(3, 4), (5,)], 4)
    moved = np.abs(predictor(source, parts).outputs - mean_of_parts(source, parts).outputs)
    assert moved.max() > 1e-5


def test_a_model_is_adapted_with_rows_of_every_kind(home, base):
    loop.train(runs.hypernetwork(home, base, steps=2), home / "rows", None, runs.OPENERS)
    rows = {name: np.asarray(load_run(base).params["embedding"]["table"]) for name in ("base",)}
    ways = {"mean": {}, "suffix": {"rows": "suffix"}, "hypernetwork": {"hypernetwork": str(home / "rows")}}
    for name, changes in ways.items():
        experiment = runs.adaptation(home, base, **changes)
        assert experiment.init == str(base)
        loop.train(experiment, home / name, None, runs.OPENERS)
        rows[name] = np.asarray(load_run(home / name).params["embedding"]["table"])
    for name in ("base", "suffix", "hypernetwork"):
        assert not np.array_equal(rows[name], rows["mean"])


def test_what_is_refused(home, base, tmp_path):
    experiment = runs.hypernetwork(home, base)
    with pytest.raises(UserError, match="this command cannot merge tokens"):
        make_objective(experiment)
    with pytest.raises(UserError, match="--set base=RUN"):
        Dynamic.open(dataclasses.replace(experiment, base=None))
    with pytest.raises(UserError, match="boundary 'line' is not known"):
        Dynamic.open(runs.hypernetwork(home, base, boundary="line"))
    with pytest.raises(UserError, match="trains one itself"):
        Dynamic.open(runs.hypernetwork(home, base, hypernetwork=str(home)))
    with pytest.raises(UserError, match="is no hypernetwork"):
        Dynamic.open(runs.adaptation(home, base, hypernetwork=str(base)))
    stack = dataclasses.replace(experiment.model.base.stack, hidden_size=32)
    wide = dataclasses.replace(experiment.model.base, stack=stack)
    other = dataclasses.replace(experiment, model=HypernetworkConfig(stack=HYPER_STACK, base=wide))
    with pytest.raises(UserError, match="was trained for another model: .* of width 32"):
        Dynamic.open(other)
    hat = tiny.experiment(tmp_path)
    training = dataclasses.replace(hat.training, objective=runs.MERGING)
    with pytest.raises(UserError, match="a HAT has none"):
        dataclasses.replace(hat, training=training)
    with pytest.raises(UserError, match="base is 'x', and only"):
        dataclasses.replace(hat, base="x")
    with pytest.raises(UserError, match="DynamicConfig alone"):
        dataclasses.replace(experiment, training=hat.training)
    loop.train(override_steps(hat), tmp_path / "hat")
    with pytest.raises(UserError, match="only tokens can be merged"):
        fit_to_base(dataclasses.replace(experiment, base=str(tmp_path / "hat")))


def override_steps(experiment):
    training = dataclasses.replace(experiment.training, steps=1)
    return dataclasses.replace(experiment, training=training)
