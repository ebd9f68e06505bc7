"""The tree of valid token sequences along a text.

Every prefix of a text has covers: a sequence of tokens that ends inside it, and one more token that
reaches its end or passes it. All but the last tokens of all covers of all prefixes are nodes of
one tree, about one node a byte.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from hat.byte_exact.canonical import DEAD, Canonical
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
    starts, sizes, begun = (found.tolist() for found in _tokens_along(
        paths, vocabulary.low, vocabulary.exact, vocabulary.order
    ))  # fmt: skip
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
        along = range(starts[at], starts[at + 1])
        while node < len(tokens):
            before = configurations[node]
            for i in along:
                token = begun[i]
                after = step(before, token)
                if after != DEAD:
                    waiting[at + sizes[i]].append((node, token, after))
            node += 1
    arrays = (np.array(x, np.int32) for x in (tokens, parents, depths, ends, configurations))
    return Tree(*arrays, paths)


def weigh(tree: Tree, weights: np.ndarray, first: int, logprobs: np.ndarray) -> None:
    """Fills in the log-probabilities float64 [N] of the children of nodes from `first` on, whose
    own are there, by what [n, ids] the model says after these."""
    _weigh(tree.tokens, tree.parents, weights, first, logprobs)


@compiled
def _weigh(tokens, parents, weights, first, logprobs):
    for child in range(first + 1, len(tokens)):
        row = parents[child] - first
        if 0 <= row < len(logprobs):
            weights[child] = weights[parents[child]] + logprobs[row, tokens[child]]


@compiled
def _tokens_along(paths, low, exact, order):
    """The tokens that the text begins with at each place t, shortest first: bytes and tokens int32,
    those of t from starts[t] to starts[t + 1]."""
    starts = np.zeros(len(paths) + 1, np.int64)
    for t in range(len(paths)):
        starts[t + 1] = starts[t]
        for d in range(1, paths.shape[1]):
            node = paths[t, d]
            if node < 0:
                break
            starts[t + 1] += exact[node] - low[node]
    sizes, tokens = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.int32)
    at = 0
    for t in range(len(paths)):
        for d in range(1, paths.shape[1]):
            node = paths[t, d]
            if node < 0:
                break
            for i in range(low[node], exact[node]):
                sizes[at], tokens[at] = d, order[i]
                at += 1
    return starts, sizes, tokens
