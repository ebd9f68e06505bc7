"""Plans of steps with an objective: batches, what they hold that is not trained, stages."""

from __future__ import annotations

import dataclasses

import jax
import pytest

from hat.config import override
from hat.data.loader import Loader
from hat.dynamic_tokenization.base import fit_to_base
from hat.dynamic_tokenization.objective import Dynamic
from hat.errors import UserError
from hat.models.flops import TRAINING_FACTOR
from hat.planning.formula import plan_by_formula
from hat.planning.report import text
from hat.planning.step import annotated_shapes, batch_shapes, outline, planned_objective
from hat.planning.topology import parse_topology
from hat.training import loop
from hat.training.config import DynamicConfig
from hat.training.converted_run import write_run
from hat.training.distill_config import ByteCrossEntropy, DistillConfig, NextBytes
from hat.training.objectives import Openers, make_objective
from hat.training.program import Program
from tests.dynamic_tokenization.models import row_config
from tests.models.toy import random_params
from tests.training import test_preference, tiny

POD = parse_topology("v5e:2x4")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """base/: the run of a Llama with its tokenizer, as teachers and bases of merging are."""
    home = tmp_path_factory.mktemp("plans")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAT_CACHE", str(home / "cache"))
        llama = tiny.llama(home)
        (home / "base").mkdir()
        write_run(home / "base", llama, random_params(llama.model.build()))
        loop.prepare_corpus(llama).tokenizer.save(home / "base")
        yield home


@pytest.fixture(autouse=True)
def cache(home, monkeypatch):
    monkeypatch.setenv("HAT_CACHE", str(home / "cache"))


def with_objective(experiment, objective, **changes):
    training = dataclasses.replace(experiment.training, objective=objective)
    return dataclasses.replace(experiment, training=training, **changes)


def distilled(home, *terms):
    config = DistillConfig(str(home / "base"), terms, bytes_per_token=1.25)
    return with_objective(tiny.experiment(home), config)


def merged(home):
    config = DynamicConfig(most_merges=24, pool_rows=16, sample_rows=4, most_parts=4)
    return fit_to_base(with_objective(tiny.llama(home), config, base=str(home / "base")))


def preferring(home):
    return test_preference.experiment(tiny.one_layer, home, "nowhere")


def low_rank(experiment):
    init = experiment.init or "nowhere"
    return override(experiment, ["training.lora.rank=4", f"init={init}"])


EXPERIMENTS = {
    "preference": preferring,
    "merged tokens": merged,
    "a teacher": lambda home: distilled(home, NextBytes()),
    "low rank": lambda home: low_rank(tiny.experiment(home)),
    "merged tokens, low rank": lambda home: low_rank(merged(home)),
    "preference, low rank": lambda home: low_rank(preferring(home)),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_batches_are_those_of_training(home, name):
    experiment = EXPERIMENTS[name](home)
    objective = make_objective(experiment, Openers(dynamic=Dynamic.open))
    size = experiment.training.batch_size
    loader = Loader(loop.prepare_corpus(experiment), size, 0, annotate=objective.annotate)
    assert annotated_shapes(experiment, planned_objective(experiment)) == loader.shapes[0]


@pytest.mark.skipif(jax.device_count() != 8, reason="needs 8 virtual devices")
@pytest.mark.parametrize("name", ["low rank", "preference"])
def test_what_a_device_holds(home, name):
    """To the byte, the step counter aside."""
    experiment = EXPERIMENTS[name](home)
    plan = plan_by_formula(experiment, POD, outline(experiment, POD))
    objective = make_objective(experiment)
    program = Program(experiment, [batch_shapes(experiment)], None, objective)
    state = program.init()
    model = program.model
    base = jax.jit(
        lambda key: model.compute_params(model.init(key)),
        out_shardings=program._frozen_shardings.get("base", program._frozen_shardings),
    )(jax.random.key(0))

    def held(tree):
        return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))

    assert plan.memory["parameters"] == held(state.params)
    assert plan.memory["optimizer"] == held(state.opt_state)
    assert plan.memory["frozen"] == held(base)
    assert "frozen" in text("name", plan) and plan.state.keys() == {*plan.memory} - {"temporaries"}


def test_low_rank_rows_cost_what_other_rows_do(home):
    """And their plan leaves room for the sums and for the sums' gradients."""
    plain = tiny.experiment(home)
    plans = [plan_by_formula(x, POD, outline(x, POD)) for x in (plain, low_rank(plain))]
    assert plans[0].work.flops == plans[1].work.flops
    less = plans[0].memory["parameters"] - plans[1].memory["parameters"]
    per_byte = 2.0 + 4 / 4  # of parameters: their gradients, and a copy of the dtype that computes
    assert plans[1].memory["temporaries"] == pytest.approx(
        plans[0].memory["temporaries"] - per_byte * less + 2 * plans[1].memory["frozen"]
    )


def test_a_plain_step_holds_nothing_else(home):
    experiment = tiny.one_layer(home)
    plan = plan_by_formula(experiment, POD, outline(experiment, POD))
    assert set(plan.memory) == {"parameters", "optimizer", "temporaries"}


def test_the_dearest_stage_is_planned(home):
    """The teacher comes in at step 5; its forward pass is then a part of every row."""
    alone = outline(distilled(home, ByteCrossEntropy()), POD)
    later = outline(distilled(home, ByteCrossEntropy(), NextBytes(from_step=5)), POD)
    always = outline(distilled(home, ByteCrossEntropy(), NextBytes()), POD)
    assert later.row.flops == always.row.flops > 1.1 * alone.row.flops
    assert any("not trained" in what for what in later.row.uncounted)
    assert later.model_flops == alone.model_flops > TRAINING_FACTOR


def test_a_hypernetwork_is_refused(home):
    base = merged(home)
    experiment = dataclasses.replace(base, model=row_config("parts"), init=None)
    with pytest.raises(UserError, match="once a step and not once a row"):
        outline(fit_to_base(experiment), POD)
