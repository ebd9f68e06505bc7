"""How a HAT is computed (scan, remat, precision, devices) changes nothing but rounding."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hat.models.connector import segment_softmax_pool
from hat.training.config import MeshConfig
from hat.training.sharding import batch_sharding, make_mesh, param_shardings
from tests.models import reference, toy


@functools.cache
def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    rows = [[toy.random_document(rng, 7), toy.random_document(rng, 5)] for _ in range(4)]
    rows[1] = []
    return reference.build_batch(rows, toy.GT, toy.GN)


@functools.cache
def logits_and_gradient(**changes):
    """Of the plain config with these fields changed, in float64."""
    _, _, params, run = toy.compiled_gradient("plain", **changes)
    logits, slopes = run(params, batch())
    return np.asarray(logits, np.float64), reference.float64(slopes)


@pytest.mark.parametrize(
    "changes",
    [
        dict(scan_layers=False),
        dict(remat="dots"),
        dict(remat="attention", attention="chunked"),
        dict(remat="full", scan_layers=False),
    ],
    ids=str,
)
def test_scan_and_remat_change_nothing(changes):
    """Programs differ in what they fuse, so in rounding: 6e-8 of numbers of size 1."""
    logits, slopes = logits_and_gradient()
    other_logits, other_slopes = logits_and_gradient(**changes)
    np.testing.assert_allclose(other_logits, logits, rtol=0, atol=1e-5)
    for a, b in zip(jax.tree.leaves(other_slopes), jax.tree.leaves(slopes), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_bfloat16_is_near_float32():
    """bfloat16 keeps 8 bits: some dozen roundings of 2^-9 leave 2 to 5 % in logits of size 1
    (measured: 2 % in logits, 2 % in the whole gradient)."""
    logits, slopes = logits_and_gradient()
    half_logits, half_slopes = logits_and_gradient(dtype="bfloat16")
    predicted = logits > -1e29
    assert (predicted == (half_logits > -1e29)).all()
    error = (half_logits - logits)[predicted]
    assert np.sqrt((error**2).mean()) < 0.05 * logits[predicted].std()
    a, b = (
        np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])
        for tree in (half_slopes, slopes)
    )
    assert np.linalg.norm(a - b) < 0.1 * np.linalg.norm(b)
    assert np.isfinite(a).all()


def test_bfloat16_logits_are_not_rounded_to_bfloat16():
    """Nats are differences of logits: 8 bits of a logit of 10 are an error of 0.03 nats."""
    logits, _ = logits_and_gradient(dtype="bfloat16")
    logits = logits[logits > -1e29].astype(np.float32)
    rounded = np.asarray(jnp.asarray(logits).astype(jnp.bfloat16), np.float32)
    assert (logits != rounded).mean() > 0.9


def test_long_words_are_pooled_as_exactly_as_short_ones():
    """From bfloat16 values, a word's sum is rounded once: by 2^-9 of it at most."""
    rng = np.random.default_rng(0)
    for length in (2, 100):
        word = np.repeat(np.arange(3), length)[None]
        scores = rng.normal(size=(1, 3 * length, 2)).astype(np.float32)
        values = jnp.asarray(1 + rng.random((1, 3 * length, 2, 8)), jnp.bfloat16)
        pooled = toy.jit(lambda *args: segment_softmax_pool(*args, 3))(scores, values, word)
        assert pooled.dtype == jnp.bfloat16
        weights = np.exp(scores.astype(np.float64)).reshape(3, length, 2)
        weights /= weights.sum(axis=1, keepdims=True)
        exact = np.asarray(values, np.float64).reshape(3, length, 2, 8)
        exact = np.einsum("nlh,nlhk->nhk", weights, exact)
        np.testing.assert_allclose(np.asarray(pooled[0], np.float64), exact, rtol=2**-8, atol=0)


def test_init_is_float32_and_a_function_of_the_key():
    model = toy.PLAIN.build()
    init = toy.jit(model.init)
    params, again, other = init(jax.random.key(0)), init(jax.random.key(0)), init(jax.random.key(1))
    for (path, leaf), same, new, abstract in zip(
        jax.tree.leaves_with_path(params),
        jax.tree.leaves(again),
        jax.tree.leaves(other),
        jax.tree.leaves(model.abstract_params()),
        strict=True,
    ):
        assert leaf.dtype == abstract.dtype == jnp.float32
        assert leaf.shape == abstract.shape
        np.testing.assert_array_equal(leaf, same)
        scale = "scale" in str(path[-1])
        assert (np.asarray(leaf) == 1).all() if scale else (np.asarray(leaf) != new).all(), path


@pytest.mark.skipif(
    len(jax.devices()) < 8, reason="needs XLA_FLAGS=--xla_force_host_platform_device_count=8"
)
def test_one_device_and_eight_agree():
    """Parameters split over fsdp=4 and tensor=2, rows over fsdp; in fp32, so only the order of
    sums differs."""
    _, model, params, run = toy.compiled_gradient("plain")
    logits, slopes = run(params, batch())
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2), jax.devices()[:8])
    shardings = param_shardings(mesh, model.logical_axes(), model.abstract_params())
    assert sum(not s.is_fully_replicated for s in jax.tree.leaves(shardings)) > 20
    params = jax.device_put(params, shardings)
    other_logits, other_slopes = run(params, jax.device_put(batch(), batch_sharding(mesh)))
    assert len(other_logits.sharding.device_set) == 8
    np.testing.assert_allclose(other_logits, logits, rtol=0, atol=1e-5)
    for a, b in zip(jax.tree.leaves(other_slopes), jax.tree.leaves(slopes), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
