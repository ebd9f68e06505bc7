"""Key-value caches that one position at a time is written to and attended over.

A cache of S slots holds position p in slot p % S. What a slot holds follows from the latest
position alone, so nothing but keys and values is stored, and a row that starts a new document at
position 0 sees nothing of the one before. With S = window the cache is a ring whose memory does
not depend on the length; without a window the caller makes room (`grow`) before S is exceeded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from hat.models.attention.plain import masked_attention
from hat.models.layers import StackConfig, rope_table
from hat.models.model import LanguageModel, Params


class Cache(NamedTuple):
    """Keys and values [L, B, S, G, K]: layers, rows, slots, heads, head size."""

    keys: jax.Array
    values: jax.Array

    @property
    def size(self) -> int:
        return self.keys.shape[2]


class Step(NamedTuple):
    """Where one step writes. position int [B]: the row's latest, this step's included; active
    bool [B]: whether the row takes part (the others keep their caches)."""

    position: jax.Array
    active: jax.Array


def empty_cache(layers: int, rows: int, size: int, heads: int, head_size: int, dtype) -> Cache:
    """A cache of zeros; its slots are invisible until they are written."""
    shape = (layers, rows, size, heads, head_size)
    return Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def stack_cache(config: StackConfig, rows: int, capacity: int, dtype) -> Cache:
    """The cache of a stack: a ring of its window, or `capacity` slots to begin with."""
    size = config.window or capacity
    return empty_cache(config.num_layers, rows, size, config.kv_heads, config.head_size, dtype)


def held_positions(size: int, latest: jax.Array) -> jax.Array:
    """The position in every slot, int [B, size], given each row's latest, int [B]; negative
    where a slot has not been written."""
    latest = latest[:, None]
    return latest - (latest - jnp.arange(size)) % size


def write(cache: Cache, layer, k: jax.Array, v: jax.Array, step: Step) -> Cache:
    """The cache with this step's k and v [B, 1, G, K] in the given layer of the active rows."""
    rows = jnp.arange(k.shape[0])
    slot = jnp.where(step.active, step.position % cache.size, cache.size)  # outside: dropped
    return Cache(
        cache.keys.at[layer, rows, slot].set(k[:, 0], mode="drop"),
        cache.values.at[layer, rows, slot].set(v[:, 0], mode="drop"),
    )


def run_cached_stack(
    apply: Callable,
    layers: nnx.Module,
    x: jax.Array,
    cache: Cache,
    step: Step,
    config: StackConfig,
    inputs: Any = None,
) -> tuple[jax.Array, Cache]:
    """One position through a stack: x [B, 1, d] -> x [B, 1, d] and the cache written.

    layers: a module whose parameters are [L, ...]; `x = apply(layer, x, rope, attention, input)`
    is called for each with its slice of `inputs` (a pytree of [L, ...] arrays).
    """
    graph, params = nnx.split(layers)
    rope = rope_table(step.position[:, None], config)
    visible = held_positions(cache.size, step.position)[:, None, :] >= 0

    def body(carry, xs):
        x, cache = carry
        index, layer_params, layer_inputs = xs

        def attention(q, k, v):
            nonlocal cache
            cache = write(cache, index, k, v, step)
            keys, values = cache.keys[index], cache.values[index]
            return masked_attention(q, keys, values, visible, config.logit_softcap)

        x = apply(nnx.merge(graph, layer_params), x, rope, attention, layer_inputs)
        return (x, cache), None

    xs = (jnp.arange(config.num_layers), params, inputs)
    return jax.lax.scan(body, (x, cache), xs)[0]


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
