"""A prepared corpus: a folder of shards and `corpus.json`, which says what they hold."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from hat.data.records import decode_row
from hat.data.splits import SPLITS
from hat.errors import UserError
from hat.text.rows import Row, empty_row, expand_tokens, expand_words
from hat.text.tokenizers import ByteTokenizer, Tokenizer, load_tokenizer

FORMAT_VERSION = 1
INFO_FILE = "corpus.json"
MAX_SHARDS = 99_999  # their names have five digits


@dataclasses.dataclass(frozen=True)
class SplitInfo:
    """What one split holds. fill: share of the T positions, and of the N words, that are used by
    ids and words (BOS and EOT included); bytes: real bytes; piece: a run between two cuts."""

    documents: int
    bytes: int
    words: int | None
    pieces: int
    mean_piece_bytes: float
    rows: int
    position_fill: float
    word_fill: float | None
    shards: tuple[str, ...]
    shard_rows: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Sharding:
    """How documents are shuffled into shards (hat.data.sharded). UserError where it cannot be."""

    shards: int | None = None  # of each split; None: by the size of the source
    deduplicate: bool = False  # keep only the first, in source order, of equal documents

    def __post_init__(self):
        if self.shards is not None and not 1 <= self.shards <= MAX_SHARDS:
            raise UserError(f"{self.shards} shards cannot be: give 1 to {MAX_SHARDS:,}")


@dataclasses.dataclass(frozen=True)
class CorpusInfo:
    """The content of corpus.json. splitter: the name of the rule, and tokenizer None; or
    tokenizer: the name of the vocabulary, and splitter and row_words None. bucket_lengths: where
    documents were cut into pieces of these lengths, of which the corpus holds those of row_length
    (hat.text.buckets). format: as in DataConfig."""

    version: int
    fingerprint: str
    source: str
    splitter: str | None
    tokenizer: str | None
    num_ids: int  # rows that the embedding needs
    row_length: int
    row_words: int | None
    heldout_fraction: float
    validation_fraction: float
    skipped: dict[str, int]
    splits: dict[str, SplitInfo]
    bucket_lengths: tuple[int, ...] = ()
    format: str = "text"
    sharding: Sharding | None = None  # None: rows in source order

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> CorpusInfo:
        """ValueError, KeyError or TypeError where the text is something else."""
        fields = json.loads(text)
        if fields["version"] != FORMAT_VERSION:
            raise ValueError(f"format version {fields['version']}, not {FORMAT_VERSION}")
        splits = {}
        for name in SPLITS:
            values = fields["splits"][name]
            lists = {key: tuple(values[key]) for key in ("shards", "shard_rows")}
            splits[name] = SplitInfo(**(values | lists))
        buckets = tuple(fields.get("bucket_lengths", ()))
        sharding = fields.get("sharding")  # corpora older than shards have none
        sharding = None if sharding is None else Sharding(**sharding)
        read = {"splits": splits, "bucket_lengths": buckets, "sharding": sharding}
        return cls(**(fields | read))


class Corpus:
    """Rows by split and index, as the arrays that a model takes. Safe to read from threads."""

    def __init__(self, folder: Path, info: CorpusInfo):
        self.folder = folder
        self.info = info
        self._opened: dict = {}

    @classmethod
    def open(cls, folder: str | Path) -> Corpus:
        """UserError where the folder is no corpus, or is damaged or incomplete."""
        folder = Path(folder)
        path = folder / INFO_FILE
        try:
            info = CorpusInfo.from_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: not a prepared corpus: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: no corpus description ({error}): prepare it again") from None
        for split in info.splits.values():
            for shard in split.shards:
                if not (folder / shard).is_file():
                    raise UserError(f"{folder / shard}: missing: prepare the corpus again")
        return cls(folder, info)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer | None:
        """What spelled the rows, or None for rows of bytes in words."""
        if self.info.tokenizer is None:
            return None
        return ByteTokenizer() if self.info.tokenizer == "bytes" else load_tokenizer(self.folder)

    def num_rows(self, split: str) -> int:
        return self._split(split).rows

    def row(self, split: str, index: int) -> dict[str, np.ndarray]:
        """Row `index` of a split: int32 arrays [T] and [N] (see hat.text.rows.expand_words and
        expand_tokens). IndexError outside the split; UserError where the row is damaged."""
        if not 0 <= index < self.num_rows(split):
            raise IndexError(f"row {index} of {self.num_rows(split)} in {split}")
        try:
            row = decode_row(self._records(split)[index])
        except (ValueError, RuntimeError, TypeError) as error:
            raise UserError(
                f"{self.folder}: row {index} of {split} is damaged ({error}): prepare it again"
            ) from None
        return self._expand(row)

    def rows(self, split: str, indices: Sequence[int]) -> dict[str, np.ndarray]:
        """A batch of these rows: int32 arrays [B, T] and [B, N]."""
        return stack([self.row(split, int(index)) for index in indices])

    def batches(self, split: str, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """All rows in order, B at a time; the last batch is filled up with rows of padding."""
        count = self.num_rows(split)
        for first in range(0, count, batch_size):
            rows = [self.row(split, i) for i in range(first, min(first + batch_size, count))]
            yield stack(rows + [self.padding()] * (batch_size - len(rows)))

    def padding(self) -> dict[str, np.ndarray]:
        """A row of padding alone: int32 arrays [T] and [N]."""
        has_words, has_answers = self.info.splitter is not None, self.info.format != "text"
        return self._expand(empty_row(has_words, has_answers))

    def _split(self, name: str) -> SplitInfo:
        if name not in self.info.splits:
            raise UserError(f"{self.folder}: no split {name!r}, only {', '.join(SPLITS)}")
        return self.info.splits[name]

    def _records(self, split: str):
        """The records of a split by index. The reader of array_record is safe to share."""
        if split not in self._opened:
            from array_record.python.array_record_data_source import ArrayRecordDataSource

            info = self._split(split)
            records = ArrayRecordDataSource([str(self.folder / shard) for shard in info.shards])
            if len(records) != info.rows:
                raise UserError(
                    f"{self.folder}: {len(records)} rows of {info.rows} in {split}: damaged or "
                    "cut short: prepare it again"
                )
            self._opened[split] = records
        return self._opened[split]

    def _expand(self, row: Row) -> dict[str, np.ndarray]:
        if self.tokenizer is None:
            return expand_words(row, self.info.row_length, self.info.row_words)
        lengths = self.tokenizer.byte_lengths
        return expand_tokens(row, self.info.row_length, lengths, self.tokenizer.pad)


def stack(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Rows as a batch: every array gets the axis B in front."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
