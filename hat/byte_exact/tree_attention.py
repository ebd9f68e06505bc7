"""Evaluates the nodes of a tree of tokens: a node attends to its ancestors and itself alone.

Keys and values lie in slots of a memory, in any order; a mask says which slots a node sees, and its
rotary position is its depth. One compiled function serves whole trees in one call, long trees in
chunks whose dead branches give their slots back, and sessions that add a few nodes at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from hat.inference.engine import Engine
from hat.inference.llama_rows import llama_rows
from hat.inference.memory import Memory, attend_held, empty_memory, grow_memory
from hat.models.attention.plain import masked_attention
from hat.models.llama import LlamaModel
from hat.models.model import Params
from hat.text.tokenizers import Tokenizer

CHUNK = 1024  # nodes of a text that are evaluated in one call, at most
FEWEST_SLOTS = 256  # of a pool
_LOGITS = 1 << 26  # floats of log-probabilities in one call, at most


class Evaluator:
    """A Llama whose next-token log-probabilities are asked for at the nodes of trees."""

    def __init__(self, model: LlamaModel, params: Params):
        self.model = model
        self.num_ids = model.config.num_ids
        self.window = model.config.stack.window
        self._rows = llama_rows(model, rings=False)
        self._prepared = self._rows.prepare(params, None)
        self._engine: Engine | None = None
        self.max_nodes = bucket(max(1, min(CHUNK, _LOGITS // self.num_ids)) + 1) // 2
        self.max_rows = max(1, _LOGITS // (self.max_nodes * self.num_ids))

    def engine(self, tokenizer: Tokenizer) -> Engine:
        """What goes on in tokens, with the same parameters. Every id without bytes is an end."""
        if self._engine is None:
            self._engine = Engine(
                self.model, None, tokenizer, unspelled_end=True, rings=False,
                prepared=self._prepared,
            )  # fmt: skip
        return self._engine

    def empty(self, rows: int, slots: int) -> tuple[Memory, ...]:
        """The memory of every layer, in which no slot is written."""
        stack, dtype = self.model.config.stack, jnp.dtype(self.model.config.dtype)
        one = (rows, stack.kv_heads, slots, stack.head_size, dtype)
        return tuple(empty_memory(*one) for _ in range(stack.num_layers))

    def grow(self, memory: tuple[Memory, ...], slots: int) -> tuple[Memory, ...]:
        """What is held, in more slots."""
        return grow_memory(memory, slots)

    def extend(
        self, memory: tuple[Memory, ...], tokens, depths, slots, visible
    ) -> tuple[tuple[Memory, ...], jax.Array]:
        """Writes nodes into the memory; tokens, depths and slots int [B, C], visible bool
        [B, C, S], the node's own slot included. A slot of S writes nothing.

        Returns the memory and the log-probabilities float32 [B, C, ids] of what follows each.
        """
        args = (tokens, depths, slots, visible)
        return _extend(self._rows, self._prepared, memory, *args)

    def whole(
        self, trees: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]
    ) -> Iterator[tuple[int, jax.Array]]:
        """(tokens, parents, depths) int [N] of each tree, parents before children and -1 for none.

        Yields (first, logprobs float32 [B, C, ids]) for nodes [first, first + C) of each tree; what
        is beyond a tree's last node means nothing.
        """
        longest = max(len(tokens) for tokens, _, _ in trees)
        size = max(16, fine_bucket(-(-longest // -(-longest // self.max_nodes))))
        if longest <= size:
            padded = [_padded(*tree, size, self.window) for tree in trees]
            arrays = map(np.stack, zip(*padded))
            yield 0, _at_once(self._rows, self._prepared, *arrays)
            return
        plans = [_plan(parents, size) for _, parents, _ in trees]
        slots = bucket(max(size, *(int(plan.max()) + 1 for plan in plans)))
        rows = [_Row(*tree, plan, slots, self.window) for tree, plan in zip(trees, plans)]
        memory = self.empty(len(trees), slots)
        for first in range(0, longest, size):
            arrays = (np.stack(a) for a in zip(*(row.chunk(first, size) for row in rows)))
            memory, logprobs = self.extend(memory, *arrays)
            yield first, logprobs


def bucket(number: int) -> int:
    """The power of two at or above a number: shapes are few, so that little is compiled."""
    return 1 << max(0, int(number) - 1).bit_length()


def fine_bucket(number: int) -> int:
    """The number at or above it that is 8 to 15 times a power of two, or at most 16: less is wasted
    than by `bucket`, on calls that are few and large."""
    step = max(1, bucket(number) // 16)
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


def _padded(tokens, parents, depths, size: int, window: int | None):
    """A tree of at most `size` nodes, as `_at_once` takes it."""
    count = len(tokens)
    visible = np.zeros((size, size), bool)
    for node, parent in enumerate(parents.tolist()):
        if parent >= 0:
            visible[node] = visible[parent]
        visible[node, node] = True
    if window is not None:
        visible[:count, :count] &= depths > depths[:, None] - window
    more = (0, size - count)
    return np.pad(tokens, more), np.pad(depths, more), visible


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


@functools.partial(jax.jit, static_argnums=0)
def _at_once(model, params, tokens, depths, visible):
    """float32 [B, N, ids] of whole trees; tokens and depths int [B, N], visible bool [B, N, N]."""
    config = model.config.stack

    def place(q, k, v, _):
        return masked_attention(q, k, v, visible, config.logit_softcap), None

    x, _ = model.run(params, tokens, [None] * config.num_layers, depths, place)
    return jax.nn.log_softmax(model.logits(params, x))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _extend(model, params, memory, tokens, depths, slots, visible):
    softcap = model.config.stack.logit_softcap
    rows = jnp.arange(tokens.shape[0])[:, None]

    def put(held, new):
        if tokens.shape == (1, 1):  # one slice replaced is much faster than a scatter
            at = 0, 0, slots[0, 0], 0
            return jax.lax.dynamic_update_slice(held, jnp.swapaxes(new, 1, 2), at)
        return held.at[rows, :, slots].set(new, mode="drop")

    def place(q, k, v, held):
        held = Memory(put(held.keys, k), put(held.values, v))
        return attend_held(q, held, visible, softcap), held

    x, memory = model.run(params, tokens, memory, depths, place)
    return memory, jax.nn.log_softmax(model.logits(params, x))

