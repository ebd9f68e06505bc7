"""A cache of keys and values as the trees of hat.byte_exact use it, and parameters ready to use.

The caches of generation are in memory.py.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hat.models.model import LanguageModel, Params


class Cache(NamedTuple):
    """Keys and values [L, B, S, G, K]: layers, rows, slots, heads, head size."""

    keys: jax.Array
    values: jax.Array

    @property
    def size(self) -> int:
        return self.keys.shape[2]


def empty_cache(layers: int, rows: int, size: int, heads: int, head_size: int, dtype) -> Cache:
    """A cache of zeros; its slots are invisible until they are written."""
    shape = (layers, rows, size, heads, head_size)
    return Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def grow(cache: Cache, needed: int) -> Cache:
    """The cache itself where it has `needed` slots, else one doubled until it has.

    What it holds of its latest S positions stays; the caller must not look at older ones.
    """
    times = 1
    while cache.size * times < needed:
        times *= 2
    return cache if times == 1 else _repeat(cache, times)


@functools.partial(jax.jit, static_argnums=1)
def _repeat(cache: Cache, times: int) -> Cache:
    # Position p is in slot p % S, so among the copies there is one in slot p % (times * S).
    return jax.tree.map(lambda x: jnp.tile(x, (1, 1, times, 1, 1)), cache)


def compute_params(model: LanguageModel, params: Params) -> Params:
    """The parameters with their matrices in the compute dtype, once instead of every step."""
    return jax.jit(model.compute_params)(params)
