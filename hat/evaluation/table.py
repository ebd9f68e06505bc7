"""The stored scores of one model on one task, as arrays."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from hat.errors import UserError
from hat.evaluation.scores import Cell, Scores
from hat.evaluation.tasks import Task


@dataclasses.dataclass(frozen=True)
class Block:
    """n items under s seeds of one noise at one rate; c: the most choices of an item.

    nats float64 [n, s, c], infinite where an item has fewer choices; likeliest bool [n, s, c];
    positions float64 [n, s], of the right choice; edits float64 [n, s], byte edits of the contexts;
    correct bool [n, s], of generated answers.
    """

    nats: np.ndarray
    likeliest: np.ndarray
    positions: np.ndarray
    edits: np.ndarray
    correct: np.ndarray


@dataclasses.dataclass(frozen=True)
class Table:
    """All blocks of one model and task: `clean` has one seed, noised[p][r] all of them.

    gold int [n]; choice_bytes float64 [n, c], 1 where there is no choice; context_bytes float64
    [n], of all contexts of an item.
    """

    task: Task
    seeds: int
    gold: np.ndarray
    choice_bytes: np.ndarray
    context_bytes: np.ndarray
    clean: Block
    noised: list[list[Block]]

    @property
    def scored(self) -> bool:
        """Whether there are nats: not of generated answers."""
        return self.task.kind != "generation"

    @property
    def gold_bytes(self) -> np.ndarray:
        """float64 [n]: bytes of the right continuations."""
        return self.choice_bytes[np.arange(len(self.gold)), self.gold]

    def gold_nats(self, block: Block) -> np.ndarray:
        """float64 [n, s]: of the right continuations."""
        return np.take_along_axis(block.nats, self.gold[:, None, None], axis=2)[:, :, 0]


def make_table(
    task: Task, scores: Scores, names: Sequence[str], rates: Sequence[float], seeds: int
) -> Table:
    """The table of all these cells. UserError where one is missing."""

    def block(name: str | None, rate: float, count: int) -> Block:
        cells = []
        for seed in range(count):
            cell = scores.cells.get((task.name, name, rate, seed))
            if cell is None:
                raise UserError(
                    f"{scores.model.name} has no scores of {task.name} under {name or 'clean text'}"
                    f" at rate {rate:g}, seed {seed}; score it, or leave it out"
                )
            cells.append(cell)
        return _block(task, gold, most, cells)

    gold = np.array([item.gold for item in task.items])
    most = max(len(item.continuations) for item in task.items)
    lengths = [[len(text) for text in item.continuations] for item in task.items]
    contexts = [sum(map(len, item.contexts)) for item in task.items]
    return Table(
        task,
        seeds,
        gold,
        _padded(lengths, most, 1.0),
        np.array(contexts, np.float64),
        block(None, 0.0, 1),
        [[block(name, rate, seeds) for rate in rates] for name in names],
    )


def _block(task: Task, gold: np.ndarray, most: int, cells: Sequence[Cell]) -> Block:
    def stack(rows) -> np.ndarray:
        return np.stack(rows, axis=1)

    edits = stack([np.array(cell.edit_distance, np.float64) for cell in cells])
    if task.kind == "generation":
        n = len(task.items)
        nothing = np.zeros((n, len(cells), 0))
        correct = stack([np.array(cell.correct, bool) for cell in cells])
        return Block(nothing, nothing.astype(bool), np.zeros((n, len(cells))), edits, correct)
    items = np.arange(len(gold))
    return Block(
        stack([_padded(cell.nats, most, math.inf) for cell in cells]),
        stack([_padded(cell.likeliest, most, 0) for cell in cells]).astype(bool),
        stack([_padded(cell.positions, most, 0.0)[items, gold] for cell in cells]),
        edits,
        np.zeros((len(items), len(cells)), bool),
    )


def _padded(rows: Sequence[Sequence[float]], size: int, fill: float) -> np.ndarray:
    """float64 [n, size]."""
    out = np.full((len(rows), size), fill, np.float64)
    for row, values in zip(out, rows):
        row[: len(values)] = values
    return out
