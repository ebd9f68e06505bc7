"""The connector over words in memory: those of a chunk of one row, and one of each of many rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hat.inference.memory import Memory
from hat.models.attention.plain import masked_attention
from hat.models.connector import Connector, segment_softmax_pool


def pool_chunk(
    connector: Connector, x, ring: Memory, start, count, word, before, num_words: int
) -> tuple[jax.Array, Memory]:
    """Embeddings [1, N, D] of the words that a chunk x [1, T, d] completes, and the ring after it.

    The ring is at clock 0, and the chunk's first position is `start`; `count` of the T are real.
    word: int [1, R + T], non-decreasing, of the ring's bytes and of the chunk's: 1 to N, 0 and
    N + 1 for no word. before: the number of words before the first.
    """
    k, v = connector.keys_values(x)
    k = jnp.concatenate([jnp.swapaxes(ring.keys, 1, 2), k], axis=1)
    v = jnp.concatenate([jnp.swapaxes(ring.values, 1, 2), v], axis=1)
    position = (start - ring.size + jnp.arange(k.shape[1]))[None]
    scores = connector.scores(connector.rotate_keys(k, position, before + word - 1))
    pooled = segment_softmax_pool(scores, v, word, num_words + 1)[:, 1:]

    def latest(x):
        return jnp.swapaxes(jax.lax.dynamic_slice_in_dim(x, count, ring.size, 1), 1, 2)

    return connector.o(pooled.reshape(1, num_words, -1)), Memory(latest(k), latest(v))


def pool_rows(
    connector: Connector, query, ring: Memory, rows, held, begin, end, index
) -> jax.Array:
    """Embeddings [C, 1, D] of a word of each of the rows int [C]; of a row B, any.

    query: `connector.shared_query()`. held: int [B, R], the position in every slot of the ring.
    begin, end, index: int [C], the word's first position, that behind its last, its number.
    """

    def of(x):
        return x.at[rows].get(mode="clip")

    mine = of(held)
    inside = (mine >= begin[:, None]) & (mine < end[:, None])
    pooled = masked_attention(
        jnp.broadcast_to(query, (len(rows), 1, *query.shape)),
        connector.rotate_keys(jnp.swapaxes(of(ring.keys), 1, 2), mine, index[:, None]),
        jnp.swapaxes(of(ring.values), 1, 2),
        inside[:, None, :],
    )
    return connector.o(pooled.reshape(*pooled.shape[:2], -1))
