"""What every token spells, sorted: the vocabulary as a trie whose nodes are ranges of tokens.

Tokens that spell bytes are put in the order of their bytes ("sorted order"), equal spellings by
id, so that the tokens that begin with given bytes lie in one range [low, high). Of these, the ones
that spell exactly these bytes come first. Ids without bytes (BOS, EOT and other specials, rows of
an embedding without a token) are symbols of their own: no text spells them, and a prompt that
contains "<|endoftext|>" contains thirteen characters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hat.errors import UserError
from hat.text.split_loop import compiled
from hat.text.tokenizers import Tokenizer

_CHILDREN = 1 << 18  # steps of the trie that are kept: a look-up is a tenth of a compiled call


class Vocabulary:
    """The sorted tokens of a tokenizer and the trie over them.

    order int32 [S]: the id at each place of the sorted order; place int32 [num_ids]: the inverse,
    -1 for ids that spell nothing; ends int64: those ids. A node of the trie is a string that some
    token begins with, 0 the empty one, numbered by length: low, exact and high int32 [nodes] give
    its tokens [low, high), those that spell just it being [low, exact); its children are the nodes
    [first, first + count), child `c` adding byte[c]. depth int32 [nodes]: its bytes.
    """

    def __init__(self, tokenizer: Tokenizer, num_ids: int):
        """num_ids: of the model's distribution. UserError: fewer than the tokenizer's."""
        needed = max(tokenizer.vocab_size, tokenizer.eot + 1, tokenizer.bos + 1)
        if needed > num_ids:
            raise UserError(
                f"tokenizer {tokenizer.name} has ids up to {needed - 1} and the model only "
                f"{num_ids}: it is not the tokenizer of this model, or the model has no id for "
                "the beginning or the end of a text"
            )
        self.tokenizer = tokenizer
        self.spellings = [tokenizer.token_bytes(token) for token in range(num_ids)]
        spelled = [token for token, text in enumerate(self.spellings) if text]
        order = sorted(spelled, key=lambda token: (self.spellings[token], token))
        self.order = np.array(order, np.int32)
        self.place = np.full(num_ids, -1, np.int32)
        self.place[self.order] = np.arange(len(order), dtype=np.int32)
        self.ends = np.flatnonzero(self.place < 0)
        self._children: dict[int, int] = {}  # by node and byte, as far as asked for
        self._exact_ids: dict[int, list[int]] = {}
        self._build([self.spellings[token] for token in order])

    def _build(self, texts: Sequence[bytes]) -> None:
        size = np.array([len(text) for text in texts], np.int32)
        self.longest = longest = int(size.max())
        letters = np.zeros((len(texts), longest), np.uint8)
        for row, text in enumerate(texts):
            letters[row, : len(text)] = np.frombuffer(text, np.uint8)
        of_row = np.zeros(len(texts), np.int64)  # the node at the current depth that a row is below
        low, high, byte, depth, parent = [[0]], [[len(texts)]], [[0]], [[0]], [[-1]]
        num_nodes = 1
        for level in range(1, longest + 1):
            rows = np.flatnonzero(size >= level)
            letter = letters[rows, level - 1]
            opens = np.ones(len(rows), bool)
            # Rows of one node are neighbours: a shorter row between two would be a smaller string.
            same = (of_row[rows[1:]] == of_row[rows[:-1]]) & (letter[1:] == letter[:-1])
            opens[1:] = ~same
            first = np.flatnonzero(opens)
            low.append(rows[first])
            high.append(rows[np.append(first[1:], len(rows)) - 1] + 1)
            byte.append(letter[first])
            depth.append(np.full(len(first), level))
            parent.append(of_row[rows[first]])
            of_row[rows] = num_nodes + np.cumsum(opens) - 1
            num_nodes += len(first)

        def joined(parts, dtype=np.int32):
            return np.concatenate(parts).astype(dtype)

        self.low, self.high, self.depth = joined(low), joined(high), joined(depth)
        self.byte, self.parent = joined(byte, np.uint8), joined(parent)
        self.count = np.bincount(self.parent[1:], minlength=num_nodes).astype(np.int32)
        self.first = (1 + np.cumsum(self.count) - self.count).astype(np.int32)
        exact = np.bincount(of_row[size > 0], minlength=num_nodes)  # rows end at their last node
        self.exact = (self.low + exact).astype(np.int32)
        self.node_of = of_row.astype(np.int32)  # [S]: the node that a token spells
        self.levels = np.searchsorted(self.depth, np.arange(longest + 2))  # first node by length

    @property
    def trie(self) -> tuple[np.ndarray, ...]:
        """What the compiled loops take: first, count, byte, low, exact, high."""
        return self.first, self.count, self.byte, self.low, self.exact, self.high

    def child(self, node: int, byte: int) -> int:
        """The node one byte further, or -1."""
        key = node << 8 | byte
        found = self._children.get(key)
        if found is None:
            if len(self._children) >= _CHILDREN:
                self._children.clear()
            found = self._children[key] = child(self.first, self.count, self.byte, node, byte)
        return found

    def find(self, text: bytes) -> int:
        """The node of a string, or -1 where no token begins with it."""
        node = 0
        for byte in text:
            node = self.child(node, byte)
            if node < 0:
                break
        return node

    def exact_ids(self, node: int) -> list[int]:
        """The ids that spell just this node's string; two or more where they are duplicates."""
        found = self._exact_ids.get(node)
        if found is None:
            ids = self.order[self.low[node] : self.exact[node]].tolist()
            found = self._exact_ids[node] = ids
        return found

    def paths(self, text: bytes) -> np.ndarray:
        """int32 [T + 1, longest + 1]: the nodes along text[t:], the root first, then -1."""
        out = np.full((len(text) + 1, self.longest + 1), -1, np.int32)
        walk(self.first, self.count, self.byte, np.frombuffer(text, np.uint8), out)
        return out


@compiled
def child(first, count, byte, node, wanted):
    """The child of `node` that adds the byte `wanted`, or -1. Children are sorted by byte."""
    low, high = first[node], first[node] + count[node]
    while low < high:
        middle = (low + high) // 2
        if byte[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    if low < first[node] + count[node] and byte[low] == wanted:
        return low
    return -1


@compiled
def walk(first, count, byte, text, out):
    for start in range(len(text) + 1):
        node = 0
        for step in range(out.shape[1]):
            out[start, step] = node
            if start + step >= len(text):
                break
            node = child(first, count, byte, node, text[start + step])
            if node < 0:
                break
