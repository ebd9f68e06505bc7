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
    positions float64 [n, s], of the right choice; num_bytes float64 [n, s, c], of the choices as they
    were scored, 1 where there is none; edits float64 [n, s], byte edits of what was noised; correct
    bool [n, s], of generated answers; spared: continuations that stayed clean, over all items and
    seeds, as noise would have left nothing of them.
    """

    nats: np.ndarray
    likeliest: np.ndarray
    positions: np.ndarray
    num_bytes: np.ndarray
    edits: np.ndarray
    correct: np.ndarray
    spared: int


@dataclasses.dataclass(frozen=True)
class Table:
    """All blocks of one model and task: `clean` has one seed, noised[p][r] all of them.

    gold int [n]; noised_bytes float64 [n], clean, of what noise is put into: all contexts of an
    item, all its continuations, or both.
    """

    task: Task
    seeds: int
    gold: np.ndarray
    noised_bytes: np.ndarray
    clean: Block
    noised: list[list[Block]]

    @property
    def scored(self) -> bool:
        """Whether there are nats: not of generated answers."""
        return self.task.kind != "generation"

    def gold_nats(self, block: Block) -> np.ndarray:
        """float64 [n, s]: of the right continuations."""
        return np.take_along_axis(block.nats, self.gold[:, None, None], axis=2)[:, :, 0]

    def gold_bytes(self, block: Block) -> np.ndarray:
        """float64 [n, s]: of the right continuations, as they were scored."""
        return np.take_along_axis(block.num_bytes, self.gold[:, None, None], axis=2)[:, :, 0]

    def cost(self, block: Block) -> np.ndarray:
        """float64 [n, s]: nats of the right continuations beyond those that as many bytes cost in
        the clean text. Over the bytes it is the change in nats per byte. Of continuations that stay
        as they are, it is simply the difference."""
        growth = self.gold_bytes(block) / self.gold_bytes(self.clean)
        return self.gold_nats(block) - self.gold_nats(self.clean) * growth


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
    parts = [
        (item.contexts if scores.apply_to != "continuation" else ())
        + (item.continuations if scores.apply_to != "context" else ())
        for item in task.items
    ]
    return Table(
        task,
        seeds,
        gold,
        np.array([sum(map(len, texts)) for texts in parts], np.float64),
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
        return Block(
            nothing, nothing.astype(bool), np.zeros((n, len(cells))), nothing, edits, correct, 0
        )
    items = np.arange(len(gold))
    return Block(
        stack([_padded(cell.nats, most, math.inf) for cell in cells]),
        stack([_padded(cell.likeliest, most, 0) for cell in cells]).astype(bool),
        stack([_padded(cell.positions, most, 0.0)[items, gold] for cell in cells]),
        stack([_padded(cell.num_bytes, most, 1.0) for cell in cells]),
        edits,
        np.zeros((len(items), len(cells)), bool),
        sum(cell.spared for cell in cells),
    )


def _padded(rows: Sequence[Sequence[float]], size: int, fill: float) -> np.ndarray:
    """float64 [n, size]."""
    out = np.full((len(rows), size), fill, np.float64)
    for row, values in zip(out, rows):
        row[: len(values)] = values
    return out
