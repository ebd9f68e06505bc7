from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from hat.errors import UserError
from hat.training.config import (
    CheckpointConfig,
    OptimizerConfig,
    PartConfig,
    SampleConfig,
    ScheduleConfig,
    TrainingConfig,
)
from hat.training.optimizer import (
    clip_by_global_norm,
    is_hidden_matrix,
    learning_rate,
    make_optimizer,
    multipliers,
    zero_frozen,
)

AXES = {
    "encoder": {
        "embedding": ("vocab", "embed"),
        "layers": {"up": {"kernel": ("layers", "embed", "mlp")}, "scale": ("layers", "embed")},
    },
    "backbone": {
        "layers": {"q": {"kernel": ("layers", "embed", "heads"), "bias": ("layers", "heads")}},
        "query": ("heads", None),
    },
    "head": {"kernel": ("embed", "vocab")},
}
SHAPES = {
    "encoder": {
        "embedding": (11, 6),
        "layers": {"up": {"kernel": (2, 6, 10)}, "scale": (2, 6)},
    },
    "backbone": {
        "layers": {"q": {"kernel": (3, 8, 4), "bias": (3, 4)}},
        "query": (2, 3),
    },
    "head": {"kernel": (6, 11)},
}
MATRICES = {("encoder", "layers", "up", "kernel"), ("backbone", "layers", "q", "kernel")}


def random_tree(seed: int):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: rng.normal(size=shape).astype(np.float32),
        SHAPES,
        is_leaf=lambda value: isinstance(value, tuple),
    )


def flat(tree):
    return {
        tuple(key.key for key in path): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


@functools.cache
def run(config: OptimizerConfig, steps: int = 6, rate: float = 0.03):
    """Parameters before and after `steps` updates with known gradients, the step's own formula."""
    optimizer = make_optimizer(config, AXES)
    params = random_tree(0)
    state = jax.jit(optimizer.init)(params)

    @jax.jit
    def step(params, state, grads, index, rate):
        factors = multipliers(config, params, index)
        updates, state = optimizer.update(zero_frozen(config, grads, index), state, params)
        params = jax.tree.map(lambda p, f, u: p + rate * f * u, params, factors, updates)
        return params, state

    history = [(params, state)]
    for index in range(steps):
        grads = random_tree(index + 1)
        params, state = step(params, state, grads, np.int32(index), np.float32(rate / (1 + index)))
        history.append((params, state))
    return history


def test_hidden_matrices_are_kernels_between_activations():
    named = jax.tree.leaves_with_path(AXES, is_leaf=lambda value: isinstance(value, tuple))
    found = {tuple(key.key for key in path) for path, axes in named if is_hidden_matrix(axes)}
    assert found == MATRICES


# --- AdamW ----------------------------------------------------------------------------------------


def test_adamw_equals_torch():
    config = OptimizerConfig(learning_rate=0.03, weight_decay=0.3, eps=1e-6)
    history = run(config, steps=6)
    mine = flat(history[-1][0])
    for name, start in flat(random_tree(0)).items():
        weight = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
        reference = torch.optim.AdamW(
            [weight],
            betas=(0.9, 0.95),
            eps=1e-6,
            weight_decay=0.3 if name in MATRICES else 0.0,
        )
        for index in range(6):
            for group in reference.param_groups:
                group["lr"] = 0.03 / (1 + index)
            weight.grad = torch.tensor(flat(random_tree(index + 1))[name], dtype=torch.float64)
            reference.step()
        # float32 against float64 over six steps of size 0.03
        np.testing.assert_allclose(mine[name], weight.detach().numpy(), atol=2e-6, err_msg=name)


def test_moments_can_be_bfloat16():
    for name in ("adamw", "muon"):
        config = OptimizerConfig(name=name, moment_dtype="bfloat16")
        state = make_optimizer(config, AXES).init(random_tree(0))
        moments = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim > 1]
        assert {leaf.dtype for leaf in moments} == {jnp.dtype("bfloat16"), jnp.dtype("float32")}
        assert all(leaf.dtype == jnp.bfloat16 for leaf in optax_moments(state, "mu"))


def optax_moments(state, name):
    found = []

    def visit(path, leaf):
        if any(getattr(key, "name", None) == name for key in path):
            found.append(leaf)

    jax.tree.map_with_path(visit, state)
    assert found
    return found


# --- Muon -----------------------------------------------------------------------------------------


def newton_schulz(matrix: np.ndarray, steps: int) -> np.ndarray:
    """Jordan et al. 2024: X <- aX + (bA + cA^2)X with A = XX^T, from X of Frobenius norm one."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (np.linalg.norm(x) + 1e-8)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


@pytest.mark.parametrize(("nesterov", "rms"), [(True, None), (False, 0.2)])
def test_muon_equals_numpy_matrix_by_matrix(nesterov, rms):
    config = OptimizerConfig(
        name="muon", learning_rate=0.03, weight_decay=0.1, muon_steps=4, muon_momentum=0.9,
        muon_nesterov=nesterov, muon_rms=rms,
    )  # fmt: skip
    mine = flat(run(config, steps=4)[-1][0])
    beta = 0.9
    for name in MATRICES:
        start = flat(random_tree(0))[name].astype(np.float64)
        for layer in range(start.shape[0]):  # no stack here: each matrix alone
            weight, momentum = start[layer], np.zeros_like(start[layer])
            fan_in, fan_out = weight.shape
            for t in range(1, 5):
                grad = flat(random_tree(t))[name][layer].astype(np.float64)
                momentum = beta * momentum + (1 - beta) * grad
                if nesterov:
                    direction = beta * momentum / (1 - beta ** (t + 1))
                    direction += (1 - beta) * grad / (1 - beta**t)
                else:
                    direction = momentum / (1 - beta**t)
                update = newton_schulz(direction, 4)
                if rms is None:
                    update = update * np.sqrt(max(1, fan_out / fan_in))
                else:
                    update = update * rms * np.sqrt(max(fan_in, fan_out))
                weight = weight - 0.03 / t * (update + 0.1 * weight)
            # Newton-Schulz amplifies float32 rounding of small singular values by up to 3.4^4
            np.testing.assert_allclose(mine[name][layer], weight, atol=1e-5, err_msg=str(name))


def test_muon_update_is_nearly_orthogonal():
    config = OptimizerConfig(name="muon", weight_decay=0.0)
    optimizer = make_optimizer(config, {"backbone": {"kernel": ("layers", "embed", "mlp")}})
    grads = {"backbone": {"kernel": np.random.default_rng(0).normal(size=(2, 16, 16))}}
    updates, _ = jax.jit(lambda g: optimizer.update(g, optimizer.init(g), g))(grads)
    for layer in range(2):
        values = np.linalg.svd(np.asarray(updates["backbone"]["kernel"][layer]))[1]
        assert values.max() < 1.3
        assert np.median(values) > 0.6


def test_muon_rest_is_adam_at_its_own_rate():
    adam = OptimizerConfig(learning_rate=0.03, weight_decay=0.0)
    muon = OptimizerConfig(name="muon", learning_rate=0.06, adam_learning_rate=0.03, muon_steps=2)
    expected = flat(run(adam, rate=0.03)[-1][0])
    mine = flat(run(muon, rate=0.06)[-1][0])
    for name in expected.keys() - MATRICES:
        np.testing.assert_allclose(mine[name], expected[name], atol=1e-6, err_msg=str(name))
    for name in MATRICES:
        assert np.abs(mine[name] - expected[name]).max() > 1e-3


def test_muon_is_that_of_optax():
    """The parts put together here give what optax.contrib.muon gives for the matrices."""
    config = OptimizerConfig(name="muon", weight_decay=0.1)
    axes = {"backbone": {"kernel": ("layers", "embed", "mlp")}}
    dimensions = {"backbone": {"kernel": optax.contrib.MuonDimensionNumbers(1, 2)}}
    theirs = optax.contrib.muon(
        1.0, weight_decay=0.1, muon_weight_dimension_numbers=dimensions, ns_steps=5
    )

    def three_updates(optimizer, params, gradients):
        state = optimizer.init(params)
        for index in range(3):
            grads = {"backbone": {"kernel": gradients[index]}}
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return params

    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(3, 3, 8, 12)).astype(np.float32)
    params = {"backbone": {"kernel": rng.normal(size=(3, 8, 12)).astype(np.float32)}}
    a, b = (
        jax.jit(functools.partial(three_updates, optimizer))(params, gradients)
        for optimizer in (make_optimizer(config, axes), theirs)
    )
    np.testing.assert_allclose(a["backbone"]["kernel"], b["backbone"]["kernel"], atol=1e-5)


# --- parts ----------------------------------------------------------------------------------------


def moments_of(state, part: str):
    """All state leaves under the part's name, in order."""
    return [
        np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(state)
        if any(getattr(key, "key", None) == part for key in path)
    ]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_frozen_part_waits_untouched_and_then_starts_fresh(name):
    parts = (PartConfig("backbone", freeze_until_step=3),)
    config = OptimizerConfig(name=name, learning_rate=0.03, muon_steps=2, parts=parts)
    history = run(config, steps=6)
    for params, state in history[:4]:  # updates 0, 1, 2 are the frozen ones
        for leaf, start in zip(
            jax.tree.leaves(params["backbone"]), jax.tree.leaves(history[0][0]["backbone"])
        ):
            np.testing.assert_array_equal(leaf, start)
        assert moments_of(state, "backbone")
        assert all((moment == 0).all() for moment in moments_of(state, "backbone"))
    assert any((moment != 0).any() for moment in moments_of(history[4][1], "backbone"))

    # From update 3 on it moves as if it had just been created.
    fresh = make_optimizer(dataclasses.replace(config, parts=()), AXES)
    params, update = history[0][0], jax.jit(fresh.update)
    state = jax.jit(fresh.init)(params)
    for index in range(3, 6):
        updates, state = update(random_tree(index + 1), state, params)
        rate = np.float32(0.03 / (1 + index))
        params = jax.tree.map(lambda p, u: p + rate * np.asarray(u), params, updates)
    for name_, leaf in flat(history[-1][0]["backbone"]).items():
        np.testing.assert_allclose(leaf, flat(params["backbone"])[name_], atol=1e-6)

    # The others never notice.
    free = run(dataclasses.replace(config, parts=()), steps=6)
    for part in ("encoder", "head"):
        for name_, leaf in flat(history[-1][0][part]).items():
            np.testing.assert_allclose(leaf, flat(free[-1][0][part])[name_], atol=1e-6)


def test_multipliers_are_those_of_the_parts():
    config = OptimizerConfig(
        parts=(PartConfig("encoder", 0.1), PartConfig("head", 2.0, 5), PartConfig("backbone", 0.0))
    )
    factors = jax.jit(lambda step: multipliers(config, random_tree(0), step))
    for step, head in ((0, 0.0), (4, 0.0), (5, 2.0), (6, 2.0)):
        tree = factors(step)
        assert jax.tree.structure(tree) == jax.tree.structure(random_tree(0))
        for part, factor in (("encoder", 0.1), ("head", head), ("backbone", 0.0)):
            assert {float(leaf) for leaf in jax.tree.leaves(tree[part])} == {
                float(np.float32(factor))
            }


def test_part_with_multiplier_zero_has_no_state_and_stays():
    config = OptimizerConfig(parts=(PartConfig("backbone", 0.0),))
    history = run(config, steps=3)
    assert not moments_of(history[-1][1], "backbone")
    for leaf, start in zip(
        jax.tree.leaves(history[-1][0]["backbone"]), jax.tree.leaves(history[0][0]["backbone"])
    ):
        np.testing.assert_array_equal(leaf, start)


def test_frozen_gradients_do_not_enter_the_norm():
    config = OptimizerConfig(parts=(PartConfig("backbone", freeze_until_step=2),))
    grads = random_tree(1)
    norm = jax.jit(lambda step: clip_by_global_norm(zero_frozen(config, grads, step), None)[1])
    norms = [norm(1), norm(2)]
    rest = {name: tree for name, tree in grads.items() if name != "backbone"}

    def expected(tree):
        return np.sqrt(sum((leaf.astype(np.float64) ** 2).sum() for leaf in flat(tree).values()))

    np.testing.assert_allclose(norms, [expected(rest), expected(grads)], rtol=1e-6)


def test_unknown_part_names_the_known_ones():
    config = OptimizerConfig(parts=(PartConfig("backbones", 0.1),))
    with pytest.raises(UserError, match="'backbones'.*backbone, encoder, head"):
        make_optimizer(config, AXES)


@pytest.mark.parametrize("max_norm", [0.5, 1e6, None])
def test_clip_by_global_norm(max_norm):
    grads = random_tree(3)
    clipped, norm = jax.jit(clip_by_global_norm, static_argnums=1)(grads, max_norm)
    total = np.sqrt(sum((leaf.astype(np.float64) ** 2).sum() for leaf in flat(grads).values()))
    np.testing.assert_allclose(norm, total, rtol=1e-6)
    scale = 1.0 if max_norm is None else min(1.0, max_norm / total)
    for name, leaf in flat(grads).items():
        np.testing.assert_allclose(flat(clipped)[name], leaf * scale, rtol=1e-5)


def test_clip_of_zero_and_of_nan():
    clip = jax.jit(clip_by_global_norm, static_argnums=1)
    clipped, norm = clip(jax.tree.map(np.zeros_like, random_tree(0)), 1.0)
    assert norm == 0 and all((leaf == 0).all() for leaf in jax.tree.leaves(clipped))
    grads = random_tree(0)
    grads["head"]["kernel"][0, 0] = np.nan
    assert not np.isfinite(clip(grads, 1.0)[1])


# --- the schedule ---------------------------------------------------------------------------------


def test_cosine_equals_optax():
    config = ScheduleConfig("cosine", warmup_fraction=0.1, final_fraction=0.05)
    reference = optax.warmup_cosine_decay_schedule(0.0, 1.0, 100, 1000, 0.05)
    for step in range(0, 1001, 50):
        assert learning_rate(config, step / 1000) == pytest.approx(float(reference(step)), abs=1e-5)


@pytest.mark.parametrize(("shape", "middle"), [("linear", 0.55), ("sqrt", 1 - 0.9 * 0.5**0.5)])
def test_wsd(shape, middle):
    config = ScheduleConfig("wsd", 0.1, final_fraction=0.1, decay_fraction=0.2, decay_shape=shape)
    values = [learning_rate(config, p) for p in (0.0, 0.05, 0.1, 0.5, 0.8, 0.9, 1.0, 1.5)]
    assert values == pytest.approx([0.0, 0.5, 1.0, 1.0, 1.0, middle, 0.1, 0.1])


def test_constant_and_no_warmup():
    assert learning_rate(ScheduleConfig("constant", 0.5), 0.25) == 0.5
    assert learning_rate(ScheduleConfig("constant", 0.5), 1.0) == 1.0
    assert learning_rate(ScheduleConfig("cosine", 0.0, final_fraction=0.0), 0.0) == 1.0
    assert learning_rate(ScheduleConfig("cosine", 1.0), 1.0) == 1.0
    assert learning_rate(ScheduleConfig("wsd", 0.0, decay_fraction=0.0), 1.0) == 1.0


# --- configs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: OptimizerConfig(name="adam"), "adamw"),
        (lambda: OptimizerConfig(learning_rate=0.0), "learning_rate=0.0"),
        (lambda: OptimizerConfig(learning_rate=float("nan")), "learning_rate=nan"),
        (lambda: OptimizerConfig(b2=1.0), "b2=1.0"),
        (lambda: OptimizerConfig(moment_dtype="float16"), "bfloat16"),
        (lambda: OptimizerConfig(adam_learning_rate=1e-3), "belongs to Muon"),
        (lambda: OptimizerConfig(parts=(PartConfig("a"), PartConfig("a"))), "twice"),
        (lambda: PartConfig("a", multiplier=-1.0), "multiplier=-1.0"),
        (lambda: PartConfig("a", freeze_until_step=-1), "freeze_until_step=-1"),
        (lambda: ScheduleConfig("linear"), "wsd"),
        (lambda: ScheduleConfig(warmup_fraction=1.5), "fraction"),
        (lambda: ScheduleConfig("wsd", 0.9, decay_fraction=0.2), "whole run"),
        (lambda: CheckpointConfig(every_seconds=0), "every_seconds=0"),
        (lambda: CheckpointConfig(every_steps=-1), "every_steps=-1"),
        (lambda: SampleConfig(temperature=-0.1), "temperature=-0.1"),
        (lambda: SampleConfig(top_p=0.0), "top_p=0.0"),
        (lambda: TrainingConfig(), "exactly one"),
        (lambda: TrainingConfig(steps=1, seconds=1.0), "exactly one"),
        (lambda: TrainingConfig(steps=0), "steps=0"),
        (lambda: TrainingConfig(steps=1, batch_size=3, accumulation_steps=2), "divide"),
        (lambda: TrainingConfig(steps=1, seed=-1), "seed=-1"),
    ],
)
def test_configs_refuse_nonsense_in_one_line(build, words):
    with pytest.raises(UserError, match=words) as caught:
        build()
    assert "\n" not in str(caught.value)
