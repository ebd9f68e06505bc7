"""The distributions of bytes that nodes of a tree add up to.

A node whose text ends at byte s has a say in the distribution after byte i for as long as text[s:i]
begins a token: the mass of the tokens that go on with a byte is what it gives to that byte. Tokens
that go on alike are neighbours in the sorted vocabulary, so a mass is the sum of a range.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hat.byte_exact.model import END, NUM_SYMBOLS
from hat.byte_exact.token_bytes import Vocabulary
from hat.text.split_loop import compiled

_NO_MASK = np.zeros(0, np.uint8)
_AT_ONCE = 1 << 20  # probabilities that are worked out together


class Following(NamedTuple):
    """What follows a node: log-probabilities float32 [ids], the same as probabilities; which tokens
    count, bits in sorted order (empty: all); and whether END does."""

    logprobs: np.ndarray
    probabilities: np.ndarray
    mask: np.ndarray
    may_end: bool


def following(logprobs: np.ndarray, mask: np.ndarray | None = None, may_end=True) -> Following:
    mask = _NO_MASK if mask is None else mask
    return Following(logprobs, np.exp(logprobs), mask, bool(may_end))


class Masses:
    """Sums up what nodes give to symbols: per prefix the log-mass of each of the 257, exact to
    rounding however small. Rows are prefixes of a text of `length` bytes."""

    def __init__(self, vocabulary: Vocabulary, length: int):
        self._vocabulary = vocabulary
        self._tops = np.full((length + 1, NUM_SYMBOLS), -np.inf)
        self._sums = np.zeros((length + 1, NUM_SYMBOLS))

    def add_one(self, its: Following, weight: float, at: int) -> None:
        """Adds to row 0 a node of log-probability `weight`, with the text behind it at a node of
        the trie."""
        v = self._vocabulary
        _add_node(its.logprobs, its.probabilities, its.mask, its.may_end and not at, weight, 0, at,
                  v.order, v.ends, v.first, v.count, v.byte, v.low, v.high, self._tops, self._sums,
                  END)  # fmt: skip

    def add(
        self,
        logprobs: np.ndarray,
        masks: np.ndarray | None,
        may_end: np.ndarray,
        weights: np.ndarray,
        rows: np.ndarray,
        paths: np.ndarray,
    ) -> None:
        """Adds nodes: logprobs float32 [N, ids]; masks uint8 [N, ceil(S / 8)] and may_end bool [N]
        as in `Following`; weights float64 [N], their log-probabilities; rows int [N] of the prefix
        that each path int32 [N, D] (nodes of the trie, then -1) begins at."""
        masks = np.zeros((len(weights), 0), np.uint8) if masks is None else masks
        size = max(1, _AT_ONCE // logprobs.shape[1])
        for first in range(0, len(weights), size):
            part = slice(first, first + size)
            self._add(logprobs[part], np.exp(logprobs[part]), masks[part], may_end[part],
                      weights[part], rows[part].astype(np.int64), paths[part])  # fmt: skip

    def _add(self, *nodes) -> None:
        v = self._vocabulary
        _add(*nodes, v.order, v.ends, v.first, v.count, v.byte, v.low, v.high, self._tops,
             self._sums, END)  # fmt: skip

    def logs(self) -> np.ndarray:
        """float64 [length + 1, 257]."""
        with np.errstate(divide="ignore"):
            return self._tops + np.log(self._sums)


def log_mass(its: Following, vocabulary: Vocabulary, low: int, high: int) -> float:
    """log of the mass of the tokens at [low, high) of the sorted order."""
    return _log_sum(its.logprobs, its.probabilities, vocabulary.order, its.mask, low, high)


@compiled
def _add_one(tops, sums, row, symbol, log_mass):
    if log_mass == -np.inf:
        return
    top = tops[row, symbol]
    if log_mass <= top:
        sums[row, symbol] += np.exp(log_mass - top)
    else:
        sums[row, symbol] = sums[row, symbol] * np.exp(top - log_mass) + 1.0
        tops[row, symbol] = log_mass


# Below it a sum of float32 probabilities may have lost what is smaller than they can be.
_SMALL = 1e-30


@compiled
def _counts(mask, i):
    return len(mask) == 0 or mask[i >> 3] & (128 >> (i & 7)) != 0


@compiled
def _log_sum(logprobs, probabilities, order, mask, low, high):
    """log of the sum of exp(logprobs[order[low:high]]), of those in the mask."""
    total = 0.0
    if len(mask):
        for i in range(low, high):  # without a branch, which could not be foreseen
            total += np.float64(probabilities[order[i]] * ((mask[i >> 3] >> (7 - (i & 7))) & 1))
    else:
        for i in range(low, high):
            total += np.float64(probabilities[order[i]])
    if total >= _SMALL:
        return np.log(total)
    top = -np.inf
    for i in range(low, high):
        if _counts(mask, i) and logprobs[order[i]] > top:
            top = np.float64(logprobs[order[i]])
    if top == -np.inf:
        return top
    total = 0.0
    for i in range(low, high):
        if _counts(mask, i):
            total += np.exp(np.float64(logprobs[order[i]]) - top)
    return top + np.log(total)


@compiled
def _add_node(
    logprobs, probabilities, mask, may_end, weight, row, node, order, ends,
    first, count, byte, low, high, tops, sums, end,
):  # fmt: skip
    if may_end:
        mass = _log_sum(logprobs, probabilities, ends, mask[:0], 0, len(ends))
        _add_one(tops, sums, row, end, weight + mass)
    for c in range(first[node], first[node] + count[node]):
        mass = _log_sum(logprobs, probabilities, order, mask, low[c], high[c])
        _add_one(tops, sums, row, byte[c], weight + mass)


@compiled
def _add(
    logprobs, probabilities, masks, may_end, weights, rows, paths, order, ends,
    first, count, byte, low, high, tops, sums, end,
):  # fmt: skip
    for n in range(len(weights)):
        for d in range(paths.shape[1]):
            node = paths[n, d]
            if node < 0 or rows[n] + d >= len(tops):
                break
            _add_node(
                logprobs[n], probabilities[n], masks[n], may_end[n] and d == 0, weights[n],
                rows[n] + d, node, order, ends, first, count, byte, low, high, tops, sums, end,
            )  # fmt: skip
