"""Evaluates the nodes of a tree of tokens: a node attends to its ancestors and itself alone.

Keys and values lie in slots of a cache, in any order; a mask says which slots a node sees, and its
rotary position is its depth. One compiled function serves whole trees in one call, long trees in
chunks whose dead branches give their slots back, and sessions that add a few nodes at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hat.inference.caches import Cache, compute_params, empty_cache
from hat.models.attention.plain import masked_attention
from hat.models.layers import rope_table
from hat.models.llama import LlamaModel
from hat.models.model import Params

CHUNK = 1024  # nodes of a text that are evaluated in one call, at most
FEWEST_SLOTS = 64
_LOGITS = 1 << 26  # floats of log-probabilities in one call, at most


class Evaluator:
    """A Llama whose next-token log-probabilities are asked for at the nodes of trees."""

    def __init__(self, model: LlamaModel, params: Params):
        self.model = model
        self.num_ids = model.config.num_ids
        self.window = model.config.stack.window
        self._params = compute_params(model, params)
        self.max_nodes = bucket(max(1, min(CHUNK, _LOGITS // self.num_ids)) + 1) // 2
        self.max_rows = max(1, _LOGITS // (self.max_nodes * self.num_ids))

    def empty(self, rows: int, slots: int) -> Cache:
        stack = self.model.config.stack
        dtype = jnp.dtype(self.model.config.dtype)
        return empty_cache(stack.num_layers, rows, slots, stack.kv_heads, stack.head_size, dtype)

    def extend(self, cache: Cache, tokens, depths, slots, visible) -> tuple[Cache, jax.Array]:
        """Writes nodes into the cache; tokens, depths and slots int [B, C], visible bool [B, C, S],
        the node's own slot included. A slot of S writes nothing.

        Returns the cache and the log-probabilities float32 [B, C, ids] of what follows each.
        """
        args = (tokens, depths, slots, visible)
        return _extend(self.model, self._params, cache, *args)

    def whole(
        self, trees: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """(tokens, parents, depths) int [N] of each tree, parents before children and -1 for none.

        Yields (first, logprobs float32 [B, C, ids]) for nodes [first, first + C) of each tree; what
        is beyond a tree's last node means nothing.
        """
        longest = max(len(tokens) for tokens, _, _ in trees)
        size = quarter_bucket(-(-longest // -(-longest // self.max_nodes)))
        plans = [_plan(parents, size) for _, parents, _ in trees]
        slots = max(FEWEST_SLOTS, size)
        if longest > size:
            slots = bucket(max(size, *(int(plan.max()) + 1 for plan in plans)))
        rows = [_Row(*tree, plan, slots, self.window) for tree, plan in zip(trees, plans)]
        cache = self.empty(len(trees), slots)
        for first in range(0, longest, size):
            arrays = (np.stack(a) for a in zip(*(row.chunk(first, size) for row in rows)))
            cache, logprobs = self.extend(cache, *arrays)
            yield first, np.asarray(logprobs)


def bucket(number: int) -> int:
    """The power of two at or above a number: shapes are few, so that little is compiled."""
    return 1 << max(0, int(number) - 1).bit_length()


def quarter_bucket(number: int) -> int:
    """The number at or above it that is 4, 5, 6 or 7 times a power of two, or at most 8: less is
    wasted than by `bucket`, on calls that are few and large."""
    step = max(1, bucket(number) // 8)
    return -(-int(number) // step) * step


def _plan(parents: np.ndarray, size: int) -> np.ndarray:
    """int [N]: a slot for every node, free again after the chunk of its last descendant."""
    last = np.arange(len(parents)) // size
    for node in range(len(parents) - 1, 0, -1):
        if parents[node] >= 0:
            last[parents[node]] = max(last[parents[node]], last[node])
    slots = np.empty(len(parents), np.int64)
    free: list[int] = []
    used, by_last = 0, [[] for _ in range(int(last.max()) + 1)]
    for node, until in enumerate(last.tolist()):
        if node % size == 0 and node:
            free += by_last[node // size - 1]
        if free:
            slots[node] = free.pop()
        else:
            slots[node], used = used, used + 1
        by_last[until].append(int(slots[node]))
    return slots


class _Row:
    """One tree, chunk by chunk, as `Evaluator.extend` takes it."""

    def __init__(self, tokens, parents, depths, plan, slots: int, window: int | None):
        self._tokens, self._parents, self._depths, self._plan = tokens, parents, depths, plan
        self._slots, self._window = slots, window
        self._depth_of_slot = np.zeros(slots, np.int64)
        self._seen: dict[int, np.ndarray] = {}  # what nodes with children to come can see

    def chunk(self, first: int, size: int):
        tokens, depths = np.zeros(size, np.int32), np.zeros(size, np.int32)
        slots = np.full(size, self._slots, np.int32)
        visible = np.zeros((size, self._slots), bool)
        nodes = range(first, min(first + size, len(self._tokens)))
        count = max(len(nodes), 0)
        part = slice(first, first + count)
        tokens[:count], depths[:count] = self._tokens[part], self._depths[part]
        slots[:count] = self._plan[part]
        self._depth_of_slot[self._plan[part]] = depths[:count]
        for index, node in enumerate(nodes):
            parent = int(self._parents[node])
            if parent >= first:
                visible[index] = visible[parent - first]
            elif parent >= 0:
                visible[index] = self._seen[parent]
            visible[index, self._plan[node]] = True
        later = self._parents[first + count :]
        for parent in np.unique(later[(later >= first) & (later < first + count)]).tolist():
            self._seen[parent] = visible[parent - first].copy()
        if self._window is not None:
            visible &= self._depth_of_slot > depths[:, None] - self._window
        return tokens, depths, slots, visible


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _extend(model, params, cache: Cache, tokens, depths, slots, visible):
    module = model.module(params)
    config = model.config.stack
    graph, layers = nnx.split(module.backbone)
    rope = rope_table(depths, config)
    rows = jnp.arange(tokens.shape[0])[:, None]

    def body(carry, layer):
        x, cache = carry
        index, layer_params = layer

        def attention(q, k, v):
            nonlocal cache
            cache = Cache(
                cache.keys.at[index, rows, slots].set(k, mode="drop"),
                cache.values.at[index, rows, slots].set(v, mode="drop"),
            )
            keys, values = cache.keys[index], cache.values[index]
            return masked_attention(q, keys, values, visible, config.logit_softcap)

        x = nnx.merge(graph, layer_params)(x, rope, attention)
        return (x, cache), None

    start = (module.embedding(tokens), cache)
    (x, cache), _ = jax.lax.scan(body, start, (jnp.arange(config.num_layers), layers))
    return cache, jax.nn.log_softmax(module.head(x, module.embedding.table[...]))
