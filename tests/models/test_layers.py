"""The gradients that the layers write out, against those that jax derives in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hat.models.layers import product, rms_norm

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


def test_a_product_in_bfloat16_gives_gradients_in_bfloat16():
    x, kernel = jnp.ones((2, 3, 8), jnp.bfloat16), jnp.ones((8, 5), jnp.bfloat16)
    out, pull = jax.vjp(product, x, kernel)
    assert [array.dtype for array in (out, *pull(out))] == [jnp.bfloat16] * 3
