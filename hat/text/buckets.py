"""Documents cut into pieces of set lengths, a bucket of rows for each.

Dataset decomposition (Pouransari et al., arXiv 2405.13226): a document is cut into the longest
pieces first, so that a row is one piece, of one document, and none is spent on attention or padding
between documents. What differs here: a row has two caps, T ids and N words, and pieces end where
words do. So the next piece of a document goes to the longest bucket that the rest of the document
fills, in ids or in words; it is as long as both caps let it be, and less than a word short of one
of them. What is too short for every bucket is packed, as any document is, into rows of the
shortest. Every byte and every EOT is thereby in exactly one piece of one bucket.
"""

from __future__ import annotations

from collections.abc import Sequence

from hat.text.rows import Packer, Row, Specials, Units, word_bounds


class BucketPacker(Packer):
    """Cuts documents into the pieces of all buckets, and makes rows of those of one.

    A packer for every bucket, all fed the same documents, makes rows of every piece once.
    """

    def __init__(
        self, lengths: Sequence[int], length: int, words: int | None, specials: Specials
    ):
        """lengths: of all buckets, rising. length: that of the rows to make; where it is none of
        `lengths`, there are none. words: N of a row of `length`, the others' in proportion."""
        super().__init__(length, words, specials)
        self._buckets = [(other, other * self._words // length) for other in lengths]

    def add(self, units: Units) -> list[Row]:
        """The rows that this document finishes. UserError where a word does not fit a row."""
        bounds = word_bounds(units)
        total = len(bounds) - 1
        finished: list[Row] = []
        first = 0
        while True:  # once also for an empty document, which is BOS and EOT
            specials = 1 + units.ends
            ids, words = bounds[total] - bounds[first] + specials, total - first + specials
            filled = [b for b, (t, n) in enumerate(self._buckets) if ids >= t or words >= n]
            bucket = max(filled, default=0)
            last = self._reach(bounds, first, units.ends, *self._buckets[bucket])
            while last == first < total and bucket + 1 < len(self._buckets):
                bucket += 1  # not even the first word fits the one that it should fill
                last = self._reach(bounds, first, units.ends, *self._buckets[bucket])
            if last == first < total:
                self._refuse_word(units, bounds, first)
            if self._buckets[bucket][0] == self._length:
                if bucket or last < total:  # fills a row of its own
                    finished.append(self._piece(units, bounds, first, last))
                else:
                    last = self._place(units, bounds, first, finished)
            first = last
            if first == total:
                return finished
