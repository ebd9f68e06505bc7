"""Texts in merged tokens, and what they cost: positions, and bits per byte.

What is charged. A text is written as its merged tokens and an end of text, each by one softmax over
all base tokens and all tokens of the table (MergedLlama): an upper bound of the text's own nats, as
for every tokenizer (it is one spelling of the text), over the same bytes, so that it compares with
the bits per byte of any other model here. Under scope `corpus` the table was learned elsewhere and is
owed nothing. Under scope `example` it was counted in the text itself and tells of it: which words
come back, and where it ends. A reader must have it first, so `MergeTable.nats` is added, in full, to
every text; what is left without it is "given the table" and is no code length. Under scope `batch`
there is no likelihood. Without merges the number is that of `hat evaluate bits-per-byte`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from hat.dynamic_tokenization.boundaries import Boundary, Encoded, encode
from hat.dynamic_tokenization.embeddings import RowCache
from hat.dynamic_tokenization.merging import MergeTable, Scope, apply, check_likelihood, merge
from hat.dynamic_tokenization.model import MergedLlama, merged_params
from hat.errors import UserError
from hat.inference.scoring import score_pieces
from hat.models.hypernetwork import TokenRows
from hat.models.llama import LlamaModel
from hat.models.model import Params
from hat.text.rows import Packer, Row, Specials, Units, empty_row, expand_tokens
from hat.text.tokenizers import Tokenizer

SMALLEST = 64  # room for merged tokens; it doubles from here, so that few shapes are compiled


@dataclasses.dataclass(frozen=True)
class Merged:
    """A text in merged tokens. symbols: int32 [n]; base_length: in base tokens."""

    table: MergeTable
    symbols: np.ndarray
    base_length: int


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one text or of several. nats: of the tokens, ends of text included; table_nats: of the
    tables that are owed."""

    nats: float
    table_nats: float
    num_bytes: int

    @property
    def bits_per_byte(self) -> float:
        return (self.nats + self.table_nats) / math.log(2) / self.num_bytes

    @property
    def given_table(self) -> float:
        """Bits per byte but for the table: no code length where a table is owed."""
        return self.nats / math.log(2) / self.num_bytes


class Reader:
    """Texts at any reduction, under one rule.

    base: the number of the first merged token. table: of scope `corpus`. names: of the texts, for
    error messages. UserError: an unknown boundary.
    """

    def __init__(
        self,
        texts: Sequence[bytes],
        tokenizer: Tokenizer,
        base: int,
        *,
        boundary: Boundary = "word",
        scope: Scope = "example",
        most_parts: int | None = None,
        table: MergeTable | None = None,
        names: Sequence[str] | None = None,
    ):
        self.texts, self.scope = texts, scope
        self._names = names or [f"text {i}" for i in range(len(texts))]
        self._encoded: list[Encoded] = [encode(text, tokenizer, boundary) for text in texts]
        how = {} if scope == "corpus" else {"most_parts": most_parts}
        merged = merge(self._encoded, base, scope, table, **how)
        self.tables: list[MergeTable] = [its for its, _ in merged]  # with all merges there are

    def at(self, reduction: float) -> list[Merged]:
        """Every text with as few merges as make it (under `batch` and `corpus`, what the table was
        learned on) shorter by such a share. UserError: no number does; the message names the
        text and the largest share."""
        shared: dict[int, MergeTable] = {}
        for table, name in zip(self.tables, self._names):
            if id(table) not in shared:
                try:
                    shared[id(table)] = table.first(table.merges_for(reduction))
                except UserError as error:
                    where = f"{name}: " if self.scope == "example" else ""
                    raise UserError(f"{where}{error}") from None
        tables = [shared[id(table)] for table in self.tables]
        return [
            Merged(table, apply(table, [text])[0], len(text.tokens))
            for table, text in zip(tables, self._encoded)
        ]


def costs(
    model: LlamaModel,
    params: Params,
    tokenizer: Tokenizer,
    texts: Sequence[bytes],
    merged: Sequence[Merged],
    rows: RowCache,
    *,
    scope: Scope,
    row_length: int,
    batch_size: int = 8,
) -> list[Cost]:
    """What every text costs, in rows as long as those of training, counted in merged tokens.

    rows: of merged tokens, by their parts. UserError under scope `batch`.
    """
    check_likelihood(scope)
    groups: dict[int, list[int]] = {}
    for number, its in enumerate(merged):
        groups.setdefault(id(its.table), []).append(number)
    nats = np.zeros(len(texts))
    for numbers in groups.values():
        table = merged[numbers[0]].table
        symbols = [merged[number].symbols for number in numbers]
        nats[numbers] = _nats(
            model, params, tokenizer, table, symbols, rows, row_length, batch_size
        )
    owed = [its.table.nats() if scope == "example" else 0.0 for its in merged]
    return [Cost(*each) for each in zip(nats.tolist(), owed, map(len, texts), strict=True)]


def together(found: Sequence[Cost]) -> Cost:
    return Cost(*(sum(values) for values in zip(*map(dataclasses.astuple, found))))


def rows_of(table: MergeTable, cache: RowCache) -> TokenRows:
    """Rows [M, d] of the tokens of a table, M a power of two at least SMALLEST (0 for none), zeros
    after the last."""
    parts = table.parts()
    room = max(SMALLEST, 1 << max(len(parts) - 1, 0).bit_length()) if parts else 0
    return TokenRows(*(
        None if side is None else np.pad(side, [(0, room - len(parts)), (0, 0)])
        for side in cache(parts)
    ))  # fmt: skip


class MergedRows:
    """Rows of base tokens and those of a table, as `score_pieces` takes them."""

    empty = empty_row(has_words=False)

    def __init__(self, tokenizer: Tokenizer, base: int, table: MergeTable, length: int):
        self.length = self.words = length
        self.specials = Specials(tokenizer.bos, tokenizer.eot, tokenizer.pad)
        self._lengths = symbol_bytes(tokenizer, base, table)

    def cut(self, symbols: np.ndarray) -> list[Row]:
        """The pieces of a text, in order."""
        packer = Packer(self.length, None, self.specials)
        return packer.add(Units(symbols)) + packer.finish()

    def expand(self, row: Row) -> dict[str, np.ndarray]:
        return expand_tokens(row, self.length, self._lengths, self.specials.pad)


def symbol_bytes(tokenizer: Tokenizer, base: int, table: MergeTable) -> np.ndarray:
    """int32 [base + m]: how many bytes every symbol spells."""
    lengths = np.zeros(base + len(table), np.int32)
    own = tokenizer.byte_lengths[:base]
    lengths[: len(own)] = own
    for number, pair in enumerate(table.pairs):
        lengths[base + number] = lengths[pair].sum()
    return lengths


def _nats(model, params, tokenizer, table, symbols, cache, row_length, batch_size) -> list[float]:
    rows = MergedRows(tokenizer, model.config.num_ids, table, row_length)
    cut = [rows.cut(its) for its in symbols]
    pieces = [piece for its in cut for piece in its]
    inputs = merged_params(params, rows_of(table, cache), len(table))
    batch_size = min(batch_size, 1 << (len(pieces) - 1).bit_length())  # a short text has one row
    scores = score_pieces(MergedLlama(model.config), inputs, rows, pieces, batch_size)
    return [
        float(sum(next(scores).nats.sum(dtype=np.float64) for _ in its)) for its in cut
    ]
