"""Low-rank adaptation against its equation, and as runs that others read."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from hat.config import override
from hat.errors import UserError
from hat.inference.run import load_run
from hat.models.layers import StackConfig
from hat.models.llama import LlamaConfig
from hat.training import loop
from hat.training.checkpoints import Checkpoints, read_params
from hat.training.config import LoraConfig, MeshConfig, OptimizerConfig
from hat.training.low_rank import NAME, Factors, LowRank
from hat.training.metrics import read_metrics
from hat.training.objectives import Objective, make_objective
from hat.training.optimizer import make_optimizer
from hat.training.program import Program
from hat.training.sharding import make_abstract_mesh
from tests.models import reference, toy
from tests.training import test_preference, tiny

pytestmark = pytest.mark.usefixtures("quick_runs")

LORA = LoraConfig(rank=3, alpha=6.0)
LLAMA = LlamaConfig(
    StackConfig(16, 2, 4, 24, num_kv_heads=2, qk_norm=True, window=5, qkv_bias=True), 40,
    dtype="float32",
)  # fmt: skip
LENGTH = 12


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HAT_CACHE", str(tmp_path / "cache"))


def drawn(factors: Factors, seed: int = 0):
    """A and B none of which is zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32),
        factors.abstract_params(),
    )


def tokens(seed: int = 0) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(seed).integers(0, 40, (1, LENGTH)).astype(np.int32)
    ones = np.ones_like(ids)
    position = np.arange(LENGTH)[None]
    return {"tokens": ids, "segment": ones, "position": position, "token_bytes": ones}


def test_it_begins_as_the_model_it_departs_from():
    """Bit for bit, in the dtype that computes."""
    rng = np.random.default_rng(1)
    rows = [[toy.random_document(rng, 20)]]
    hats = [
        (dataclasses.replace(toy.PLAIN, dtype=dtype), reference.build_batch(rows, 32, 24))
        for dtype in ("float32", "bfloat16")
    ]
    for config, batch in (*hats, (LLAMA, tokens())):
        model = config.build()
        params = toy.random_params(model)
        factors = Factors(LORA, model)
        base = model.compute_params(params)
        whole = factors.add_to(base, factors.init(jax.random.key(0)))
        jax.tree.map(np.testing.assert_array_equal, whole, base)
        logits = toy.jit(model.logits)
        before = logits(params, batch)
        np.testing.assert_array_equal(logits(whole, batch), before)
        moved = factors.add_to(base, drawn(factors))
        assert np.abs(logits(moved, batch) - before).max() > 1e-2


class Unmerged:
    """What layers of kernels W, A and B make of a vector, one product after the other, float64."""

    __array_ufunc__ = None  # so that x @ self comes here

    def __init__(self, kernel, a, b, scale):
        self.kernel, self.a, self.b = (np.asarray(leaf, np.float64) for leaf in (kernel, a, b))
        self.scale = scale

    def __getitem__(self, layer):
        return Unmerged(self.kernel[layer], self.a[layer], self.b[layer], self.scale)

    def __rmatmul__(self, x):
        return x @ self.kernel + self.scale * ((x @ self.a) @ self.b)


@pytest.mark.parametrize("matrices", [LORA.matrices, ("q", "down")])
def test_the_sum_is_what_both_branches_give(matrices):
    """float32 logits of size 1 against a stack in float64 that never adds up the matrices."""
    model = LLAMA.build()
    params = toy.random_params(model)
    factors = Factors(dataclasses.replace(LORA, matrices=matrices), model)
    low = drawn(factors)
    batch = tokens()
    found = model.logits(factors.add_to(model.compute_params(params), low), batch)

    stack = reference.float64(params["backbone"])
    for group, its in low[NAME]["backbone"].items():
        for name, ab in its.items():
            kernel = stack[group][name]["kernel"]
            stack[group][name]["kernel"] = Unmerged(kernel, ab["a"], ab["b"], 6.0 / 3)
    assert {name for its in low[NAME]["backbone"].values() for name in its} == set(matrices)
    rest = reference.float64(params)
    x = reference.run_stack(LLAMA.stack, stack, rest["embedding"]["table"][batch["tokens"][0]])
    x = reference.rms_norm(x, rest["head"]["norm"]["scale"], LLAMA.stack.norm_eps)
    wanted = (x @ rest["head"]["projection"]["kernel"])[:, :40]
    np.testing.assert_allclose(found[0, :, :40], wanted, rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_the_matrix_through_the_sum(tmp_path):
    """dA = s dW B^T and dB = s A^T dW, dW that of the merged model; there is no other gradient."""
    experiment = dataclasses.replace(
        tiny.one_layer(tmp_path, "training.lora.rank=2", "init=nowhere"), model=LLAMA
    )
    objective = make_objective(experiment)
    model = LLAMA.build()
    base = toy.random_params(model)
    low, batch = drawn(objective.trained(model)), tokens()
    frozen = {"base": base, "inner": {}}
    found, (sums, _) = jax.grad(objective.loss(0, frozen), argnums=1, has_aux=True)(
        model, low, batch
    )
    whole = objective.whole(low, frozen)
    of_whole = jax.grad(lambda params: model.loss(params, batch).nats)(whole)
    assert sums.nats == model.loss(whole, batch).nats
    scale, names = 32.0 / 2, set()
    for group, its in found[NAME]["backbone"].items():
        for name, grads in its.items():
            of_w = np.asarray(of_whole["backbone"][group][name]["kernel"], np.float64)
            a, b = (np.asarray(low[NAME]["backbone"][group][name][x], np.float64) for x in "ab")
            size = np.abs(of_w).max() * scale
            np.testing.assert_allclose(
                grads["a"], scale * of_w @ b.swapaxes(1, 2), rtol=1e-4, atol=1e-5 * size)
            np.testing.assert_allclose(
                grads["b"], scale * a.swapaxes(1, 2) @ of_w, rtol=1e-4, atol=1e-5 * size)
            names.add(name)
    assert names == set(LORA.matrices) and set(found[NAME]) == {"backbone"}


def test_adam_takes_them_whatever_the_optimizer():
    factors = Factors(LORA, LLAMA.build())
    params = drawn(factors)
    grads = jax.tree.map(jnp.sin, params)
    adam = OptimizerConfig(learning_rate=1e-2, weight_decay=0.0)
    muon = OptimizerConfig(
        "muon", learning_rate=5e-2, adam_learning_rate=1e-2, weight_decay=0.3
    )  # decay is for matrices between activations
    updates = []
    for config in (adam, muon):
        optimizer = make_optimizer(config, factors.logical_axes())
        update, _ = optimizer.update(grads, optimizer.init(params), params)
        updates.append(jax.tree.map(lambda leaf: config.learning_rate * leaf, update))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *updates)


def test_each_lies_where_its_side_of_the_matrix_does(tmp_path):
    experiment = tiny.experiment(tmp_path, "training.lora.rank=4", "init=nowhere")
    mesh = make_abstract_mesh(MeshConfig(fsdp=2, tensor=2), 4)
    shapes = {name: (8, 64) for name in ("bytes", "segment", "position", "word", "guide")}
    shapes |= {name: (8, 32) for name in ("word_segment", "word_position")}
    program = Program(experiment, [shapes], mesh, make_objective(experiment))
    layer = program.state_shardings.params[NAME]["backbone"]["layers"]
    assert layer["attention"]["q"]["a"].spec == PartitionSpec(None, "fsdp", None)
    assert layer["attention"]["q"]["b"].spec == PartitionSpec(None, None, "tensor")
    assert layer["mlp"]["down"]["a"].spec == PartitionSpec(None, "tensor", None)
    assert layer["mlp"]["down"]["b"].spec == PartitionSpec(None, None, "fsdp")
    state = program.abstract_state
    trained = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    held = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert held == 2 * trained  # Adam's moments, and nothing else that has a size


# --- runs -----------------------------------------------------------------------------------------


def adapted(folder, steps: int = 6, *more: str):
    return tiny.one_layer(
        folder, f"init={folder / 'init'}", "training.lora.rank=4", f"training.steps={steps}",
        "training.schedule.name=constant", "training.log_every_steps=1",
        "training.optimizer.learning_rate=2e-2", *more,
    )  # fmt: skip


def test_a_run_learns_resumes_and_is_read_as_any_other(tmp_path):
    loop.train(tiny.one_layer(tmp_path, "training.steps=4"), tmp_path / "init")
    before = jax.tree.map(np.asarray, load_run(tmp_path / "init").params)
    result = loop.train(adapted(tmp_path), tmp_path / "whole")
    loop.train(adapted(tmp_path, 2), tmp_path / "parts")
    loop.train(adapted(tmp_path), tmp_path / "parts")
    both = [load_run(tmp_path / name) for name in ("whole", "parts")]
    jax.tree.map(np.testing.assert_array_equal, *(run.params for run in both))
    run = both[0]
    lines = [line for line in read_metrics(tmp_path / "whole" / "metrics.jsonl") if "loss" in line]
    assert lines[-1]["bits_per_byte"] < lines[0]["bits_per_byte"] - 0.1

    # The base has not moved; what the checkpoint calls the model is the sum.
    jax.tree.map(np.testing.assert_array_equal, before, load_run(tmp_path / "init").params)
    factors = Factors(run.experiment.training.lora, run.model)
    low, _ = read_params(tmp_path / "whole", factors.abstract_params())
    wanted = jax.tree.map(np.array, before)
    for group, its in low[NAME]["backbone"].items():
        for name, ab in its.items():
            wanted["backbone"][group][name]["kernel"] += (32 / 4) * (ab["a"] @ ab["b"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), run.params, wanted
    )
    for name in ("embedding", "head"):
        jax.tree.map(np.testing.assert_array_equal, run.params[name], before[name])
    ((corpus,),) = loop.prepare_corpus(run.experiment).corpora
    found = [run.model.loss(run.params, batch) for batch in corpus.batches("heldout", 8)]
    nats, spelled = (sum(float(getattr(x, name)) for x in found) for name in ("nats", "bytes"))
    bits = nats / spelled / math.log(2)
    assert bits == pytest.approx(result["heldout_bits_per_byte"], rel=1e-5)

    with pytest.raises(UserError, match=r"training\.lora\.rank: 4 \(run\) != 5 \(config\)"):
        loop.train(adapted(tmp_path, 8, "training.lora.rank=5"), tmp_path / "parts")
    with pytest.raises(UserError, match=r"training\.lora\.rank: 4 \(run\) != None \(config\)"):
        loop.train(adapted(tmp_path, 8, "training.lora.rank=none"), tmp_path / "parts")
    # The base is of step 4 of init, which has been trained on since.
    checkpoints = Checkpoints(tmp_path / "init")
    checkpoints.save(5, {"params": before}, {"experiment": {"model": {}}}, force=True)
    checkpoints.close()
    with pytest.raises(UserError, match=r"init_step: 4 \(checkpoint\) != 5 \(now\)"):
        loop.train(adapted(tmp_path, 8), tmp_path / "parts")


def test_preferences_are_learned_from_one_copy_of_the_base(tmp_path):
    make = tiny.one_layer
    loop.train(make(tmp_path, "training.steps=1"), tmp_path / "init")
    experiment = test_preference.experiment(
        make, tmp_path, str(tmp_path / "init"), 4, "training.lora.rank=4",
        "training.optimizer.learning_rate=1e-2",
    )  # fmt: skip
    assert set(make_objective(experiment).frozen) == {"base"}
    loop.train(experiment, tmp_path / "dpo")
    lines = [line for line in read_metrics(tmp_path / "dpo" / "metrics.jsonl") if "loss" in line]
    assert lines[0]["preference_loss"] == pytest.approx(np.log(2), rel=1e-6)
    assert lines[-1]["preference_loss"] < lines[0]["preference_loss"] - 0.02


def test_pieces_of_a_batch_add_up(tmp_path):
    """The gradient's norm in one piece and in two; fp32 sums in another order."""
    loop.train(tiny.one_layer(tmp_path, "training.steps=1"), tmp_path / "init")
    norms = []
    for pieces in (1, 2):
        experiment = adapted(tmp_path, 1, f"training.accumulation_steps={pieces}")
        loop.train(experiment, tmp_path / str(pieces))
        lines = read_metrics(tmp_path / str(pieces) / "metrics.jsonl")
        norms += [line["grad_norm"] for line in lines if "grad_norm" in line]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4) and norms[0] > 1e-3


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (dict(rank=0), "rank=0: it must be at least 1, or none"),
        (dict(rank=2, alpha=0.0), "alpha=0.0"),
        (dict(rank=2, alpha=math.nan), "alpha=nan"),
        (dict(rank=2, matrices=()), r"matrices=\(\): name one"),
        (dict(rank=17), "rank=17: backbone/attention/[kv] is a matrix of 16 by 8; set 8 at most"),
        (dict(rank=2, matrices=("q", "w")), "no 'w' with matrices to change; it has down, gate, k"),
        (dict(rank=2, parts=("encoder",)), "parts: the model has no 'encoder'.* it has backbone"),
        (dict(rank=2, parts=("head",)), "parts: the model has no 'head' with matrices"),
    ],
)
def test_what_cannot_be(changes, told):
    with pytest.raises(UserError, match=told):
        Factors(LoraConfig(**changes), LLAMA.build())


def test_matrices_that_are_not_in_the_parts():
    with pytest.raises(UserError, match="there is no gate in connector"):
        Factors(LoraConfig(rank=2, matrices=("gate",), parts=("connector",)), toy.PLAIN.build())


def test_a_base_is_needed(tmp_path):
    experiment = tiny.one_layer(tmp_path, "training.lora.rank=2")
    with pytest.raises(UserError, match="init is not set.*--set init=RUN"):
        LowRank(experiment, Objective())
    with pytest.raises(UserError, match="init: no checkpoint in"):
        loop.train(override(experiment, ["init=nowhere"]), tmp_path / "out")
    named = ("init=nowhere", "training.optimizer.name=adamw")
    assert make_objective(override(experiment, named)).frozen_axes["inner"] == {}
