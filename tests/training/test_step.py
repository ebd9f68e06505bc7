"""One step: accumulation, devices, donation, and the gradient that it takes."""

from __future__ import annotations

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hat.training import loop
from hat.training.config import MeshConfig
from hat.training.program import Program
from hat.training.sharding import unsharded_leaves
from tests.training import tiny
from tests.training.shared_program import SharedProgram

MESH = MeshConfig(fsdp=4, tensor=2)  # of every test that does not say otherwise: compiled once


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HAT_CACHE", str(tmp_path / "cache"))


def compiled(experiment) -> tuple[Program, loop.Loader]:
    training = experiment.training
    loader = loop.Loader(loop.prepare_corpus(experiment), training.batch_size, training.seed)
    program = SharedProgram(experiment, loader.shapes)
    program.compile()
    return program, loader


def on_mesh(experiment, mesh: MeshConfig = MESH):
    training = dataclasses.replace(experiment.training, mesh=mesh)
    return dataclasses.replace(experiment, training=training)


def run_steps(experiment, mesh: MeshConfig = MESH, steps: int = 3):
    """(nats per target of every step, parameters after them) on a mesh."""
    program, loader = compiled(on_mesh(experiment, mesh))
    state, nats = program.init(), []
    for index in range(steps):
        state, metrics = program.step(state, program.place(loader.batch(index)), 1e-3)
        nats.append(float(metrics.sums.nats / metrics.sums.targets))
    return np.array(nats), jax.device_get(state.params)


@pytest.mark.parametrize("name, make", [("adamw", tiny.experiment), ("muon", tiny.llama)])
def test_one_device_and_eight_agree(tmp_path, name, make):
    """fp32; sums over rows, heads and features are taken in another order on eight devices, some
    1e-7 relative an operation; Adam's sign-like first steps enlarge it in tiny gradients."""
    if jax.device_count() < 8:
        pytest.skip("needs 8 virtual devices, set by tests/conftest.py")
    experiment = make(tmp_path, f"training.optimizer.name={name}")
    nats, params = run_steps(experiment)
    with only_the_first_device():
        one_nats, one_params = run_steps(experiment, MeshConfig())
    np.testing.assert_allclose(nats, one_nats, atol=1e-4, rtol=0)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), params, one_params)
    assert max(jax.tree.leaves(moved)) < 1e-3  # of 3 updates of 1e-3 each


@contextlib.contextmanager
def only_the_first_device():
    devices = jax.devices
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *a: devices(*a)[:1])
        yield


@pytest.mark.parametrize("make, where", [
    (tiny.experiment, contextlib.nullcontext), (tiny.llama, only_the_first_device),
])  # fmt: skip
def test_accumulated_pieces_are_the_whole_batch(tmp_path, make, where):
    """The same sums in another order: equal to rounding, although the pieces differ in bytes."""
    with where():
        whole = run_steps(make(tmp_path, "training.batch_size=16"), MeshConfig())
        pieces = run_steps(
            make(tmp_path, "training.batch_size=16", "training.accumulation_steps=2"), MeshConfig()
        )
    np.testing.assert_allclose(whole[0], pieces[0], rtol=1e-5)


def test_the_state_is_donated_and_sharded(tmp_path):
    program, loader = compiled(on_mesh(tiny.experiment(tmp_path)))
    state = program.init()
    kernel = state.params["backbone"]["layers"]["mlp"]["gate"]["kernel"]
    assert not unsharded_leaves(program.state_shardings, program.abstract_state)
    assert len(kernel.sharding.device_set) == jax.device_count()
    program.step(state, program.place(loader.batch(0)), 1e-3)
    assert kernel.is_deleted()


def test_the_gradient_is_of_nats_per_target(tmp_path):
    """Against finite differences of the reported loss, along the gradient itself."""
    program, loader = compiled(on_mesh(tiny.experiment(tmp_path)))
    state = program.init()
    params = jax.device_get(state.params)
    batch = program.place(loader.batch(0))
    _, metrics = program.step(state, batch, 0.0)

    def loss(params):
        sums = program.model.loss(params, batch)
        return sums.nats / sums.targets

    loss = jax.jit(loss)
    gradient = jax.device_get(jax.jit(jax.grad(loss))(params))
    norm = float(metrics.grad_norm)
    expected = float(jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient))))
    assert norm == pytest.approx(expected, rel=1e-4)
    # A step of length 0.001 along the gradient: small beside the embeddings' 0.02, so that the
    # terms that a central difference leaves stay small; it changes the loss by 1e-2, whose fp32
    # rounding is 1e-6.
    h = 1e-3 / norm
    ahead, behind = (jax.tree.map(lambda p, g: p + s * h * g, params, gradient) for s in (1, -1))
    slope = (float(loss(ahead)) - float(loss(behind))) / (2 * h)
    assert slope == pytest.approx(norm**2, rel=2e-2)
