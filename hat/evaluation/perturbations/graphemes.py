"""What a reader calls a character: edits that never part a letter from its marks."""

from __future__ import annotations

import unicodedata

import numpy as np

from hat.evaluation.perturbations.core import Perturbation, Proposal, Text
from hat.evaluation.streams import Stream

_JOINER = "\u200d"
# Grapheme_Extend or SpacingMark, yet no marks by category: non-joiner, Thai and Lao am, skin tones.
_EXTENDING = "\u200c\u0e33\u0eb3" + "".join(map(chr, range(0x1F3FB, 0x1F400)))


def clusters(text: Text) -> tuple[np.ndarray, np.ndarray]:
    """int64[c] starts and ends of characters with their marks.

    UAX #29 in short: all marks, joiners and what follows a joiner belong to what stands before
    them, CR LF is one. Unlike there, the letters of Indic conjuncts, Hangul jamo, the halves of
    flags and prepended signs stand alone, and spacing marks of Myanmar do not.
    """
    joiner = text.where(_JOINER.__eq__)
    joins = joiner | text.where(lambda c: unicodedata.category(c)[0] == "M" or c in _EXTENDING)
    joins[1:] |= joiner[:-1] & ~text.where(str.isspace)[1:]
    joins[1:] |= text.where("\n".__eq__)[1:] & text.where("\r".__eq__)[:-1]
    joins[:1] = False
    starts = np.flatnonzero(~joins)
    return starts, np.append(starts[1:], len(text))


def drop(text: Text, stream: Stream) -> Proposal:
    return Proposal(*clusters(text), lambda unit: "")


def swap(text: Text, stream: Stream) -> Proposal:
    """A unit is a letter with its marks and the letter with its marks after it."""
    starts, ends = clusters(text)
    letters = text.where(str.isalpha)[starts]
    pairs = np.flatnonzero(letters[:-1] & letters[1:])
    first, middle, last = starts[pairs], ends[pairs], ends[pairs + 1]
    return Proposal(
        first,
        last,
        lambda unit: text.text[middle[unit] : last[unit]] + text.text[first[unit] : middle[unit]],
    )


PERTURBATIONS = (
    Perturbation("drop-grapheme", "graphemes", "grapheme", "drop a character and its marks",
                 "drop, for scripts with marks", drop, keeps_words=False),
    Perturbation("swap-graphemes", "graphemes", "grapheme", "swap two letters with their marks",
                 "swap-letters, for scripts with marks", swap, keeps_words=True),
)  # fmt: skip
