"""Which bytes are train, validation and heldout.

In source order, the last `heldout_fraction` of all bytes is "heldout", the `validation_fraction`
before it "validation", the rest "train". Each border is moved to the nearest document border.
Where that would leave one of them without a document (a source of one document, or of a few
very unequal ones) the borders cut through documents: at the first line that starts at or after
the exact byte, else between two characters. The rule knows nothing of splitters and tokenizers,
so that models with different ones are compared on the same held-out bytes. Conversations and pairs
are never divided: each split that is asked for gets at least one as long as there are enough.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

SPLITS = ("train", "validation", "heldout")


@dataclasses.dataclass(frozen=True)
class Border:
    """Where a split ends: before this byte of this document."""

    document: int
    byte: int


@dataclasses.dataclass(frozen=True)
class SplitPlan:
    borders: tuple[Border, Border, Border]  # of train, validation, heldout

    def divide(self, document: int, data: bytes) -> Iterator[tuple[str, bytes]]:
        """The parts of a document, nearly always one, with the split that each belongs to."""
        start = 0
        for split, border in zip(SPLITS, self.borders, strict=True):
            if document < border.document:
                stop = len(data)
            elif document == border.document and border.byte:
                stop = _start_of_line(data, border.byte)
            else:
                stop = 0
            if stop > start:
                yield split, data[start:stop]
                start = stop


def plan_splits(
    sizes: Sequence[int], heldout: float, validation: float, whole: bool = False
) -> SplitPlan:
    """sizes: bytes of every document, in source order. The fractions are of all bytes. whole: no
    document may be divided; then training text comes first, and a split may be empty."""
    ends = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    last = len(sizes)
    wanted = [ends[-1] * (1 - heldout - validation), ends[-1] * (1 - heldout)]
    nearest = [int(np.abs(ends - position).argmin()) for position in wanted]
    shares = (1 - heldout - validation, validation, heldout)
    found = np.diff([0, *nearest, last])
    if whole:
        late = min(nearest[1], last - (heldout > 0))
        early = max(1, min(nearest[0], late - (validation > 0)))
        borders = [Border(early, 0), Border(max(early, late), 0)]
    elif all(documents > 0 for share, documents in zip(shares, found, strict=True) if share):
        borders = [Border(document, 0) for document in nearest]
    else:
        borders = [_inside(ends, int(position)) for position in wanted]
    return SplitPlan((*borders, Border(last, 0)))


def _inside(ends: np.ndarray, position: int) -> Border:
    document = int(np.searchsorted(ends, position, "right")) - 1
    return Border(document, position - int(ends[document]))


def _start_of_line(data: bytes, position: int) -> int:
    newline = data.find(b"\n", position - 1, len(data) - 1)
    if newline >= 0:
        return newline + 1
    while position < len(data) and data[position] & 0xC0 == 0x80:  # a continuation byte
        position += 1
    return position
