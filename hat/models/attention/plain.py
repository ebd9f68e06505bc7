"""Attention in plain XLA: the dense reference, and the block form for windows."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

NEGATIVE = -1e30  # a finite minus infinity: a row without any key gives a mean, never NaN
KEPT = "attention"  # names what remat=attention keeps (hat.models.layers.REMAT_POLICIES)


def attend_dense(q, k, v, *, segment, window=None, softcap=None) -> jax.Array:
    """The reference: all T x T scores, masked. Shapes as in `attend`."""
    index = jnp.arange(q.shape[1])
    visible = causal(index[:, None], index[None, :], window)
    visible = visible & (segment[:, :, None] == segment[:, None, :])
    return masked_attention(q, k, v, visible, softcap)


def attend_blocks(q, k, v, *, segment, window, softcap=None) -> jax.Array:
    """The same for a window, in O(T * window): blocks of `window` queries see two blocks of keys.

    The window of a query reaches back at most window - 1 positions, so never beyond the block
    before its own. Shapes as in `attend`.
    """
    batch, length = segment.shape
    blocks = -(-length // window)
    padded = blocks * window - length

    def split(x):  # [B, T, ...] -> [B * blocks, window, ...]
        x = jnp.pad(x, [(0, 0), (0, padded)] + [(0, 0)] * (x.ndim - 2))
        return x.reshape(batch, blocks, window, *x.shape[2:])

    def with_previous(x):  # [B, blocks, window, ...] -> [B * blocks, 2 * window, ...]
        previous = jnp.pad(x, [(0, 0), (1, 0)] + [(0, 0)] * (x.ndim - 2))[:, :-1]
        x = jnp.concatenate([previous, x], axis=2)
        return x.reshape(batch * blocks, 2 * window, *x.shape[3:])

    def merge(x):  # [B, blocks, window, ...] -> [B * blocks, window, ...]
        return x.reshape(batch * blocks, window, *x.shape[3:])

    # Segments are shifted by one so that the absent block before the first (0) and the rows'
    # own padding (1) differ from each other and from every document.
    segments = split(segment + 1)
    query_index = window + jnp.arange(window)
    visible = causal(query_index[:, None], jnp.arange(2 * window)[None, :], window)
    visible = visible & (merge(segments)[:, :, None] == with_previous(segments)[:, None, :])
    out = masked_attention(
        merge(split(q)), with_previous(split(k)), with_previous(split(v)), visible, softcap
    )
    return out.reshape(batch, blocks * window, *out.shape[2:])[:, :length]


def masked_attention(q, k, v, visible, softcap=None) -> jax.Array:
    """softmax(q k / sqrt(K)) v where visible [B, T, S]; q [B, T, H, K], k and v [B, S, G, K]."""
    batch, length, heads, head_dim = q.shape
    groups = k.shape[2]
    q = q.reshape(batch, length, groups, heads // groups, head_dim)
    scores = jnp.einsum("btgrk,bsgk->bgrts", q, k, preferred_element_type=jnp.float32)
    scores = scores / math.sqrt(head_dim)
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    scores = jnp.where(visible[:, None, None], scores, NEGATIVE)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("bgrts,bsgk->btgrk", weights, v)
    return out.reshape(batch, length, heads, head_dim)


def causal(query, key, window):
    """Whether position `query` sees position `key`: not after it, and inside the window."""
    visible = key <= query
    return visible if window is None else visible & (key > query - window)
