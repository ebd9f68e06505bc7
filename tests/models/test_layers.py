"""The gradients that the layers write out, against those that jax derives in float64; and what is
computed once."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hat.models.layers import StackConfig, product, rms_norm, rope_table, rotate

EPS = 1e-5


def plain_norm(x, scale):
    return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + EPS) * scale


CASES = {
    "product": (product, lambda x, kernel: x @ kernel, (8, 5)),
    "norm": (lambda x, scale: rms_norm(x, scale, EPS), plain_norm, (8,)),
}


@pytest.fixture(params=["cpu", "default"])
def platform(request, monkeypatch):
    """What is written for CPUs, and, run on one all the same, what is for all else."""
    if request.param == "default":
        monkeypatch.setattr(
            jax.lax, "platform_dependent", lambda *args, cpu, default: default(*args)
        )


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 8), (2, 3, 4, 8)])
def test_gradients_are_those_of_the_definition(name, shape):
    written, plain, of_parameter = CASES[name]
    rng = np.random.default_rng(0)
    x, parameter = rng.normal(size=shape), rng.normal(size=of_parameter)
    out = rng.normal(size=jax.eval_shape(plain, x, parameter).shape)

    with jax.enable_x64(True):
        value, pull = jax.vjp(plain, jnp.asarray(x), jnp.asarray(parameter))
        expected = [value, *pull(jnp.asarray(out))]

    cast = [jnp.float32(array) for array in (x, parameter, out)]
    value, pull = jax.vjp(written, *cast[:2])
    # Sums of at most 24 products of numbers near 1, each rounded to 2^-24 of itself.
    for found, right in zip([value, *pull(cast[2])], expected, strict=True):
        assert found.dtype == jnp.float32 and found.shape == right.shape
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("dtype, error", [(jnp.float32, 2e-5), (jnp.bfloat16, 0.02)])
@pytest.mark.parametrize("size, terms", {(512, 128): 2, (1024, 64): 4, (1023, 96): 0, (64, 8): 0}.items())
@pytest.mark.parametrize("leading", [(), (1,), (1, 1)])
def test_a_product_of_one_row_is_a_sum_of_products(size, terms, leading, dtype, error, request):
    """The same with its gradients, and on the CPU in as many terms as said."""
    rng = np.random.default_rng(0)
    x, kernel, out = (jnp.asarray(rng.normal(size=shape), dtype)
                      for shape in ((*leading, size[0]), size, (*leading, size[1])))  # fmt: skip
    with jax.enable_x64(True):
        value, pull = jax.vjp(jnp.matmul, *(x.astype(jnp.float64) for x in (x, kernel)))
        expected = [value, *pull(out.astype(jnp.float64))]

    value, pull = jax.vjp(product, x, kernel)
    for found, right in zip([value, *pull(out)], expected, strict=True):
        assert found.dtype == dtype and found.shape == right.shape
        # The square root of up to 1024 products of numbers near 1, each rounded at 2^-24 or 2^-8.
        np.testing.assert_allclose(
            found.astype(jnp.float32), right, rtol=error, atol=error * size[0] ** 0.5
        )

    if request.node.callspec.params["platform"] == "cpu":
        program = jax.jit(product).lower(x, kernel).as_text("hlo")
        split = {int(n) for n in re.findall(rf"\[([24]),\d+,{size[1]}\]", program)}
        assert split == ({terms} if terms else set())


def test_a_product_in_bfloat16_gives_gradients_in_bfloat16():
    x, kernel = jnp.ones((2, 3, 8), jnp.bfloat16), jnp.ones((8, 5), jnp.bfloat16)
    out, pull = jax.vjp(product, x, kernel)
    assert [array.dtype for array in (out, *pull(out))] == [jnp.bfloat16] * 3


STACK = StackConfig(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=8)


@pytest.mark.usefixtures("platform")
def test_the_table_of_rotations_is_its_cosines_and_sines():
    position = jnp.array([[0, 1, 1000, 999_999]])
    table = rope_table(position, STACK)
    angles = position[..., None, None] * 10_000.0 ** -(jnp.arange(0, 8, 2, dtype=jnp.float32) / 8)
    for found, right in zip(table, (np.cos(angles), np.sin(angles)), strict=True):
        assert found.shape == (1, 4, 1, 4)
        # float32: of cosines and sines an ulp or two. Angles of a million have seven digits in either.
        np.testing.assert_allclose(found, right, atol=1e-6)


def test_rotations_share_their_cosines():
    """However many heads and layers use the table, on the CPU too."""

    def rotated(x, position):
        table = rope_table(position, STACK)
        for layer in range(3):
            x = jnp.tanh(rotate(x, table) @ jnp.ones((8, 8)))
        return x

    compiled = jax.jit(rotated).lower(jnp.ones((1, 4, 2, 8)), jnp.zeros((1, 4), int)).compile()
    assert compiled.as_text().count(" cosine(") == 1
