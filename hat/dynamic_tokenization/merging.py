"""Byte-pair merges on top of a base tokenizer, counted in the very texts that are read.

Dynamic tokenization (Feher, Vulic and Minixhofer, arXiv 2411.18553, section 3.1): the most frequent
pair of neighbours becomes a symbol, m times. A symbol below `base` is a token of the base tokenizer,
base + i the i-th merge. What is counted is the junctions that the boundary rule leaves open
(hat.dynamic_tokenization.boundaries), overlapping ones too; a pair is replaced from left to right.

Ties are broken totally: the higher count, then the lower left symbol, then the lower right one. All
three follow from the texts as a set, so that the order of a batch changes nothing.

Scope, what the pairs are counted over:
  example  every text has its own table: it depends on nothing but itself
  batch    the texts that are read together share a table: what becomes of one depends on the others
  corpus   the table is learned once, elsewhere, and is fixed
A table tells of the text that it was counted in, its end included. So a likelihood under scope
`example` owes the table itself (`MergeTable.nats`), one under `corpus` does not, and under `batch`
there is none: neither reader nor writer of one text has the others.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Sequence
from typing import Literal

import numpy as np

from hat.dynamic_tokenization import merge_loop
from hat.dynamic_tokenization.boundaries import Encoded
from hat.errors import UserError

Scope = Literal["example", "batch", "corpus"]
SCOPES: tuple[str, ...] = typing.get_args(Scope)
NO_LIMIT = 2**30


@dataclasses.dataclass(frozen=True)
class MergeTable:
    """Merges in order. base: the number of the first new symbol. pairs: int32 [m, 2], the symbols
    that each joins. counts: int64 [m], of the pair when it was chosen. lengths: int64 [m + 1],
    symbols of the texts it was learned on, before and after each merge."""

    base: int
    pairs: np.ndarray
    counts: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.pairs)

    def first(self, merges: int) -> MergeTable:
        """The table of the first merges alone."""
        return MergeTable(
            self.base, self.pairs[:merges], self.counts[:merges], self.lengths[: merges + 1]
        )

    def merges_for(self, reduction: float) -> int:
        """The fewest merges that make what the table was learned on shorter by such a share.
        UserError: all of them do not."""
        if not 0 <= reduction < 1:
            raise UserError(f"a reduction of {reduction:.0%} cannot be; give 0 % to below 100 %")
        enough = np.flatnonzero(self.lengths <= (1 - reduction) * self.lengths[0] + 1e-9)
        if not len(enough):
            raise UserError(
                f"a reduction of {reduction:.1%} cannot be reached: the largest is "
                f"{largest_reduction(self):.1%} ({len(self)} merges); ask for less, or merge across "
                "more with --boundary sentence"
            )
        return int(enough[0])

    def parts(self) -> list[tuple[int, ...]]:
        """The base tokens of every merge."""
        found: list[tuple[int, ...]] = []
        for left, right in self.pairs.tolist():
            found.append(
                (found[left - self.base] if left >= self.base else (left,))
                + (found[right - self.base] if right >= self.base else (right,))
            )
        return found

    def expand(self, symbols: np.ndarray) -> np.ndarray:
        """int32: the base tokens of symbols, joined."""
        parts = self.parts()
        spelled = [parts[s - self.base] if s >= self.base else (s,) for s in symbols.tolist()]
        return np.array([token for its in spelled for token in its], np.int32)

    def nats(self) -> float:
        """What it costs to write the table down: its size m in 2 log2(m + 1) + 1 bits (Elias's
        gamma code), and every pair as any two of the symbols that there are by then."""
        size = 1 + 2 * math.floor(math.log2(len(self) + 1))
        symbols = self.base + np.arange(len(self))
        return size * math.log(2) + 2 * float(np.log(symbols).sum())


def largest_reduction(table: MergeTable) -> float:
    return 1 - table.lengths[-1] / max(table.lengths[0], 1)


def learn(
    texts: Sequence[Encoded],
    base: int,
    *,
    merges: int | None = None,
    reduction: float | None = None,
    least_count: int = 1,
    most_parts: int | None = None,
    noise: float = 0.0,
    seed: int = 0,
) -> MergeTable:
    """The merges of all texts together.

    merges: at most so many (None: all there are); reduction: no more than make the texts together
    shorter by such a share. least_count: of a pair that is still merged; most_parts: base tokens of
    a symbol. noise: counts are multiplied by exp(noise * g), g standard normal and drawn by `seed`
    for each pair: other tables that are about as good. UserError: fewer than 0 merges; a reduction
    that cannot be.
    """
    symbols, opened = _joined(texts)
    check_merges(merges)
    length = 0
    if reduction is not None:
        if not 0 <= reduction < 1:
            raise UserError(f"a reduction of {reduction:.0%} cannot be; give 0 % to below 100 %")
        length = math.floor((1 - reduction) * len(symbols) + 1e-9)
    pairs, counts, lengths = merge_loop.learn(
        symbols, opened, base, NO_LIMIT if merges is None else merges, length, least_count,
        most_parts or NO_LIMIT, float(noise), seed,
    )  # fmt: skip
    return MergeTable(base, pairs, counts, lengths)


def apply(table: MergeTable, texts: Sequence[Encoded]) -> list[np.ndarray]:
    """The symbols int32 of each text once the table's merges are made in it, in their order."""
    symbols = apply_in_place(table, texts)
    ends = np.cumsum([len(text.tokens) for text in texts])
    pieces = np.split(symbols, ends[:-1]) if len(texts) else []
    return [piece[piece >= 0] for piece in pieces]


def apply_in_place(table: MergeTable, texts: Sequence[Encoded]) -> np.ndarray:
    """int32: all texts, one after another; a symbol stands where its first token was, and -1 where
    the others were."""
    symbols, opened = _joined(texts)
    if len(table) and len(symbols):
        merge_loop.apply(symbols, opened, table.base, table.pairs)
    return symbols


def merge(
    texts: Sequence[Encoded],
    base: int,
    scope: Scope = "example",
    table: MergeTable | None = None,
    **how,
) -> list[tuple[MergeTable, np.ndarray]]:
    """The table and the symbols of every text. table: of scope `corpus`; how: as `learn`, for the
    other two."""
    if scope not in SCOPES:
        raise UserError(f"scope {scope!r} is not known; choose one of {', '.join(SCOPES)}")
    if (scope == "corpus") != (table is not None):
        raise UserError("scope 'corpus' needs a table that was learned elsewhere, and no other does")
    if scope == "example":
        tables = [learn([text], base, **how) for text in texts]
        return [(its, apply(its, [text])[0]) for its, text in zip(tables, texts)]
    table = learn(texts, base, **how) if table is None else table
    return [(table, symbols) for symbols in apply(table, texts)]


def check_likelihood(scope: str) -> None:
    """UserError under scope `batch`, where a text's tokens depend on what is read beside it."""
    if scope == "batch":
        raise UserError(
            "under scope 'batch' a text's tokens depend on the others of its batch, so it has no "
            "likelihood; use scope example or corpus"
        )


def check_merges(merges: int | None) -> None:
    if merges is not None and merges < 0:
        raise UserError(f"{merges} merges cannot be made; give 0 or more")


def _joined(texts: Sequence[Encoded]) -> tuple[np.ndarray, np.ndarray]:
    """Fresh symbols int32 and open junctions bool of all texts; none is open between two."""
    if not len(texts):
        return np.zeros(0, np.int32), np.zeros(0, bool)
    symbols = np.concatenate([text.tokens for text in texts]).astype(np.int32)
    return symbols, np.concatenate([text.opened for text in texts])
