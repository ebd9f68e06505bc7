"""The static table of a model and a width: every string that a window can hold, and its code."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hat.compression.predictor import LlamaPredictor, Snapshot
from hat.compression.probabilities import NUM_BYTES, cumulative
from hat.compression.windows import (
    CDF_BITS,
    UNIFORM,
    Node,
    WindowConfig,
    code_of,
    descend,
    root,
)
from hat.errors import UserError
from hat.text.window_table import MAX_BITS, WindowTable

Progress = Callable[[int], None]  # how many strings are found


class _Level:
    """All nodes of one depth, and what the model has read for those that may have children.

    nodes: int64 [n]; parents: int64 [n], places in the level above; bytes: int64 [n]; codes: int64
    [n, depth], of the nodes along each path, for mode delay alone; read: rows of the nodes.
    """

    def __init__(self, nodes: Node, parents, bytes_, strings: list[bytes], codes):
        self.nodes, self.parents, self.bytes = nodes, parents, bytes_
        self.strings, self.codes = strings, codes
        self.read: Snapshot | None = None


def build_table(
    predictor: LlamaPredictor, config: WindowConfig, progress: Progress = lambda found: None
) -> WindowTable:
    """Breadth first: the children of every node by one step of the model, the same compiled step
    that coders take, so that a table's codes are theirs.

    UserError: windows too wide for a table.
    """
    if config.bits > MAX_BITS:
        raise UserError(
            f"a table of 2^{config.bits} windows is too large; give at most --window-bits "
            f"{MAX_BITS}, and run the model for wider windows"
        )
    table = config.root_table(predictor.root)
    top = root(config)
    whole = Node(np.array([top.start]), np.array([top.size]))
    level = _Level(whole, None, None, [b""], np.zeros((1, 0), np.int64))
    tables = table[None]
    found: list[tuple[list[bytes], np.ndarray]] = []
    if config.has_free_code:
        found.append(([b""], code_of(config, whole)))
    count, depth = 0, 0
    where = np.array([0])  # the nodes of the level that `tables` are of
    while len(where):
        below, its_codes, accepted = _children(config, level, where, tables)
        depth += 1
        kept = np.flatnonzero(accepted)
        found.append(([below.strings[i] for i in kept], its_codes[kept]))
        count += len(kept)
        progress(count)
        where = np.arange(len(below.strings))
        if config.mode == "stop-cell":
            where = where[below.nodes.size > 0]
        tables = _tables(predictor, config, level, below, where, depth)
        level = below
    strings = [string for its, _ in found for string in its]
    codes = np.concatenate([codes for _, codes in found])
    order = np.argsort(codes, kind="stable")
    strings = [strings[i] for i in order]
    own = config.mode == "stop-cell"
    if own and not np.array_equal(codes[order], np.arange(1 << config.bits)):
        raise AssertionError("the codes of a table are not each used once")
    return WindowTable(
        config.mode, config.bits, config.context, predictor.model_hash, strings,
        None if own else codes[order],
    )  # fmt: skip


def _children(config: WindowConfig, level: _Level, where: np.ndarray, tables: np.ndarray):
    """The level below, from the nodes at `where` with their tables int64 [n, 257]; the code of
    each node, and whether a window may end there."""
    start, size = level.nodes.start[where][:, None], level.nodes.size[where][:, None]
    nodes, fits = descend(config, Node(start, size), tables[:, :-1], tables[:, 1:])
    row, byte = np.nonzero(fits)
    nodes = Node(nodes.start[row, byte], nodes.size[row, byte])
    parents = where[row]
    strings = [level.strings[p] + bytes([b]) for p, b in zip(parents.tolist(), byte.tolist())]
    codes = code_of(config, nodes)
    accepted, along = np.ones(len(row), bool), level.codes[parents]
    if config.mode == "delay":
        accepted = ~(along == codes[:, None]).any(axis=1)
        along = np.concatenate([along, codes[:, None]], axis=1)
    return _Level(nodes, parents, byte, strings, along), codes, accepted


def _tables(
    predictor: LlamaPredictor, config: WindowConfig, above: _Level, level: _Level,
    where: np.ndarray, depth: int,
) -> np.ndarray:  # fmt: skip
    """int64 [n, 257] after the nodes at `where`; leaves in the level what the model has read."""
    if depth >= config.context:
        return np.tile(UNIFORM, (len(where), 1))
    tables = np.zeros((len(where), NUM_BYTES + 1), np.int64)
    saved = None
    for begin in range(0, len(where), predictor.rows):
        batch = where[begin : begin + predictor.rows]
        symbols = np.zeros(predictor.rows, np.uint8)
        symbols[: len(batch)] = level.bytes[batch]
        if depth > 1:
            parents = level.parents[batch]
            predictor.load(Snapshot(*(array[parents] for array in above.read)))
        weights = predictor.push(symbols, np.full(predictor.rows, depth == 1))
        tables[begin : begin + len(batch)] = cumulative(weights[: len(batch)], CDF_BITS)
        rows = predictor.save(depth)
        if saved is None:  # by place in the level, though leaves need none: a plain index
            saved = [np.zeros((len(level.strings), *x.shape[1:]), x.dtype) for x in rows]
        for array, its in zip(saved, rows):
            array[batch] = its[: len(batch)]
    level.read = None if saved is None else Snapshot(*saved)
    above.read = None
    return tables
