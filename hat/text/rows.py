"""Documents to packed rows, and packed rows to the arrays of a batch.

A row holds at most T ids in at most N words. A document longer than a row is cut at word starts
into pieces as long as they can be: the sum over bytes of the context they see is then largest.
Whole documents and last pieces are packed best-fit into open rows, and cut only when nothing
else fills a row (Ding et al., arXiv 2404.10830, "Fewer truncations improve language modeling").

Every piece opens with BOS and only the last one of a document ends with EOT, so that every byte
and every EOT is predicted exactly once. Rows of a subword or flat byte-level model are the same
with every id a word, and without the word arrays. Rows of conversations also say which ids are
part of an answer: these alone are learned.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hat.errors import UserError
from hat.text.ids import PAD, SMALLEST_ROW

if TYPE_CHECKING:  # the splitters load their compiled loops
    from hat.text.splitters import Split

OPEN_ROWS = 256  # rows that wait for a piece that fits
SLACK = 32  # a row with less than 1/SLACK of its positions or words free counts as full


@dataclasses.dataclass(frozen=True)
class Specials:
    """The ids that open a piece, end a document and fill a row."""

    bos: int
    eot: int
    pad: int


@dataclasses.dataclass(frozen=True)
class Row:
    """One packed row, as stored.

    ids: int32[n], n <= T, the segments one after another, BOS and EOT included.
    lengths: int32[S], ids in each segment; sums to n.
    starts: bool[n], whether a word starts at this id; None in a row of tokens.
    lags: int32[n], how many words the guide is behind the word of this id; None likewise.
    answers: bool[n], whether this id is part of an answer; None where every id is learned.
    """

    ids: np.ndarray
    lengths: np.ndarray
    starts: np.ndarray | None = None
    lags: np.ndarray | None = None
    answers: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Units:
    """What the packer packs: the ids of a document (or of a part of a long one).

    ids: int32[n] without BOS and EOT. starts: bool[n], starts[0] is True; None: every id.
    lags: int32[n], number of words begun minus number known to be complete; None with starts.
    ends: whether the document ends here, and EOT follows.
    name: where it came from, for error messages.
    answers: bool[n], whether an id is part of an answer; the EOT that follows is part of the last
      one. None where every id is learned.
    """

    ids: np.ndarray
    starts: np.ndarray | None = None
    lags: np.ndarray | None = None
    ends: bool = True
    name: str = "document"
    answers: np.ndarray | None = None

    @functools.cached_property
    def most_lag(self) -> int:
        return int(self.lags.max(initial=0))


def word_units(
    data: np.ndarray, split: Split, *, ends: bool = True, name: str = "document"
) -> Units:
    """The bytes uint8[n] of a document and their Split, ready to pack."""
    lags = np.cumsum(split.starts, dtype=np.int32) - split.known
    return Units(data.astype(np.int32), split.starts, lags, ends, name)


class Packer:
    """Packs documents into rows of at most `length` ids and `words` words.

    Deterministic and streaming: `add` returns the rows that are finished by then, `finish` the
    rest. At most OPEN_ROWS rows are held back.
    """

    def __init__(self, length: int, words: int | None, specials: Specials):
        self._length = length
        self._words = length if words is None else words
        self._specials = specials
        # Per open row: free positions and words, the smaller of the two as a fraction, and pieces.
        self._free = np.zeros((OPEN_ROWS, 2), np.int64)
        self._room = np.zeros(OPEN_ROWS)
        self._pieces: list[list[Row]] = [[] for _ in range(OPEN_ROWS)]
        self._unused = list(range(OPEN_ROWS))[::-1]
        if min(self._length, self._words) < SMALLEST_ROW:
            raise UserError(
                f"a row of {length} ids and {words} words is too small: both need at least "
                f"{SMALLEST_ROW} (BOS, one byte, EOT)"
            )

    def add(self, units: Units) -> list[Row]:
        """The rows that this document finishes. UserError where a word does not fit a row."""
        bounds = word_bounds(units)
        total = len(bounds) - 1
        finished: list[Row] = []
        first = 0
        while True:  # once also for an empty document, which is BOS and EOT
            last = self._reach(bounds, first, units.ends, self._length, self._words)
            if last == first < total:
                self._refuse_word(units, bounds, first)
            if last < total:  # fills a row of its own
                finished.append(self._piece(units, bounds, first, last))
            else:
                last = self._place(units, bounds, first, finished)
            first = last
            if first == total:
                return finished

    def finish(self) -> list[Row]:
        """The rows still open."""
        finished: list[Row] = []
        for slot, pieces in enumerate(self._pieces):
            if pieces:
                self._close(slot, finished)
        return finished

    def _place(self, units: Units, bounds: Sequence[int], first: int, finished: list[Row]) -> int:
        """Packs the rest of a document, which fits one row, or a part of it; the next word."""
        total = len(bounds) - 1
        need = (bounds[total] - bounds[first] + 1 + units.ends, total - first + 1 + units.ends)
        if not self._unused and not self._fitting(need).any():
            cut = self._fill_emptiest(units, bounds, first, finished)
            if cut > first:
                return cut
        self._put(need, [self._piece(units, bounds, first, total)], finished)
        return total

    def _fitting(self, need: tuple[int, int]) -> np.ndarray:
        """bool[OPEN_ROWS]: whether an open row has room for so many ids and words."""
        return (self._free >= need).all(axis=1)

    def _put(self, need: tuple[int, int], pieces: list[Row], finished: list[Row]) -> None:
        """Puts pieces, which together fit a row, into the open row with the least room that will
        do, or into a new one, for which the fullest may be closed."""
        fits = self._fitting(need)
        if fits.any():
            slot = int(np.where(fits, self._room, np.inf).argmin())
        else:
            if not self._unused:
                self._close(int(self._room.argmin()), finished)
            slot = self._unused.pop()
            self._free[slot] = self._length, self._words
        self._pieces[slot] += pieces
        self._free[slot] -= need
        self._room[slot] = (self._free[slot] / (self._length, self._words)).min()
        if self._free[slot].min() < SMALLEST_ROW:
            self._close(slot, finished)

    def _fill_emptiest(
        self, units: Units, bounds: Sequence[int], first: int, finished: list[Row]
    ) -> int:
        """Cuts the document to fill the emptiest row, unless some row is as good as full."""
        if self._room.min() < 1 / SLACK:
            return first
        slot = int(self._room.argmax())
        cut = self._reach(bounds, first, units.ends, *self._free[slot])
        if cut > first:
            self._pieces[slot].append(self._piece(units, bounds, first, cut))
            self._close(slot, finished)
        return cut

    def _close(self, slot: int, finished: list[Row]) -> None:
        finished.append(join(self._pieces[slot]))
        self._pieces[slot] = []
        self._free[slot] = 0
        self._unused.append(slot)

    @staticmethod
    def _reach(bounds: Sequence[int], first: int, ends: bool, positions: int, words: int) -> int:
        """How far a piece that begins at word `first` can go in so much room: the word after it."""
        total = len(bounds) - 1
        whole = bounds[total] - bounds[first] + 1 + ends
        if whole <= positions and total - first + 1 + ends <= words:
            return total
        by_positions = bisect.bisect_right(bounds, bounds[first] + positions - 1, first) - 1
        # The last word stays behind where it would fit but EOT would not: no piece is EOT alone.
        return max(first, min(by_positions, first + words - 1, total - ends))

    def _piece(self, units: Units, bounds: Sequence[int], first: int, last: int) -> Row:
        return cut_piece(units, bounds, first, last, self._specials)

    def _refuse_word(self, units: Units, bounds: Sequence[int], first: int) -> None:
        size = bounds[first + 1] - bounds[first]
        raise UserError(
            f"{units.name}: the word of {size} bytes at byte {bounds[first]} does not fit a "
            f"row of {self._length}: set the row length to {size + 2} or more"
        )


def word_bounds(units: Units) -> Sequence[int]:
    """W+1 of them: where each word starts, and the end."""
    count = len(units.ids)
    if units.starts is None:
        return range(count + 1)
    # Its items are plain integers, which cost a tenth of NumPy's, one by one.
    return memoryview(np.append(np.flatnonzero(units.starts), count))


def cut_piece(
    units: Units, bounds: Sequence[int], first: int, last: int, specials: Specials
) -> Row:
    """BOS, the words first to last - 1 of a document, and EOT where the document ends with them.

    bounds: `word_bounds(units)`.
    """
    begin, end = bounds[first], bounds[last]
    closing = units.ends and last == len(bounds) - 1
    count = end - begin + 1 + closing
    content = slice(1, 1 + end - begin)
    ids = np.empty(count, np.int32)
    ids[0], ids[-1] = specials.bos, specials.eot
    ids[content] = units.ids[begin:end]
    lengths = np.array([count], np.int32)
    answers = None
    if units.answers is not None:
        answers = np.zeros(count, bool)
        answers[-1] = closing
        answers[content] = units.answers[begin:end]
    if units.starts is None:
        return Row(ids, lengths, answers=answers)
    starts, lags = np.empty(count, bool), np.empty(count, np.int32)
    starts[0] = starts[-1] = True
    starts[content] = units.starts[begin:end]
    lags[0] = lags[-1] = 0
    lags[content] = units.lags[begin:end]
    # No guide lies before the BOS of its own piece, which is word 0 of it. Once as many words
    # have begun as the largest lag, none can.
    opening = slice(1, 1 + bounds[min(first + units.most_lag, last)] - begin)
    np.minimum(lags[opening], np.cumsum(starts[opening]), out=lags[opening])
    return Row(ids, lengths, starts, lags, answers)


def join(pieces: Sequence[Row]) -> Row:
    """One row of all these, one after another."""
    fields = zip(*((p.ids, p.lengths, p.starts, p.lags, p.answers) for p in pieces))
    return Row(*(None if field[0] is None else np.concatenate(field) for field in fields))


def expand_words(row: Row, length: int, words: int) -> dict[str, np.ndarray]:
    """One row of a HAT batch: int32 arrays of T = `length` and N = `words` entries.

    bytes[T], segment[T] (from 1, 0 padding), position[T] (in the segment, from 0 = BOS),
    word[T] (row-level index of the id's word, N at padding), guide[T] (row-level index of the
    last word of the segment known to be complete once this id is read, -1 at padding),
    word_segment[N] (0 unused), word_position[N] (in the segment, from 0); and in rows of
    conversations answer[T], 1 where the id is part of an answer.
    """
    segment, position = _segments(row.lengths)
    word = np.cumsum(row.starts, dtype=np.int32) - 1
    word_segment = segment[row.starts]
    opening = np.searchsorted(word_segment, word_segment)  # first word of the same segment
    word_position = np.arange(len(word_segment), dtype=np.int32) - opening
    return {
        "bytes": _padded(row.ids, length, PAD),
        "segment": _padded(segment, length, 0),
        "position": _padded(position, length, 0),
        "word": _padded(word, length, words),
        "guide": _padded(word - row.lags, length, -1),
        "word_segment": _padded(word_segment, words, 0),
        "word_position": _padded(word_position, words, 0),
    } | _expanded_answers(row, length)


def expand_tokens(
    row: Row, length: int, token_bytes: np.ndarray, pad: int
) -> dict[str, np.ndarray]:
    """One row of a subword batch: int32[T] arrays tokens, segment, position and token_bytes, and
    in rows of conversations answer.

    token_bytes: int32[num_ids], the number of bytes that each id spells, 0 for specials.
    """
    segment, position = _segments(row.lengths)
    return {
        "tokens": _padded(row.ids, length, pad),
        "segment": _padded(segment, length, 0),
        "position": _padded(position, length, 0),
        "token_bytes": _padded(token_bytes[row.ids], length, 0),
    } | _expanded_answers(row, length)


def empty_row(has_words: bool, has_answers: bool = False) -> Row:
    """A row of padding alone: it fills the last batch of a split."""
    none, never = np.zeros(0, np.int32), np.zeros(0, bool)
    words = (never, none) if has_words else (None, None)
    return Row(none, none, *words, never if has_answers else None)


def _expanded_answers(row: Row, length: int) -> dict[str, np.ndarray]:
    return {} if row.answers is None else {"answer": _padded(row.answers, length, 0)}


def _segments(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    segment = np.repeat(np.arange(1, len(lengths) + 1, dtype=np.int32), lengths)
    opening = np.cumsum(lengths) - lengths
    return segment, np.arange(len(segment), dtype=np.int32) - np.repeat(opening, lengths)


def _padded(values: np.ndarray, size: int, fill: int) -> np.ndarray:
    out = np.full(size, fill, np.int32)
    out[: len(values)] = values
    return out
