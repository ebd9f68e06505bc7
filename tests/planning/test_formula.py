"""Plans by formula: memory against arrays that are there, work against what it must add up to."""

from __future__ import annotations

import dataclasses

import jax
import pytest

from hat.config import override
from hat.errors import UserError
from hat.planning.formula import plan_by_formula
from hat.planning.report import advice, as_dict, shortfall, table, text
from hat.planning.step import batch_shapes, outline
from hat.planning.sweep import REMATS, candidates, sweep
from hat.planning.topology import Topology, parse_topology
from hat.text.rows import empty_row, expand_tokens, expand_words
from hat.training.chips import CHIPS
from hat.training.program import Program
from tests.training import tiny

POD = parse_topology("v5e:2x4")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return tiny.experiment(tmp_path_factory.mktemp("text"), "training.mesh.tensor=2")


@pytest.fixture(scope="module")
def plan(experiment):
    return plan_by_formula(experiment, POD, outline(experiment, POD))


def test_batches_are_those_of_the_loader(experiment, tmp_path):
    data, rows = experiment.data, experiment.training.batch_size
    row = expand_words(empty_row(True), data.row_length, data.row_words)
    assert batch_shapes(experiment) == {name: (rows, *a.shape) for name, a in row.items()}
    llama = tiny.llama(tmp_path)
    row = expand_tokens(empty_row(False), llama.data.row_length, jax.numpy.zeros(9, int), 0)
    assert batch_shapes(llama) == {name: (rows, *a.shape) for name, a in row.items()}


@pytest.mark.skipif(jax.device_count() != 8, reason="needs 8 virtual devices")
def test_state_is_what_a_device_holds(experiment, plan):
    """To the byte, the step counter aside."""
    state = Program(experiment, [batch_shapes(experiment)]).init()

    def held(tree):
        return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))

    assert plan.memory["parameters"] == held(state.params)
    assert plan.memory["optimizer"] == held(state.opt_state)


def test_work_is_shared_by_all_chips(experiment, plan):
    whole = outline(experiment, POD)
    rows = experiment.training.batch_size
    assert plan.work.flops * POD.num_chips == pytest.approx(rows * whole.row.total_flops)
    assert plan.model_flops * POD.num_chips == pytest.approx(rows * whole.model_flops)
    assert plan.mfu == plan.model_flops / plan.times.step / 197e12
    assert plan.positions_per_second == rows * experiment.data.row_length / plan.times.step


def test_collectives_of_one_row_by_hand(experiment, plan):
    """Mesh (1, 4, 2): each chip gathers half of all parameters over 4, in float32 here, once
    forward and once backward, and scatters the sums of their gradients."""
    traffic = {(one.kind, *one.axes): one for one in plan.work.traffic}
    half = sum(experiment.model.build().parameter_counts().values()) * 4 / 2
    assert traffic["all-gather", "fsdp"].bytes == 2 * half * 3 / 4
    assert traffic["reduce-scatter", "fsdp"].bytes == half * 3 / 4
    # A chip's 2 rows pass 2 blocks of 64 x 16 and 2 of 32 x 32, summed over 2 chips 4 times.
    streams = 2 * (2 * 64 * 16 + 2 * 32 * 32) * 4
    assert traffic["all-reduce", "tensor"].bytes == 4 * 2 * streams / 2
    assert len(traffic) == 3


def test_over_many_chips_gradients_are_summed_whole(experiment):
    """As libtpu compiles it: twice the bytes, and over a whole torus of three dimensions the
    gathers too, twice theirs."""

    wide = override(experiment, [
        "training.mesh.tensor=1", "training.batch_size=512", "model.encoder.hidden_size=512",
        "model.decoder.hidden_size=512", "model.backbone.hidden_size=512",
    ])  # fmt: skip
    of_any_mesh = outline(wide, POD)
    weights = sum(wide.model.build().parameter_counts().values()) * 4

    def traffic(topology, replica, fsdp):
        mesh = [f"training.mesh.replica={replica}", f"training.mesh.fsdp={fsdp}"]
        work = plan_by_formula(override(wide, mesh), parse_topology(topology), of_any_mesh).work
        found = {}
        for one in work.traffic:
            if one.axes == ("fsdp",):
                key = one.kind, one.hidden
                found[key] = found.get(key, 0) + one.bytes * fsdp / (fsdp - 1) / weights
        return {key: pytest.approx(value) for key, value in found.items()}

    gathers = {("all-gather", True): 2}
    assert gathers | {("reduce-scatter", False): 1} == traffic("v5p:8x8x8", 4, 128)
    assert gathers | {("all-reduce", False): 2} == traffic("v5p:8x8x8", 2, 256)
    assert {("all-reduce", False): 2 + 4} == traffic("v5p:8x8x8", 1, 512)
    assert gathers | {("all-reduce", False): 2} == traffic("v5e:16x16", 1, 256)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("training.mesh.tensor=3", "does not fit 8 devices"),
        ("training.mesh.tensor=4", "tensor=4 does not divide num_heads 2"),
        ("training.batch_size=6", "do not divide over 4 devices"),
    ],
)
def test_what_does_not_divide(experiment, change, complaint):
    changed = override(experiment, [change])
    with pytest.raises(UserError, match=complaint) as error:
        plan_by_formula(changed, POD, outline(experiment, POD))
    assert "\n" not in str(error.value)


def test_advice_names_the_axis(plan):
    full = Topology(dataclasses.replace(CHIPS["h100"], hbm_bytes=1.0), (8,))
    state, activations = {"parameters": 9.0, "optimizer": 9.0}, {"temporaries": 9.0}
    none = {"parameters": 0.0, "optimizer": 0.0}

    def said(memory, **changes):
        return advice(dataclasses.replace(plan, topology=full, memory=memory, **changes))

    replicas = {"replica": 2, "fsdp": 2, "tensor": 2}
    assert "replica" in said(state | activations, mesh=replicas)
    assert "more chips" in said(state | activations)
    assert "accumulation_steps" in said(none | activations)
    assert "remat=full" in said(none | activations, accumulation_steps=2, remat="dots")
    assert "tensor" in said(none | activations, accumulation_steps=2, remat="full")
    line = shortfall(dataclasses.replace(plan, topology=full, memory=state))
    assert "\n" not in line and "h100" in line


def test_sweep(experiment):
    """The best by formula are compiled until enough fit; what did not fit comes last."""
    outlines = {
        remat: outline(override(experiment, [f"model.remat={remat}"]), POD)
        for remat in REMATS
    }
    seen = []

    def compile_plan(candidate, plan):
        seen.append(candidate)
        needed = 1e15 if len(seen) == 1 else 1.0
        return dataclasses.replace(plan, compiled=True, memory={"temporaries": needed})

    plans = sweep(experiment, POD, outlines, 2, compile_plan, lambda line: None)
    assert len(seen) == 3 and sum(plan.compiled for plan in plans) == 3
    assert [plan.fits for plan in plans] == [True] * (len(plans) - 1) + [False]
    speeds = [plan.positions_per_second for plan in plans[:-1]]
    assert speeds == sorted(speeds, reverse=True)
    assert len(table(plans).splitlines()) == len(plans) + 2 and "does not fit" in table(plans)
    for plan in plans:
        assert plan.batch_size % plan.accumulation_steps == 0
        assert as_dict(plan)["bytes_per_second"] == plan.positions_per_second
    small = Topology(dataclasses.replace(CHIPS["h100"], hbm_bytes=1000.0), (8,))
    with pytest.raises(UserError, match="no layout of tiny fits"):
        sweep(experiment, small, outlines, 0, compile_plan, lambda line: None)


def test_candidates_differ_and_divide(experiment):
    found = list(candidates(experiment, POD))
    assert len(set(found)) == len(found) > 20
    assert {c.training.batch_size for c in found} == {4, 8, 16}
    for candidate in found:
        mesh = candidate.training.mesh
        assert mesh.replica * mesh.fsdp * mesh.tensor == 8
        rows = candidate.training.batch_size // candidate.training.accumulation_steps
        assert rows % (mesh.replica * mesh.fsdp) == 0


def test_text_says_what_it_rests_on(plan):
    lines = text("tiny", plan)
    for word in ("HBM per chip", "all-gather", "MFU", "formula", "never measured", "bytes/s"):
        assert word in lines
