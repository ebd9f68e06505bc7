"""Slow and independent: token models that are tables, covers listed one by one, all in float64."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from hat.byte_exact.model import END, NUM_SYMBOLS
from hat.text.tokenizers import Tokenizer

Sequence = tuple[int, ...]
# Given a sequence of tokens, float64 [ids] probabilities of the next.
TokenModel = Callable[[Sequence], np.ndarray]

# A byte that is no UTF-8 ends what is before it, which most beginnings allow: it is tried first.
ENDINGS = [b"\xff"] + [e.encode() for e in (
    "", "a", "S", "s", "t", "l", "ll", "e", "re", " ", "  ", " a", "  .", "\n", "\r", "\r\n", "\ta",
    "1", "11", "1a", "111", "11a", "1111", "'", "'s", ".", "é", "色", "\u0301", "h>", "heme>",
)]  # fmt: skip
# What may complete a character: letters, marks and digits of several scripts, and what follows.
_TAILS = [bytes([b]) for b in range(0x80, 0xC0)]
_TAILS += [bytes(b) for b in ((0xA5, 0xA6), (0xBC, 0x90), (0xA9, 0x90), (0x81, 0x80), (0xB8, 0x80),
                              (0x80, 0x80), (0x9F, 0x80), (0xAF, 0xB0), (0x80, 0x80, 0x80), (0x9D, 0x9F, 0x8E),
                              (0x9F, 0x8F, 0xB3))]
COMPLETIONS = ENDINGS[:1] + [tail + e for tail in _TAILS for e in (b"", b"1", b"11")] + ENDINGS[1:]


def random_table(num_ids: int, seed: int, sharpness: float = 2.0) -> TokenModel:
    """A random distribution for every pair of last tokens."""

    @functools.cache
    def rows(last: int, before: int) -> np.ndarray:
        logits = sharpness * np.random.default_rng([seed, last, before]).standard_normal(num_ids)
        p = np.exp(logits - logits.max())
        return p / p.sum()

    return lambda tokens: rows(tokens[-1] if tokens else num_ids, tokens[-2] if tokens[1:] else 0)


class Reference:
    """A tokenizer, and the covers of texts under each law."""

    def __init__(self, tokenizer: Tokenizer, num_ids: int):
        self.tokenizer = tokenizer
        self.spell = [tokenizer.token_bytes(token) for token in range(num_ids)]
        self.ends = [token for token in range(num_ids) if not self.spell[token]]
        self.starting: dict[bytes, list[int]] = {}
        for token, text in enumerate(self.spell):
            for size in range(len(text) + bool(text)):
                self.starting.setdefault(text[:size], []).append(token)
        self.encode = functools.cache(lambda text: tuple(tokenizer.encode(text).tolist()))
        self.valid = functools.cache(self._valid)

    def _valid(self, tokens: Sequence) -> bool:
        """Whether some text's encoding begins so: tried with many endings."""
        text = b"".join(self.spell[token] for token in tokens)
        partial = text.decode("utf-8", "ignore").encode() != text
        endings = COMPLETIONS if partial else ENDINGS
        return any(self.encode(text + e)[: len(tokens)] == tokens for e in endings)

    def inner(self, text: bytes, law: str) -> Iterator[tuple[Sequence, bytes]]:
        """Sequences that end inside a text or at its end, and the text after them."""
        todo: list[tuple[Sequence, bytes]] = [((), text)]
        while todo:
            tokens, rest = todo.pop()
            yield tokens, rest
            for size in range(1, len(rest) + 1):
                for token in self.starting.get(rest[:size], ()):
                    longer = (*tokens, token)
                    if self.spell[token] == rest[:size] and (law == "all" or self.valid(longer)):
                        todo.append((longer, rest[size:]))

    def masses(self, model: TokenModel, text: bytes, law: str) -> np.ndarray:
        """float64 [257]: the probability that a text begins with `text` and a byte, or is it."""
        out = np.zeros(NUM_SYMBOLS)
        for tokens, rest in self.inner(text, law):
            weight = probability(model, tokens)
            p = model(tokens)
            for token in self.starting.get(rest, ()):
                more = self.spell[token][len(rest) :]
                if more and (law != "canonical" or self.valid((*tokens, token))):
                    out[more[0]] += weight * p[token]
            if not rest and (law != "canonical" or self.encode(text) == tokens):
                out[END] += weight * p[self.ends].sum()
        return out

    def prefix(self, model: TokenModel, text: bytes, law: str) -> float:
        """The probability of the covers of a text."""
        return self.masses(model, text[:-1], law)[text[-1]] if text else 1.0


def probability(model: TokenModel, tokens: Sequence) -> float:
    return float(np.prod([model(tokens[:i])[token] for i, token in enumerate(tokens)]))


def all_texts(
    model: TokenModel, spell: list[bytes], active: list[int], longest: int
) -> dict[bytes, float]:
    """The probability of every text, by listing every sequence of up to `longest` active tokens;
    a longer one is cut off as if it ended there. Knows nothing of covers."""
    texts: dict[bytes, float] = {}
    for size in range(longest + 1):
        for tokens in itertools.product(active, repeat=size):
            p = probability(model, tokens)
            if size < longest:
                p *= 1 - model(tokens)[active].sum()
            text = b"".join(spell[token] for token in tokens)
            texts[text] = texts.get(text, 0.0) + p
    return texts


class TableEvaluator:
    """Stands in for `hat.byte_exact.tree_attention.Evaluator`, over a table of its own kind."""

    window = None
    max_nodes = 64
    max_rows = 2

    def __init__(self, model: TokenModel, num_ids: int):
        self.table, self.num_ids = model, num_ids

    def whole(self, trees):
        rows = []
        for tokens, parents, _ in trees:
            ways: list[Sequence] = []
            for token, parent in zip(tokens.tolist(), parents.tolist()):
                ways.append((*ways[parent], token) if parent >= 0 else ())
            rows.append(np.stack([self._logs(way) for way in ways]))
        size = max(map(len, rows))
        padded = [np.pad(r, ((0, size - len(r)), (0, 0))) for r in rows]
        for first in range(0, size, 7):
            yield first, np.stack(padded)[:, first : first + 7]

    def empty(self, rows: int, slots: int) -> np.ndarray:
        """Of each slot its token and its depth."""
        return np.zeros((slots, 2), np.int64)

    def grow(self, memory: np.ndarray, slots: int) -> np.ndarray:
        return np.pad(memory, ((0, slots - len(memory)), (0, 0)))

    def extend(self, memory, tokens, depths, slots, visible):
        memory, out = memory.copy(), []
        for token, depth, slot in zip(tokens[0], depths[0], slots[0]):
            if slot < len(memory):
                memory[slot] = token, depth
        for sees, slot in zip(visible[0], slots[0]):
            held = sorted(memory[sees].tolist(), key=lambda pair: pair[1])
            assert slot >= len(memory) or [d for _, d in held] == list(range(len(held)))
            out.append(self._logs(tuple(token for token, _ in held[1:])))
        return memory, np.stack(out)[None]

    def _logs(self, tokens: Sequence) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return np.log(self.table(tokens))
