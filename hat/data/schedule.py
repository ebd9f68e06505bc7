"""Indices dealt out to parts in given shares, by formula.

A schedule deals 0, 1, 2, ... out to parts: the rows of a run to its corpora, or its steps to
lengths of rows. Which part an index falls on, and how many before it fell there, is computed
without history, so that a run resumes anywhere with the index alone.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from hat.errors import UserError

LONGEST_PERIOD = 1 << 16  # of a schedule; a table of this size is kept

Phases = Sequence[tuple[int, Sequence[float]]]  # (index, the weights of the parts from it on)


class Schedule:
    """Deals indices 0, 1, ... out to K parts in proportion to weights that change at given indices.

    In a phase of constant weights w (scaled to sum 1) every part k has been dealt n w_k of the
    first n indices, to within less than one, for every n.
    """

    def __init__(self, phases: Phases):
        """The first phase begins at index 0. UserError: weights whose pattern is too long."""
        self._phases: list[_Phase] = []
        dealt = np.zeros(len(phases[0][1]), np.int64)
        for start, weights in phases:
            if self._phases:
                dealt = self._phases[-1].counts(start)
            self._phases.append(_Phase(start, weights, dealt))
        self._starts = [phase.start for phase in self._phases]

    def locate(self, index: int) -> tuple[int, int]:
        """The part that an index falls on, and how many indices before it fell there."""
        return self._phase(index).locate(index)

    def counts(self, index: int) -> np.ndarray:
        """int64[K]: how many of the indices before `index` fall on each part."""
        return self._phase(index).counts(index)

    def _phase(self, index: int) -> _Phase:
        return self._phases[bisect.bisect_right(self._starts, index) - 1]


class _Phase:
    """A span of constant weights, in which the parts follow each other in a fixed pattern."""

    def __init__(self, start: int, weights: Sequence[float], dealt: np.ndarray):
        """dealt: int64[K], what each part had been dealt before `start`."""
        self.start = start
        self._shares = whole_shares(weights)
        self._pattern = pattern(self._shares)
        self._dealt = dealt
        self._before = np.zeros(len(self._pattern), np.int64)  # uses of the same part before it
        for part in range(len(weights)):
            mine = self._pattern == part
            self._before[mine] = np.arange(mine.sum())

    def locate(self, index: int) -> tuple[int, int]:
        cycle, at = divmod(index - self.start, len(self._pattern))
        part = int(self._pattern[at])
        return part, int(self._dealt[part] + cycle * self._shares[part] + self._before[at])

    def counts(self, index: int) -> np.ndarray:
        cycle, at = divmod(index - self.start, len(self._pattern))
        partial = np.bincount(self._pattern[:at], minlength=len(self._shares))
        return self._dealt + cycle * np.array(self._shares, np.int64) + partial


def whole_shares(weights: Sequence[float]) -> tuple[int, ...]:
    """The weights, taken as the decimals that they print as, as the smallest whole numbers in the
    same proportion. UserError: they sum to more than LONGEST_PERIOD."""
    exact = [Fraction(str(weight)) for weight in weights]
    scale = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * scale) for weight in exact]
    divisor = math.gcd(*whole)
    if sum(whole) // divisor > LONGEST_PERIOD:
        raise UserError(
            f"weights {', '.join(map(str, weights))} are {sum(whole) // divisor:,} shares in all, "
            f"more than {LONGEST_PERIOD:,}; round them to fewer digits"
        )
    return tuple(weight // divisor for weight in whole)


@functools.cache
def pattern(shares: tuple[int, ...]) -> np.ndarray:
    """int64[sum(shares)]: an order in which part k occurs shares[k] times, evenly.

    The j-th use (from 0) of a part with share w = shares[k] / sum belongs between j / w and
    (j + 1) / w. At every index the open use with the earliest end is taken. Since a fluid that
    gives every part w of every index meets all ends, so does this rule (as for unit jobs on one
    machine), and counts stay within one of n w. Ties go to the part that is named first.
    """
    period = sum(shares)
    used = [0] * len(shares)
    order = np.empty(period, np.int64)
    for index in range(period):
        open_parts = [k for k, share in enumerate(shares) if used[k] * period < share * (index + 1)]
        order[index] = part = min(
            open_parts, key=lambda k: -(-(used[k] + 1) * period // shares[k])
        )
        used[part] += 1
    return order
