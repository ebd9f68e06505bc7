"""What the parts between bytes and words hold while they run; their values are tested against the
reference in test_hat_reference."""

from __future__ import annotations

import dataclasses

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from hat.models.connector import Connector
from hat.models.layers import rope_table, rotate
from tests.models import toy

B, T, N = 2, 53, 17
CONFIG = dataclasses.replace(
    toy.PLAIN, backbone=dataclasses.replace(toy.PLAIN.backbone, hidden_size=48)
)
d, D = 16, 48


def shapes(function, *arguments) -> set[tuple[int, ...]]:
    """Of every array that a program makes, forward and backward, in its loops too."""

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            yield from (tuple(out.aval.shape) for out in equation.outvars)
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                yield from walk(inner)

    def gradient(*arguments):
        out, backward = jax.vjp(function, *arguments)
        return backward(out)

    return set(walk(jax.make_jaxpr(gradient)(*arguments).jaxpr))


def test_connector_and_guides_hold_nothing_wider_than_they_need():
    """The connector: nothing of words by bytes, nor of bytes at the words' width D. The decoder:
    guides are gathered at its own width d."""
    model = CONFIG.build()
    params = toy.random_params(model)
    x, words = jnp.zeros((B, T, d)), jnp.zeros((B, N, D))
    rows = jnp.zeros((B, T), int)

    def connector(params, x):
        return model.module(params).connector(x, rows, rows, jnp.zeros((B, N), int))

    def decoder(params, x, words):
        return model.module(params).decoder(x, words, rows, rows, rows)

    found = shapes(connector, params, x)
    assert (B, T, 4, 6) in found and (B, N, D) in found
    flat = {B * T, B * (N + 1)}  # rows end to end, as the segment sums see them
    for shape in found:
        assert not {T, N} <= set(shape) and not {T, D} <= set(shape)
        assert len(flat & set(shape)) < 2 and not (flat & set(shape) and D in shape)

    found = shapes(decoder, params, x, words)
    assert (B, T, d) in found and (B, N + 1, D) in found
    assert not any(T in shape and D in shape for shape in found)


def test_rotated_keys_score_as_a_rotated_query_does():
    """Query by the word's index and key by the byte's, as published, or the key by the difference:
    equal but for rounding, of numbers of size 1, at the positions of a long document too."""
    module = CONFIG.build().module(toy.random_params(CONFIG.build()))
    connector: Connector = module.connector
    rng = np.random.default_rng(0)
    position = jnp.asarray(np.sort(rng.integers(0, 20_000, (B, T)), axis=1))
    index = position // 5
    keys = jnp.asarray(rng.normal(size=(B, T, 4, 6)), jnp.float32)
    query = connector.shared_query()
    rotated = rotate(
        jnp.broadcast_to(query, keys.shape), rope_table(index, connector.rope)
    )
    expected = jnp.sum(rotated * rotate(keys, rope_table(position, connector.rope)), axis=-1)
    found = jnp.sum(query * connector.rotate_keys(keys, position, index), axis=-1)
    # angles up to 20,000 radians are 2^-10 fine in float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-2)
    assert np.abs(expected).max() > 1
