"""The documents of one split to rows, and what is counted on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from hat.data.config import DataConfig
from hat.data.conversations import read_conversation, read_pair
from hat.data.corpus import SplitInfo
from hat.data.cutting import Cutter, parts
from hat.data.sources import Skipped
from hat.text.buckets import BucketPacker
from hat.text.ids import NUM_BYTES
from hat.text.pairs import PairPacker
from hat.text.rows import Packer, Row


@dataclasses.dataclass
class Counts:
    """What went into a split, or into one shard of it, and what is in the rows that came out."""

    documents: int = 0  # that went in
    bytes: int = 0
    words: int = 0  # without BOS and EOT; 0 with a tokenizer
    pieces: int = 0
    rows: int = 0
    positions: int = 0  # ids, BOS and EOT included
    row_words: int = 0  # words, BOS and EOT included; 0 with a tokenizer
    too_long: int = 0  # preference pairs left out: no row holds them

    def __add__(self, other: Counts) -> Counts:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Counts(*(mine + theirs for mine, theirs in pairs))

    def info(self, config: DataConfig, shards: Sequence[str], rows: Sequence[int]) -> SplitInfo:
        """With the names of the split's shards and the rows in each."""
        has_words, places = config.tokenizer is None, max(self.rows, 1)
        return SplitInfo(
            documents=self.documents,
            bytes=self.bytes,
            words=self.words if has_words else None,
            pieces=self.pieces,
            mean_piece_bytes=self.bytes / max(self.pieces, 1),
            rows=self.rows,
            position_fill=self.positions / (places * config.row_length),
            word_fill=self.row_words / (places * config.row_words) if has_words else None,
            shards=tuple(shards),
            shard_rows=tuple(rows),
        )


def count_too_long(counts: Iterable[Counts], skipped: Skipped) -> None:
    """Adds the pairs that no row holds to what is skipped."""
    if too_long := sum(count.too_long for count in counts):
        skipped.merge({"pairs longer than a row": too_long}, ())


class SplitPacker:
    """Cuts and packs documents, gives the rows to `write` and counts."""

    def __init__(
        self, config: DataConfig, split: str, cutter: Cutter, write: Callable[[Row], None]
    ):
        self._cutter = cutter
        length, words = config.row_length, None if cutter.splitter is None else config.row_words
        if config.buckets:
            lengths = [bucket.length for bucket in config.buckets]
            lengths = lengths if split == "train" else lengths[-1:]
            self._packer = BucketPacker(lengths, length, words, cutter.specials)
        elif config.format == "preference":
            self._packer = PairPacker(length, words, cutter.specials)
        else:
            self._packer = Packer(length, words, cutter.specials)
        self._format = config.format
        self._write = write
        self.counts = Counts()

    def add(self, data: bytes, name: str) -> None:
        if self._format == "preference":
            return self._add_pair(data, name)
        self.counts.documents += 1
        if self._format == "chat":
            units = self._cutter.cut_conversation(read_conversation(data), name)
            return self._pass_on(self._packer.add(units))
        for part, ends in parts(data):
            self._pass_on(self._packer.add(self._cutter.cut(part, ends, name)))

    def _add_pair(self, data: bytes, name: str) -> None:
        pair = [self._cutter.cut_conversation(side, name) for side in read_pair(data)]
        fits = self._packer.fits(pair)
        self.counts.documents += fits
        self.counts.too_long += not fits
        if fits:
            self._pass_on(self._packer.add(pair))

    def finish(self) -> None:
        """Writes the rows that are still open."""
        self._pass_on(self._packer.finish())

    def _pass_on(self, rows: list[Row]) -> None:
        for row in rows:
            self._write(row)
            self.counts.rows += 1
            self.counts.positions += len(row.ids)
            self.counts.pieces += len(row.lengths)
            self.counts.bytes += self._cutter.count_bytes(row.ids)
            if row.starts is not None:
                self.counts.row_words += int(np.count_nonzero(row.starts))
                is_word = row.starts & (row.ids < NUM_BYTES)
                self.counts.words += int(np.count_nonzero(is_word))
