"""What a corpus is made of: the part of an experiment that the data packages read."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Literal

from hat.errors import UserError
from hat.text.ids import SMALLEST_ROW


FORMATS = ("text", "chat", "preference")  # of a source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
    """A part's share of a whole, relative to the shares of the other parts, over a run.

    weight: from step 0. weight_changes: (step, weight from that step on), steps rising.
    """

    weight: float = 1.0
    weight_changes: tuple[tuple[int, float], ...] = ()

    def __post_init__(self):
        for weight in (self.weight, *(weight for _, weight in self.weight_changes)):
            if not (math.isfinite(weight) and weight >= 0):
                raise UserError(f"weight {weight}: give 0 (none) or more")
        steps = [0, *(step for step, _ in self.weight_changes)]
        if any(later <= earlier for earlier, later in zip(steps, steps[1:])):
            raise UserError(f"weight_changes at steps {steps[1:]}: give steps above 0 that rise")

    def weight_at(self, step: int) -> float:
        """The weight at a step."""
        weights = {0: self.weight, **dict(self.weight_changes)}
        return weights[max(change for change in weights if change <= step)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceConfig(Share):
    """One corpus of a mixture; its share is that of the rows.

    name: of its metrics. source: as `DataConfig.source`.
    """

    name: str
    source: str

    def __post_init__(self):
        super().__post_init__()
        if not (self.name and self.source):
            raise UserError(f"name {self.name!r}, source {self.source!r}: both are needed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BucketConfig(Share):
    """The rows of one length; its share is that of the steps, and so of the positions.

    length: ids in a row, a power of two.
    """

    length: int

    def __post_init__(self):
        super().__post_init__()
        if self.length < SMALLEST_ROW or self.length & (self.length - 1):
            raise UserError(f"length {self.length}: give a power of two, 4 or more")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Documents, how they are cut into rows, and what is kept back. UserError where invalid.

    format: "text"; "chat", conversations, of which the answers alone are learned; "preference",
      pairs of answers to one prompt, which stay together in a row (hat.data.conversations).
    mixture: several corpora, cut alike, in the place of `source`.
    buckets: training documents are cut into pieces of these lengths, rising, the last one
      `row_length` (hat.text.buckets); a bucket has its part of `row_words`. Empty: rows of one
      length, packed. Validation and held-out rows are packed in either case.
    """

    source: str = "stdlib"  # "stdlib", a file, a folder, or a folder written by `hat prepare`
    splitter: str = "words"  # what hat.text.splitters.make_splitter takes; unused with a tokenizer
    tokenizer: str | None = None  # None: bytes in words; "bytes"; "bpe:4096"; a tokenizer's file
    row_length: int = 1024  # T, ids in a row, BOS and EOT included
    row_words: int = 240  # N, words in a row, BOS and EOT included; unused with a tokenizer
    heldout_fraction: float = 0.05  # the last of the bytes, "heldout"
    validation_fraction: float = 0.0  # the bytes before them, "validation"; the rest is "train"
    format: Literal["text", "chat", "preference"] = "text"
    text_field: str = "text"  # of a JSONL object, or column of a Parquet file
    strict: bool = False  # stop at the first line that is not a document, instead of skipping it
    mixture: tuple[SourceConfig, ...] = ()
    buckets: tuple[BucketConfig, ...] = ()

    def __post_init__(self):
        if not self.source:
            raise UserError('data.source is empty: give a file, a folder or "stdlib"')
        for name in ("row_length", "row_words"):
            if getattr(self, name) < SMALLEST_ROW:
                raise UserError(
                    f"data.{name} is {getattr(self, name)}: a row needs at least {SMALLEST_ROW} "
                    "(BOS, one byte, EOT)"
                )
        for name in ("heldout_fraction", "validation_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"data.{name} is {getattr(self, name)}: give 0 <= fraction < 1")
        if self.heldout_fraction + self.validation_fraction >= 1:
            raise UserError("data.heldout_fraction and data.validation_fraction leave no training")
        if self.format not in FORMATS:
            raise UserError(f"data.format is {self.format!r}: give {', '.join(FORMATS)}")
        if self.format == "preference" and self.buckets:
            raise UserError("data.buckets cut documents, and a preference pair stays whole: drop them")
        if not self.text_field:
            raise UserError("data.text_field is empty: name the field that holds the text")
        if self.tokenizer is not None and self.tokenizer.startswith("bpe"):
            if not re.fullmatch("bpe:[1-9][0-9]*", self.tokenizer):
                raise UserError(f"data.tokenizer is {self.tokenizer!r}: write it as bpe:4096")
            if self.mixture or self.buckets:
                raise UserError(
                    f"data.tokenizer is {self.tokenizer!r}, which every corpus would train anew; "
                    "train one with hat prepare and give the folder as data.tokenizer"
                )
        self._check_mixture()
        self._check_buckets()

    def _check_mixture(self) -> None:
        _require_distinct("data.mixture: the name", [part.name for part in self.mixture])
        _check_weights("data.mixture", self.mixture)

    def _check_buckets(self) -> None:
        lengths = [bucket.length for bucket in self.buckets]
        _require_distinct("data.buckets: the length", lengths)
        _check_weights("data.buckets", self.buckets)
        if lengths != sorted(lengths) or (lengths and self.row_length not in lengths):
            raise UserError(
                f"data.buckets: the lengths {lengths} must rise, and the last must be "
                f"data.row_length={self.row_length}"
            )
        for length in lengths if self.tokenizer is None else []:
            if self.row_words * length % self.row_length or self.words_of(length) < SMALLEST_ROW:
                raise UserError(
                    f"data.row_words={self.row_words} gives a bucket of {length} ids "
                    f"{self.row_words * length / self.row_length:g} words; choose a multiple of "
                    f"{self.row_length // lengths[0]}"
                )

    def words_of(self, length: int) -> int:
        """N of a bucket: its part of `row_words`; unused with a tokenizer."""
        if self.tokenizer is not None:
            return self.row_words
        return self.row_words * length // self.row_length


def weight_phases(parts: tuple[Share, ...]) -> list[tuple[int, tuple[float, ...]]]:
    """(step, the weights of the parts from that step on), the first at step 0."""
    steps = {0, *(step for part in parts for step, _ in part.weight_changes)}
    return [(step, tuple(part.weight_at(step) for part in parts)) for step in sorted(steps)]


def _require_distinct(what: str, values: list) -> None:
    twice = {value for value in values if values.count(value) > 1}
    if twice:
        raise UserError(f"{what} {twice.pop()!r} stands twice; give each its own")


def _check_weights(where: str, parts: tuple[Share, ...]) -> None:
    from hat.data.schedule import whole_shares  # numpy, which `hat prepare --help` does without

    for step, weights in weight_phases(parts) if parts else []:
        if not any(weights):
            raise UserError(f"{where}: every weight is 0 from step {step} on; raise one")
        try:
            whole_shares(weights)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
