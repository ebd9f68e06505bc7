"""Nodes that sessions share: each is evaluated once and keeps its slot while anyone can reach it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import jax
import numpy as np

from hat.byte_exact.tree_attention import FEWEST_SLOTS, Evaluator, bucket

_MOST = 256  # nodes in one call


class Node:
    """A sequence of tokens: its last, and the node before. logprob: of the sequence in nats, None
    until the node before has been read. Its slot is given back when nothing refers to it."""

    __slots__ = ("_pool", "token", "parent", "depth", "configuration", "logprob", "path")

    def __init__(self, pool: Pool, token: int, parent: Node | None, configuration: int):
        self._pool = pool
        self.token, self.parent, self.configuration = token, parent, configuration
        self.depth = 0 if parent is None else parent.depth + 1
        self.logprob = 0.0 if parent is None else None
        self.path: np.ndarray | None = None  # slots of its ancestors and its own, once evaluated

    def ids(self) -> list[int]:
        """The sequence from BOS on."""
        ids, node = [], self
        while node is not None:
            ids.append(node.token)
            node = node.parent
        return ids[::-1]

    def __del__(self):
        if self.path is not None:
            self._pool.free.append(int(self.path[-1]))


class Pool:
    """The slots of one row of a memory."""

    def __init__(self, evaluator: Evaluator):
        self._evaluator = evaluator
        self._begin()

    def _begin(self) -> None:
        self._size = FEWEST_SLOTS
        self.free: list[int] = list(range(self._size))[::-1]
        self._memory = self._evaluator.empty(1, self._size)
        self._depths = np.zeros(self._size, np.int64)  # of the node in each slot

    def read(
        self,
        nodes: Iterable[Node],
        rows: dict[Node, np.ndarray],
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        """Puts the log-probabilities float32 [ids] after each node into `rows`, where there are
        none yet, and fills in the `logprob` of the nodes and of all before them. meanwhile: called
        while the model is at work."""
        wanted: dict[Node, None] = {}
        keep = dict.fromkeys(nodes)  # in a fixed order, so that a run repeats to the last bit
        for node in keep:
            if node not in rows:
                wanted[node] = None
            while node is not None and (node.logprob is None or node.path is None):
                if node.path is None:
                    wanted[node] = None
                if node.logprob is None and node.parent not in rows:
                    wanted[node.parent] = None
                node = node.parent
        read: dict[Node, np.ndarray] = {}
        ordered = sorted(wanted, key=lambda node: node.depth)
        most = min(_MOST, self._evaluator.max_nodes)
        parts = [ordered[first : first + most] for first in range(0, len(ordered), most)]
        given = [self._evaluate(part) for part in parts]
        meanwhile()
        for part, logprobs in zip(parts, given):
            read.update(zip(part, np.asarray(logprobs)[0]))
        for node in sorted({**wanted, **keep}, key=lambda node: node.depth):
            if node.logprob is None:
                before = rows[node.parent] if node.parent in rows else read[node.parent]
                node.logprob = node.parent.logprob + float(before[node.token])
        rows.update((node, read[node]) for node in keep if node in read)

    def _evaluate(self, nodes: list[Node]) -> jax.Array:
        """float32 [1, n or more, ids]; the nodes before these are evaluated, or stand before."""
        self._make_room(sum(node.path is None for node in nodes))
        size = bucket(len(nodes))
        size = 16 if size == 8 else size  # costs hardly more, and saves a compilation
        tokens, depths = np.zeros((1, size), np.int32), np.zeros((1, size), np.int32)
        slots = np.full((1, size), self._size, np.int32)
        visible = np.zeros((1, size, self._size), bool)
        for i, node in enumerate(nodes):
            if node.path is None:
                before = () if node.parent is None else node.parent.path
                node.path = np.append(before, self.free.pop()).astype(np.int32)
                self._depths[node.path[-1]] = node.depth
            tokens[0, i], depths[0, i], slots[0, i] = node.token, node.depth, node.path[-1]
            visible[0, i, node.path] = True
        if self._evaluator.window is not None:
            visible &= self._depths > depths[..., None] - self._evaluator.window
        self._memory, logprobs = self._evaluator.extend(
            self._memory, tokens, depths, slots, visible
        )
        return logprobs

    def _make_room(self, needed: int) -> None:
        if len(self.free) == self._size > FEWEST_SLOTS:  # small again once nothing is held
            self._begin()
        if needed <= len(self.free):
            return
        size = bucket(self._size - len(self.free) + needed)
        self._memory = self._evaluator.grow(self._memory, size)
        self.free = list(range(self._size, size))[::-1] + self.free
        self._depths = np.pad(self._depths, (0, size - self._size))
        self._size = size
