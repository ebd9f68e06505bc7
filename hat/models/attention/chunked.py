"""Attention in plain XLA whose memory grows linearly with the row, whatever the window.

The softmax is taken chunk by chunk of the keys and corrected when a larger score appears; the
backward pass computes the scores again (FlashAttention-2, arXiv 2307.08691, algorithms 1 and 2).
Pairs of chunks of which neither sees the other are left out: without a window that is nearly half.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from hat.models.attention.plain import KEPT, NEGATIVE, causal

# Positions. Larger ones mask more of the diagonal, smaller ones take more steps; on a CPU 128 to
# 512 are about as fast, and from 512 positions on several times faster than the dense form.
CHUNK = 256


def attend_chunked(q, k, v, *, segment, window=None, softcap=None, chunk=CHUNK) -> jax.Array:
    """Shapes and meaning as in `attend`; memory is O(T * chunk)."""
    batch, length, heads, head_dim = q.shape
    groups = k.shape[2]
    chunk = min(chunk, length)
    chunks = -(-length // chunk)

    def split(x, groups):  # [B, T, groups * R, K] -> [chunks, B, groups, R * chunk, K]
        x = jnp.pad(x, [(0, 0), (0, chunks * chunk - length), (0, 0), (0, 0)])
        x = x.reshape(batch, chunks, chunk, groups, -1, head_dim)
        x = x.transpose(1, 0, 3, 4, 2, 5)
        return x.reshape(chunks, batch, groups, -1, head_dim)

    # What pads the row is no document's.
    segment = jnp.pad(segment, [(0, 0), (0, chunks * chunk - length)], constant_values=-1)
    segment = segment.reshape(batch, chunks, chunk).swapaxes(0, 1)
    out = _attend((window, softcap), split(q, groups), split(k, groups), split(v, groups), segment)
    out = out.reshape(chunks, batch, groups, heads // groups, chunk, head_dim)
    out = out.transpose(1, 0, 4, 2, 3, 5)
    return out.reshape(batch, chunks * chunk, heads, head_dim)[:, :length]


class Pairs(NamedTuple):
    """A chunk of queries and a chunk of keys that some of them see, int32 [pairs] each, in the
    order of the queries, then of the keys; `first` bool: whether the queries are new."""

    query: np.ndarray
    key: np.ndarray
    first: np.ndarray


def visible_pairs(chunks: int, chunk: int, window: int | None) -> Pairs:
    reach = chunks if window is None else -(-(window - 1) // chunk)  # chunks before its own
    pairs = [(i, j, j == max(0, i - reach)) for i in range(chunks)
             for j in range(max(0, i - reach), i + 1)]  # fmt: skip
    query, key, first = zip(*pairs)
    return Pairs(np.array(query, np.int32), np.array(key, np.int32), np.array(first))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(rule, q, k, v, segment) -> jax.Array:
    """rule: (window, softcap); q [n, B, G, R * c, K], k and v [n, B, G, c, K], segment int
    [n, B, c] -> [n, B, G, R * c, K] in the dtype of v."""
    return _forward(rule, q, k, v, segment)[0]


def _forward(rule, q, k, v, segment):
    pairs = visible_pairs(len(k), k.shape[3], rule[0])
    *rows, _ = q.shape[1:]

    def add(carry, pair):
        top, total, sums, out, log_total = carry
        i, j, first = pair
        top = jnp.where(first, NEGATIVE, top)
        total, sums = jnp.where(first, 0.0, total), jnp.where(first, 0.0, sums)
        scores, visible, _ = _scores(rule, q[i], k[j], segment, i, j)
        new_top = jnp.maximum(top, jnp.max(scores, axis=-1, where=visible, initial=NEGATIVE))
        weights = jnp.where(visible, jnp.exp(scores - new_top[..., None]), 0.0)
        shrink = jnp.exp(top - new_top)
        total = total * shrink + jnp.sum(weights, axis=-1)
        sums = sums * shrink[..., None] + _product("bgqs,bgsk->bgqk", weights.astype(v.dtype), v[j])
        # What is written before the last keys of a chunk of queries is written over. Until one is
        # visible the total is 0; in the end every query has seen itself.
        out = out.at[i].set((sums / jnp.maximum(total, 1e-30)[..., None]).astype(out.dtype))
        log_total = log_total.at[i].set(new_top + jnp.log(jnp.maximum(total, 1e-30)))
        return (new_top, total, sums, out, log_total), None

    carry = (
        jnp.zeros(rows), jnp.zeros(rows), jnp.zeros(q.shape[1:]),
        jnp.zeros(q.shape, v.dtype), jnp.zeros(q.shape[:-1]),
    )  # fmt: skip
    (*_, out, log_total), _ = jax.lax.scan(add, carry, pairs)
    out, log_total = checkpoint_name((out, log_total), KEPT)
    return out, (q, k, v, segment, out, log_total)


def _backward(rule, residuals, gradient):
    q, k, v, segment, out, log_total = residuals
    pairs = visible_pairs(len(k), k.shape[3], rule[0])
    along = _product("nbgqk,nbgqk->nbgq", out, gradient)

    def add(carry, pair):
        of_q, of_k, of_v = carry
        i, j, _ = pair
        scores, visible, slope = _scores(rule, q[i], k[j], segment, i, j)
        weights = jnp.where(visible, jnp.exp(scores - log_total[i][..., None]), 0.0)
        of_weights = _product("bgqk,bgsk->bgqs", gradient[i], v[j])
        of_scores = (weights * (of_weights - along[i][..., None]) * slope).astype(q.dtype)
        weights = weights.astype(v.dtype)
        of_q = of_q.at[i].add(_product("bgqs,bgsk->bgqk", of_scores, k[j]))
        of_k = of_k.at[j].add(_product("bgqs,bgqk->bgsk", of_scores, q[i]))
        of_v = of_v.at[j].add(_product("bgqs,bgqk->bgsk", weights, gradient[i]))
        return (of_q, of_k, of_v), None

    zeros = jnp.zeros(q.shape), jnp.zeros(k.shape), jnp.zeros(v.shape)
    sums, _ = jax.lax.scan(add, zeros, pairs)
    return *(x.astype(like.dtype) for x, like in zip(sums, (q, k, v))), None


_attend.defvjp(_forward, _backward)


def _scores(rule, q, k, segment, i, j):
    """Scores float32 [B, G, R * c, c] of the queries of chunk i for the keys of chunk j, which of
    them are visible, and the slopes of the scores by the products q k."""
    (window, softcap), chunk = rule, k.shape[2]
    repeats = q.shape[2] // chunk
    index = jnp.arange(chunk)
    visible = causal(i * chunk + index[:, None], j * chunk + index[None, :], window)
    visible = visible & (segment[i][:, :, None] == segment[j][:, None, :])
    visible = jnp.tile(visible, (1, repeats, 1))[:, None]
    scale = 1 / math.sqrt(q.shape[-1])
    scores = _product("bgqk,bgsk->bgqs", q, k) * scale
    if softcap is None:
        return scores, visible, scale
    capped = jnp.tanh(scores / softcap)
    return softcap * capped, visible, scale * (1 - capped**2)


def _product(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32)
