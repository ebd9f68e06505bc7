"""The tree of valid token sequences along a text, and the distributions of bytes read off it.

Every prefix of a text has covers: a sequence of tokens that ends inside it, and one more token that
reaches its end or passes it. All but the last tokens of all covers of all prefixes are nodes of
one tree, about one node a byte. A node whose text ends at byte s has a say in the distribution
after byte i for as long as text[s:i] begins a token: the mass of the tokens that go on with a byte
is what it gives to that byte.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from hat.byte_exact.canonical import DEAD, Canonical
from hat.byte_exact.model import END, NUM_SYMBOLS
from hat.byte_exact.token_bytes import Vocabulary
from hat.text.split_loop import compiled


@dataclasses.dataclass(frozen=True)
class Tree:
    """Nodes in the order of the bytes at which their texts end, the root (BOS) first.

    tokens, parents (-1: none), depths, ends (bytes of the node's text), configurations: int [N].
    paths: `Vocabulary.paths` of the text.
    """

    tokens: np.ndarray
    parents: np.ndarray
    depths: np.ndarray
    ends: np.ndarray
    configurations: np.ndarray
    paths: np.ndarray


def build_tree(text: bytes, vocabulary: Vocabulary, canonical: Canonical) -> Tree:
    """All valid sequences whose texts are prefixes of `text`, the whole included."""
    paths = vocabulary.paths(text)
    tokens_at = _Exact(vocabulary)
    tokens, parents, depths = [vocabulary.tokenizer.bos], [-1], [0]
    ends, configurations = [0], [canonical.start]
    waiting: list[list[tuple]] = [[] for _ in range(len(text) + 1)]
    step = canonical.step
    node = 0
    for at in range(len(text) + 1):
        for parent, token, configuration in waiting[at]:
            tokens.append(token)
            parents.append(parent)
            depths.append(depths[parent] + 1)
            ends.append(at)
            configurations.append(configuration)
        waiting[at] = []
        along = tokens_at.along(paths[at])
        while node < len(tokens):
            before = configurations[node]
            for size, token in along:
                after = step(before, token)
                if after != DEAD:
                    waiting[at + size].append((node, token, after))
            node += 1
    arrays = (np.array(x, np.int32) for x in (tokens, parents, depths, ends, configurations))
    return Tree(*arrays, paths)


class _Exact:
    """The tokens that end at each node of the trie."""

    def __init__(self, vocabulary: Vocabulary):
        self._vocabulary = vocabulary
        self._has = vocabulary.exact > vocabulary.low

    def along(self, path: np.ndarray) -> list[tuple[int, int]]:
        """(bytes, token) of the tokens that the text on this path begins with."""
        v = self._vocabulary
        nodes = path[path >= 0]
        sizes = np.flatnonzero(self._has[nodes])
        return [
            (size, int(token))
            for size in sizes.tolist()
            for token in v.order[v.low[nodes[size]] : v.exact[nodes[size]]]
        ]


class Masses:
    """Sums up what nodes give to symbols: per prefix the log-mass of each of the 257, exact to
    rounding however small. Rows are prefixes of a text of `length` bytes."""

    def __init__(self, vocabulary: Vocabulary, length: int):
        self._vocabulary = vocabulary
        self._tops = np.full((length + 1, NUM_SYMBOLS), -np.inf)
        self._sums = np.zeros((length + 1, NUM_SYMBOLS))

    def add(
        self,
        logprobs: np.ndarray,
        weights: np.ndarray,
        rows: np.ndarray,
        paths: np.ndarray,
        masks: np.ndarray | None,
        may_end: np.ndarray,
    ) -> None:
        """Adds nodes: logprobs float32 [N, ids], weights float64 [N] (their log-probabilities),
        rows int [N] of the prefix that each path int [N, D] (nodes of the trie, then -1) begins
        at; masks bool [N, S]: the tokens that count (None: all); may_end bool [N]."""
        v = self._vocabulary
        none = np.ones((1, 1), bool)
        _add(
            logprobs, np.exp(logprobs), weights, rows.astype(np.int64), paths,
            none if masks is None else masks, masks is not None, may_end, v.order, v.ends, *v.trie,
            self._tops, self._sums, END,
        )  # fmt: skip

    def logs(self) -> np.ndarray:
        """float64 [length + 1, 257]."""
        with np.errstate(divide="ignore"):
            return self._tops + np.log(self._sums)


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
def _log_sum(logprobs, probabilities, order, mask, masked, low, high):
    """`log_sum` with the exponentials at hand."""
    total = 0.0
    for i in range(low, high):
        if not masked or mask[i]:
            total += np.float64(probabilities[order[i]])
    if total < _SMALL:
        return log_sum(logprobs, order, mask, masked, low, high)
    return np.log(total)


@compiled
def log_sum(logprobs, order, mask, masked, low, high):
    """log of the sum of exp(logprobs[order[low:high]]), of those in the mask where `masked`."""
    top = -np.inf
    for i in range(low, high):
        if (not masked or mask[i]) and logprobs[order[i]] > top:
            top = np.float64(logprobs[order[i]])
    if top == -np.inf:
        return top
    total = 0.0
    for i in range(low, high):
        if not masked or mask[i]:
            total += np.exp(np.float64(logprobs[order[i]]) - top)
    return top + np.log(total)


@compiled
def _add(
    logprobs, probabilities, weights, rows, paths, masks, masked, may_end, order, ends,
    first, count, byte, low, exact, high, tops, sums, end,
):  # fmt: skip
    for n in range(len(weights)):
        mask = masks[n] if masked else masks[0]
        if may_end[n]:
            log_mass = _log_sum(logprobs[n], probabilities[n], ends, mask, False, 0, len(ends))
            _add_one(tops, sums, rows[n], end, weights[n] + log_mass)
        for d in range(paths.shape[1]):
            node = paths[n, d]
            if node < 0 or rows[n] + d >= len(tops):
                break
            for c in range(first[node], first[node] + count[node]):
                log_mass = _log_sum(
                    logprobs[n], probabilities[n], order, mask, masked, low[c], high[c]
                )
                _add_one(tops, sums, rows[n] + d, byte[c], weights[n] + log_mass)
