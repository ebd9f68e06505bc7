"""Byte-pair merges over the words of a splitter, within each document.

As dynamic tokenization does with tokens (arXiv 2411.18553, section 3.1), but for every document by
itself, so that nothing depends on its neighbours: the most frequent pair of adjacent words becomes
one word, again and again. Which words merge depends on the whole document. So the boundaries tell
of bytes to come, and nats under them are a code length only together with what it costs to tell
the boundaries, which `boundary_nats` counts.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from hat.errors import UserError
from hat.text.splitters import Causality, Split, Splitter


@dataclasses.dataclass(frozen=True)
class Merged:
    """The words of `base` after at most `merges` merges, none longer than `max_word_bytes`.

    Merged is the most frequent pair, of equally frequent ones the first in the order of its bytes;
    its occurrences are taken from left to right. It ends early when no pair occurs twice.
    """

    base: Splitter
    merges: int
    max_word_bytes: int = 100
    causality = Causality("sequence")

    def __post_init__(self):
        if self.merges < 0:
            raise UserError(f"{self.merges} merges cannot be; give 0 or more")
        if self.base.causality.kind != "byte":
            raise UserError(f"merges over {self.base.name}, which is not byte-causal, are unknown")

    @property
    def name(self) -> str:
        return f"{self.base.name}+merges-v1-{self.merges}-max{self.max_word_bytes}"

    def split(self, data: np.ndarray) -> Split:
        """uint8[T] -> Split; a word is known to be complete once the base knows its last part to
        be, for a reader who has been told which parts are one word."""
        base = self.base.split(data)
        begins = np.flatnonzero(base.starts)
        parts = merge_counts(data, begins, self.merges, self.max_word_bytes)
        ends = np.cumsum(parts)
        starts = np.zeros(len(data), bool)
        starts[begins[ends - parts]] = True
        known = np.searchsorted(ends, base.known, "right").astype(np.int32)
        return Split(starts, known)

    def boundary_nats(self, data: np.ndarray) -> np.ndarray:
        """float64[T]: what it costs to tell, at every byte that starts a word of the base, whether
        it starts a word here. The cost of an adaptive code over these answers, each given the one
        before it (Krichevsky and Trofimov); 0 at other bytes, and at the first, which does."""
        answers = self.split(data).starts[np.flatnonzero(self.base.split(data).starts)[1:]]
        before = np.concatenate([[True], answers[:-1]])[: len(answers)]
        nats = np.zeros(len(answers))
        for context in (False, True):
            mine = answers[before == context]
            seen = np.arange(len(mine))
            ones = np.cumsum(mine) - mine
            equal = np.where(mine, ones, seen - ones)
            nats[before == context] = -np.log((equal + 0.5) / (seen + 1))
        told = np.zeros(len(data))
        told[np.flatnonzero(self.base.split(data).starts)[1:]] = nats
        return told


def merge_counts(
    data: np.ndarray, begins: np.ndarray, merges: int, max_bytes: int
) -> np.ndarray:
    """How many parts each word has, int64 [words]; the parts of uint8[T] begin at `begins`."""
    text = data.tobytes()
    ends = np.append(begins[1:], len(text))
    numbers: dict[bytes, int] = {}
    ids = np.array(
        [numbers.setdefault(text[a:b], len(numbers)) for a, b in zip(begins.tolist(), ends.tolist())],
        np.int64,
    )
    spellings = list(numbers)
    parts = np.ones(len(ids), np.int64)
    counts = _Counts(spellings, max_bytes)
    counts.add(ids[:-1], ids[1:], 1)
    for _ in range(merges):
        pair = counts.most_frequent()
        if pair is None:
            break
        left = _occurrences(ids, *pair)
        merged = numbers.setdefault(spellings[pair[0]] + spellings[pair[1]], len(spellings))
        if merged == len(spellings):
            spellings.append(spellings[pair[0]] + spellings[pair[1]])
        # The pairs that change are those that touch a merged word, before and after.
        changed = _pairs_at(left[:, None] + np.array([-1, 0, 1]), len(ids))
        counts.add(ids[changed], ids[changed + 1], -1)
        keep = np.ones(len(ids), bool)
        keep[left + 1] = False
        parts[left] += parts[left + 1]
        ids[left] = merged
        ids, parts = ids[keep], parts[keep]
        left -= np.arange(len(left))
        changed = _pairs_at(left[:, None] + np.array([-1, 0]), len(ids))
        counts.add(ids[changed], ids[changed + 1], 1)
    return parts


def _occurrences(ids: np.ndarray, first: int, second: int) -> np.ndarray:
    """Where the pair begins, none overlapping the one before it."""
    left = np.flatnonzero((ids[:-1] == first) & (ids[1:] == second))
    if first != second:
        return left
    opens = np.diff(left, prepend=-2) > 1  # a run of n + 1 equal words has n places: every other
    place = np.arange(len(left))
    return left[(place - np.maximum.accumulate(np.where(opens, place, 0))) % 2 == 0]


def _pairs_at(places: np.ndarray, length: int) -> np.ndarray:
    """The places that have a word after them, each once."""
    places = np.unique(places)
    return places[(places >= 0) & (places < length - 1)]


class _Counts:
    """How often every pair of adjacent words occurs."""

    def __init__(self, spellings: list[bytes], max_bytes: int):
        self._spellings, self._max_bytes = spellings, max_bytes
        self._counts: dict[tuple[int, int], int] = {}

    def add(self, first: np.ndarray, second: np.ndarray, sign: int) -> None:
        """Counts the pairs (first[i], second[i]), or takes them back."""
        pairs, times = np.unique(np.stack([first, second]), axis=1, return_counts=True)
        for a, b, n in zip(*pairs.tolist(), times.tolist()):
            if len(self._spellings[a]) + len(self._spellings[b]) <= self._max_bytes:
                count = self._counts.get((a, b), 0) + sign * n
                if count:
                    self._counts[a, b] = count
                else:
                    del self._counts[a, b]

    def most_frequent(self) -> tuple[int, int] | None:
        """The pair that occurs most; None where none occurs twice."""
        most = max(self._counts.values(), default=0)
        if most < 2:
            return None
        best = (pair for pair, count in self._counts.items() if count == most)
        return min(best, key=lambda pair: (self._spellings[pair[0]], self._spellings[pair[1]]))
