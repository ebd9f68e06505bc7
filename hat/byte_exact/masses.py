"""The distributions of bytes that nodes of a tree add up to.

A node whose text ends at byte s has a say in the distribution after byte i for as long as text[s:i]
begins a token: the mass of the tokens that go on with a byte is what it gives to that byte. Tokens
that go on alike are neighbours in the sorted vocabulary, so a mass is the sum of a range.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from hat.byte_exact.model import END, NUM_SYMBOLS
from hat.byte_exact.token_bytes import Vocabulary
from hat.text.split_loop import compiled

_NO_MASK = np.zeros(0, np.uint8)
_AT_ONCE = 1 << 20  # probabilities that are worked out together


class Following(NamedTuple):
    """What follows a node: log-probabilities float32 [ids]; probabilities float32 [S] of the tokens
    in sorted order, 0 where they do not count and above it where they do; which ones do, bits in
    sorted order (empty: all); and whether END does."""

    logprobs: np.ndarray
    probabilities: np.ndarray
    mask: np.ndarray
    may_end: bool


def following(
    logprobs: np.ndarray, vocabulary: Vocabulary, mask: np.ndarray | None = None, may_end=True
) -> Following:
    mask = _NO_MASK if mask is None else mask
    probabilities = np.empty(len(vocabulary.order), logprobs.dtype)
    _sort(np.exp(logprobs), vocabulary.order, mask, _BITS, probabilities)
    return Following(logprobs, probabilities, mask, bool(may_end))


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
             self._sums, END, _BITS)  # fmt: skip

    def logs(self) -> np.ndarray:
        """float64 [length + 1, 257]."""
        with np.errstate(divide="ignore"):
            return self._tops + np.log(self._sums)


def log_mass(its: Following, vocabulary: Vocabulary, low: int, high: int) -> float:
    """log of the mass of the tokens at [low, high) of the sorted order."""
    mass = _range_sum(its.probabilities, low, high)
    if mass >= _SMALL:
        return math.log(mass)
    if mass == 0.0:
        return -math.inf
    top, mass = _small_sum(its.logprobs, vocabulary.order, its.mask, low, high)
    return top + math.log(mass) if mass else -math.inf


# float32 probabilities are raised to _TINY, so that a sum of 0 says that no token counts. Sums below
# _SMALL, where what is added or lost at _TINY may show, are worked out from logarithms.
_TINY = np.float32(1.2e-38)
_SMALL = 1e-24

_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float32)


@compiled
def _sort(probabilities, order, mask, bits, out):
    """Probabilities by id -> in sorted order, 0 where they do not count: then a mass is a sum of
    neighbours in memory, which is worth a pass over all, since most are summed more than once."""
    size = len(order)
    if len(mask) == 0:
        for i in range(size):
            out[i] = max(probabilities[order[i]], _TINY)
        return
    for j in range(size >> 3):  # without branches, which could not be foreseen
        row = mask[j]
        for k in range(8):
            i = 8 * j + k
            out[i] = max(probabilities[order[i]], _TINY) * bits[row, k]
    for i in range(size & -8, size):
        out[i] = max(probabilities[order[i]], _TINY) * bits[mask[i >> 3], i & 7]


@compiled
def _range_sum(probabilities, low, high):
    """In float64; two sums, which need not wait for each other."""
    a, b, i = 0.0, 0.0, low
    while i + 2 <= high:
        a += np.float64(probabilities[i])
        b += np.float64(probabilities[i + 1])
        i += 2
    if i < high:
        a += np.float64(probabilities[i])
    return a + b


@compiled
def _counts(mask, i):
    return len(mask) == 0 or mask[i >> 3] & (128 >> (i & 7)) != 0


@compiled
def _small_sum(logprobs, order, mask, low, high):
    """(top, sum): exp(top) * sum is the mass of the tokens at [low, high) that count."""
    top, total = -np.inf, 0.0
    for i in range(low, high):
        if _counts(mask, i):
            top = max(top, np.float64(logprobs[order[i]]))
    if top > -np.inf:
        for i in range(low, high):
            if _counts(mask, i):
                total += np.exp(np.float64(logprobs[order[i]]) - top)
    return top, total


@compiled
def _add_node(
    logprobs, probabilities, mask, may_end, weight, row, node, order, ends,
    first, count, byte, low, high, tops, sums, end,
):  # fmt: skip
    """Adds to each symbol exp(weight) * mass. What it has is exp(top) * sum, where the top is the
    greatest weight so far: no exponential where weights are the same. In one piece, since a call
    costs ten times as much as most sums."""
    symbols = count[node] + (len(ends) if may_end else 0)
    for n in range(symbols):
        if n < count[node]:
            c = first[node] + n
            symbol, shift = np.int64(byte[c]), weight
            mass = _range_sum(probabilities, low[c], high[c])
            if 0.0 < mass < _SMALL:
                top, mass = _small_sum(logprobs, order, mask, low[c], high[c])
                shift = weight + top
        else:
            symbol, mass = end, 1.0
            shift = weight + np.float64(logprobs[ends[n - count[node]]])
        if mass == 0.0 or shift == -np.inf:
            continue
        top = tops[row, symbol]
        if shift == top:
            sums[row, symbol] += mass
        elif shift < top:
            sums[row, symbol] += mass * np.exp(shift - top)
        else:
            sums[row, symbol] = sums[row, symbol] * np.exp(top - shift) + mass
            tops[row, symbol] = shift


@compiled
def _add(
    logprobs, probabilities, masks, may_end, weights, rows, paths, order, ends,
    first, count, byte, low, high, tops, sums, end, bits,
):  # fmt: skip
    its = np.empty(len(order), probabilities.dtype)
    for n in range(len(weights)):
        _sort(probabilities[n], order, masks[n], bits, its)
        for d in range(paths.shape[1]):
            node = paths[n, d]
            if node < 0 or rows[n] + d >= len(tops):
                break
            _add_node(
                logprobs[n], its, masks[n], may_end[n] and d == 0, weights[n],
                rows[n] + d, node, order, ends, first, count, byte, low, high, tops, sums, end,
            )  # fmt: skip
