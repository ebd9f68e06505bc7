"""Maximum inner products over a vocabulary of any size, on the devices, in blocks.

The score of every token is computed, of a block of rows at a time, and only the best k are kept: the
result is exact, and [B, V] scores never lie in memory at once. Where there are several devices each
searches its own part of the rows. `approximate` takes the best of a block by `jax.lax.approx_max_k`
(arXiv 2206.14286), which is a fast instruction on TPU and an ordinary selection elsewhere.

Published large-vocabulary decoding searches normalised rows and rescores (arXiv 2411.18553, appendix);
the largest cosine is not the largest inner product, so that tokens with large rows are lost there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

BLOCK = 8192  # rows whose scores are held at a time
RECALL_TARGET = 0.95  # of approx_max_k, in every block
AXIS = "vocabulary"


class Found(NamedTuple):
    """The best of every query, best first: scores float32 [B, k], and ids int32 [B, k]. Of equal
    scores the lower id is first."""

    scores: jax.Array
    ids: jax.Array


class Vocabulary:
    """Rows [V, d] spread over devices, in blocks; ids that are never predicted score minus infinity.

    devices: None for all that there are.
    """

    def __init__(self, outputs, predicted: np.ndarray, block: int = BLOCK, devices=None):
        """outputs: [V, d]; predicted: bool [V]."""
        devices = jax.devices() if devices is None else devices
        self._mesh = Mesh(np.array(devices), (AXIS,))
        size, count = len(predicted), len(devices)
        block = min(block, -(-size // count))
        padded = -(-size // (block * count)) * block * count
        bias = np.full(padded, -np.inf, np.float32)
        bias[:size][predicted] = 0.0
        rows = np.zeros((padded, outputs.shape[1]), outputs.dtype)
        rows[:size] = outputs
        self._rows = jax.device_put(rows, NamedSharding(self._mesh, PartitionSpec(AXIS)))
        self._bias = jax.device_put(bias, NamedSharding(self._mesh, PartitionSpec(AXIS)))
        self._block = block

    def search(self, queries: jax.Array, k: int, approximate: bool = False) -> Found:
        """queries: [B, d]. Scores are inner products in float32, also those of what an approximate
        search finds. k at most the rows of a block."""
        queries = jax.device_put(queries, NamedSharding(self._mesh, PartitionSpec()))
        search = _searcher(self._mesh, self._block, k, approximate)
        return Found(*search(queries, self._rows, self._bias))


@functools.lru_cache(maxsize=32)
def _searcher(mesh: Mesh, block: int, k: int, approximate: bool) -> Callable:
    def mine(queries, rows, bias):
        """The best of one device's rows: scores and ids [1, B, k]."""
        first = jax.lax.axis_index(AXIS) * len(rows)
        blocks = rows.reshape(-1, block, rows.shape[1]), bias.reshape(-1, block)
        starts = first + block * jnp.arange(len(blocks[0]))

        def one(best, its):
            rows, bias, start = its
            scores = jnp.matmul(queries, rows.T, preferred_element_type=jnp.float32) + bias
            if approximate:
                scores, at = jax.lax.approx_max_k(
                    scores, min(k, block), recall_target=RECALL_TARGET
                )
            else:
                scores, at = jax.lax.top_k(scores, min(k, block))
            return _best(jnp.concatenate([best[0], scores], axis=-1),
                         jnp.concatenate([best[1], at + start], axis=-1), k), None  # fmt: skip

        empty = jnp.full((len(queries), k), -jnp.inf), jnp.zeros((len(queries), k), jnp.int32)
        empty = jax.tree.map(lambda x: jax.lax.pcast(x, AXIS, to="varying"), empty)
        (scores, ids), _ = jax.lax.scan(one, empty, (*blocks, starts.astype(jnp.int32)))
        return scores[None], ids[None]

    part = PartitionSpec(AXIS)
    everywhere = jax.shard_map(
        mine, mesh=mesh, in_specs=(PartitionSpec(), part, part), out_specs=(part, part)
    )

    @jax.jit
    def search(queries, rows, bias):
        scores, ids = everywhere(queries, rows, bias)

        def joined(x):  # [devices, B, k] -> [B, devices k], lower ids first
            return jnp.swapaxes(x, 0, 1).reshape(len(queries), -1)

        return _best(joined(scores), joined(ids), k)

    return search


def _best(scores, ids, k: int) -> tuple[jax.Array, jax.Array]:
    scores, at = jax.lax.top_k(scores, k)
    return scores, jnp.take_along_axis(ids, at, axis=-1)


def recall(found: Found, exact: Found) -> float:
    """The share of the exact best that an approximate search has found too."""
    pairs = zip(np.asarray(found.ids), np.asarray(exact.ids))
    shares = [len(set(a.tolist()) & set(b.tolist())) / len(b) for a, b in pairs]
    return float(np.mean(shares))
