"""Edits of a text, and how far they take it: spans of bytes and what stands in their place."""

from __future__ import annotations

import bisect
import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

EXACT_BYTES = 1 << 13  # of a text whose edit distance is computed in one piece


class Edit(NamedTuple):
    """source[start:end] becomes `replacement`. An insertion has start == end."""

    start: int
    end: int
    replacement: bytes


@dataclasses.dataclass(frozen=True)
class Perturbed:
    """A text and its edits: in ascending order, disjoint, each of them a change."""

    source: bytes
    edits: tuple[Edit, ...]

    @functools.cached_property
    def text(self) -> bytes:
        """The source with all edits made."""
        parts, end = [], 0
        for edit in self.edits:
            parts += (self.source[end : edit.start], edit.replacement)
            end = edit.end
        return b"".join([*parts, self.source[end:]])

    @functools.cached_property
    def edit_distance(self) -> int:
        """Damerau-OSA distance in bytes from `source` to `text`.

        Exact up to EXACT_BYTES of source. A longer text is cut between its edits into pieces of
        about that size, whose distances add up to an upper bound: no edit crosses a cut.
        """
        total, start, offset = 0, 0, 0
        growth = 0  # of the text over the source, up to here
        for edit in self.edits:
            if edit.start - start >= EXACT_BYTES:
                cut = edit.start + growth
                total += osa_distance(self.source[start : edit.start], self.text[offset:cut])
                start, offset = edit.start, cut
            growth += len(edit.replacement) - (edit.end - edit.start)
        return total + osa_distance(self.source[start:], self.text[offset:])

    @property
    def edit_rate(self) -> float:
        """Byte edits per byte of the source: the realised severity. 0 for an empty source."""
        return self.edit_distance / len(self.source) if self.source else 0.0

    def locate(self, start: int, end: int) -> tuple[int, int]:
        """Where the unedited bytes source[start:end] stand in `text`.

        ValueError where an edit changes one of them, or inserts between them.
        """
        before = bisect.bisect_right(self._ends, start)
        if before < len(self.edits) and self.edits[before].start < end:
            raise ValueError(f"bytes {start} to {end} are edited: {self.edits[before]}")
        shift = self._growth[before]
        return start + shift, end + shift

    @functools.cached_property
    def _ends(self) -> list[int]:
        return [edit.end for edit in self.edits]

    @functools.cached_property
    def _growth(self) -> list[int]:
        growth = [0]
        for edit in self.edits:
            growth.append(growth[-1] + len(edit.replacement) - (edit.end - edit.start))
        return growth


def osa_distance(source: Sequence[int], target: Sequence[int]) -> int:
    """The least number of insertions, deletions, substitutions and swaps of neighbours, none of
    which touches what another has edited (optimal string alignment).

    Bit-parallel (Hyyrö, "A bit-vector algorithm for computing Levenshtein and Damerau edit
    distances", 2003): one column of the dynamic programme is two integers as long as `source`, whose
    bits are the vertical differences +1 and -1.
    """
    if not source:
        return len(target)
    ones = (1 << len(source)) - 1
    matches: dict[int, int] = {}
    for index, symbol in enumerate(source):
        matches[symbol] = matches.get(symbol, 0) | 1 << index
    last = 1 << (len(source) - 1)
    plus, minus, diagonal, previous = ones, 0, 0, 0
    distance = len(source)
    for symbol in target:
        match = matches.get(symbol, 0)
        swapped = ((~diagonal & match) << 1) & previous
        diagonal = (((match & plus) + plus) ^ plus) | match | minus | swapped
        right_plus = minus | ~(diagonal | plus)
        right_minus = diagonal & plus
        distance += bool(right_plus & last) - bool(right_minus & last)
        right_plus = right_plus << 1 | 1
        plus = (right_minus << 1 | ~(diagonal | right_plus)) & ones
        minus = right_plus & diagonal & ones
        previous = match
    return distance
