"""Texts and tokenizers of the tests, and merging as its definition has it: count all, every time."""

from __future__ import annotations

import functools
from collections import Counter

from hypothesis import strategies as st

from hat.text.tokenizers import ByteTokenizer, Tokenizer, train_bpe

LINES = [
    "the cat sat on the mat, and the cat's well-known mat sat on the cat. Then it left!\n",
    "def f(x):\n    return x + f(x - 1)  # naïve — the cat\n\n",
    "色は匂へど 散りぬるを。我が世誰ぞ 常ならむ！\n",
]

# Pieces that make repeated pairs likely, broken UTF-8 and all kinds of white space among them.
PIECES = [
    b"the", b" the", b" cat", b"cat-dog", b"  ", b" ", b"\n", b"\n\n", b"\t", b"aaa", b"ab", b", ",
    b".", b"! ", "é".encode(), "。".encode(), "\u3000".encode(), "\u00a0".encode(), b"\xff", b"\xc3",
    b"\xe2\x82", b"12", b"_", b"('x')",
]  # fmt: skip
TEXTS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=24).map(b"".join), st.binary(max_size=24)
)


@functools.cache
def bpe() -> Tokenizer:
    return train_bpe([line.encode() for line in LINES * 3], 300)


TOKENIZERS = {"bytes": ByteTokenizer, "bpe": bpe}


def recount(texts, base, most, least=1, most_parts=10**9):
    """The merges (left, right), their counts, the lengths after each, and the symbols of each text,
    with every pair counted anew for every merge."""
    texts = [list(zip(text.tokens.tolist(), text.opened.tolist())) for text in texts]
    parts = {}
    pairs, counts, lengths = [], [], [sum(map(len, texts))]
    while len(pairs) < most:
        count = Counter(
            (a, b) for text in texts for (a, _), (b, opened) in zip(text, text[1:]) if opened
        )
        count = {pair: c for pair, c in count.items()
                 if c >= least and sum(parts.get(s, 1) for s in pair) <= most_parts}  # fmt: skip
        if not count:
            break
        pair = min(count, key=lambda p: (-count[p], p))
        new = base + len(pairs)
        parts[new] = sum(parts.get(s, 1) for s in pair)
        texts = [replace(text, pair, new) for text in texts]
        pairs.append(pair)
        counts.append(count[pair])
        lengths.append(sum(map(len, texts)))
    return pairs, counts, lengths, [[symbol for symbol, _ in text] for text in texts]


def replace(text, pair, new):
    """The text with a pair merged from the left, wherever its junction is open."""
    out, i = [], 0
    while i < len(text):
        here = (text[i][0], text[i + 1][0]) == pair if i + 1 < len(text) else False
        if here and text[i + 1][1]:
            out.append((new, text[i][1]))
            i += 2
        else:
            out.append(text[i])
            i += 1
    return out
