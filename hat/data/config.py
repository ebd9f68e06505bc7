"""What a corpus is made of: the part of an experiment that the data packages read."""

from __future__ import annotations

import dataclasses
import re

from hat.errors import UserError
from hat.text.ids import SMALLEST_ROW


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Documents, how they are cut into rows, and what is kept back. UserError where invalid."""

    source: str = "stdlib"  # "stdlib", a file, a folder, or a folder written by `hat prepare`
    splitter: str = "words"  # what hat.text.splitters.make_splitter takes; unused with a tokenizer
    tokenizer: str | None = None  # None: bytes in words; "bytes"; "bpe:4096"; a tokenizer's file
    row_length: int = 1024  # T, ids in a row, BOS and EOT included
    row_words: int = 240  # N, words in a row, BOS and EOT included; unused with a tokenizer
    heldout_fraction: float = 0.05  # the last of the bytes, "heldout"
    validation_fraction: float = 0.0  # the bytes before them, "validation"; the rest is "train"
    text_field: str = "text"  # of a JSONL object, or column of a Parquet file
    strict: bool = False  # stop at the first line that is not a document, instead of skipping it

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
        if not self.text_field:
            raise UserError("data.text_field is empty: name the field that holds the text")
        if self.tokenizer is not None and self.tokenizer.startswith("bpe"):
            if not re.fullmatch("bpe:[1-9][0-9]*", self.tokenizer):
                raise UserError(f"data.tokenizer is {self.tokenizer!r}: write it as bpe:4096")
