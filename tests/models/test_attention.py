"""Attention against a loop over queries, and the block form against the dense one."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hat.models import attention
from hat.models.attention import plain
from tests.models import reference, toy

HEADS = {"one": (1, 1), "many": (3, 3), "grouped": (4, 2), "shared": (4, 1)}
K = 4


def inputs(rng, B, T, heads, groups):
    shapes = [(B, T, heads, K), (B, T, groups, K), (B, T, groups, K)]
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def random_segments(rng, B, T):
    """Documents in order, then padding; one row has none, another is all padding."""
    segment = np.sort(rng.integers(1, 5, (B, T)), axis=1)
    fill = rng.integers(0, T + 1, B)
    fill[0] = T
    return np.where(np.arange(T) < fill[:, None], segment, 0).astype(np.int32)


@functools.cache
def value_and_gradients(kernel, window, softcap):
    """(q, k, v, segment, weights) -> output, and the gradient of its weighted sum."""
    attend = getattr(attention, kernel)

    def run(q, k, v, segment, weights):
        def scalar(q, k, v):
            out = attend(q, k, v, segment=segment, window=window, softcap=softcap)
            return jnp.sum(out * weights), out

        return jax.value_and_grad(scalar, argnums=(0, 1, 2), has_aux=True)(q, k, v)

    return toy.jit(run)


@settings(max_examples=8, deadline=None)
@example(T=12, window=4, heads="grouped", softcap=None, seed=0)  # whole blocks
@example(T=5, window=9, heads="many", softcap=0.7, seed=1)  # less than one block
@given(
    T=st.integers(1, 20),
    window=st.integers(1, 24),
    heads=st.sampled_from(list(HEADS)),
    softcap=st.sampled_from([None, 0.7]),
    seed=st.integers(0, 2**16),
)
def test_blocks_equal_dense(T, window, heads, softcap, seed):
    """Values and gradients; only the order of sums differs, of numbers of size 1."""
    rng = np.random.default_rng(seed)
    q, k, v = inputs(rng, 3, T, *HEADS[heads])
    segment = random_segments(rng, 3, T)
    weights = jnp.asarray(rng.normal(size=q.shape), jnp.float32)
    arguments = (q, k, v, segment, weights)
    (_, dense), slopes = value_and_gradients("attend_dense", window, softcap)(*arguments)
    (_, blocks), block_slopes = value_and_gradients("attend_blocks", window, softcap)(*arguments)
    np.testing.assert_allclose(blocks, dense, rtol=0, atol=2e-6)
    for a, b in zip(block_slopes, slopes, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", [None, 1, 4, 40])
@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("heads", ["many", "grouped"])
def test_attend_equals_a_loop_over_queries(window, softcap, heads):
    B, T = 2, 11
    rng = np.random.default_rng(0)
    H, G = HEADS[heads]
    q, k, v = inputs(rng, B, T, H, G)
    segment = random_segments(rng, B, T)
    run = functools.partial(attention.attend, window=window, softcap=softcap)
    got = np.asarray(toy.jit(run)(q, k, v, segment=segment))
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    for b in range(B):
        for t in range(T):
            seen = [s for s in range(t + 1) if segment[b, s] == segment[b, t]]
            seen = [s for s in seen if window is None or t - s < window]
            for h in range(H):
                g = h // (H // G)
                expected = reference.attention(q[b, t, h], k[b, seen, g], v[b, seen, g], softcap)
                np.testing.assert_allclose(got[b, t, h], expected, rtol=0, atol=2e-6)


def test_attend_takes_the_block_form_only_where_it_is_less_work():
    """The scores that are computed, counted in the program's shapes."""

    def scores(T, window):
        q, k, v = inputs(np.random.default_rng(0), 1, T, 1, 1)
        run = functools.partial(attention.attend, segment=jnp.ones((1, T), int), window=window)
        products = [
            equation.outvars[0].aval.size
            for equation in jax.make_jaxpr(run)(q, k, v).eqns
            if equation.primitive.name == "dot_general"
        ]
        return max(products)

    assert scores(64, None) == 64 * 64
    assert scores(64, 4) == 64 * 8
    for window in range(1, 65):  # never more than the dense form
        assert scores(64, window) <= 64 * 64


def test_a_query_without_keys_gives_a_mean_and_no_nan():
    rng = np.random.default_rng(0)
    q, k, v = inputs(rng, 1, 3, 2, 2)
    out = plain.masked_attention(q, k, v, jnp.zeros((1, 3, 3), bool))
    np.testing.assert_allclose(out, jnp.broadcast_to(v.mean(axis=1), out.shape), atol=1e-6)


def test_result_has_the_dtype_of_the_values_and_scores_are_float32():
    """In bfloat16 only inputs, weights and result are rounded: 2^-8 each, of numbers of size 1."""
    rng = np.random.default_rng(1)
    q, k, v = inputs(rng, 2, 12, 2, 1)
    segment = random_segments(rng, 2, 12)
    half = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    exact = [x.astype(jnp.float32) for x in half]
    got = attention.attend(*half, segment=segment, window=5)
    assert got.dtype == jnp.bfloat16
    expected = attention.attend(*exact, segment=segment, window=5)
    np.testing.assert_allclose(got.astype(jnp.float32), expected, rtol=0, atol=2e-2)
