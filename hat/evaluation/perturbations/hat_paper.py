"""The perturbations of the HAT paper (arXiv 2501.10322, section 4.4), in our own form.

Four of the paper, and the mixed "editor" that its authors' eval-framework has beside them. Of the
first three, eligible is a character that stands between two others and, like both of them, is a
letter or a digit: so neither the first nor the last of a word. Exactly floor(rate * eligible) are
edited. What we do otherwise than the authors' code: numbers come from the item's own stream,
severities are nested, and swaps never overlap, so that none undoes another. `eval_framework` has
their form of the four.
"""

from __future__ import annotations

import numpy as np

from hat.evaluation.perturbations.core import (
    AMOUNT,
    CHOICE,
    Perturbation,
    Proposal,
    Selection,
    Text,
    each_character,
    each_word,
)
from hat.evaluation.streams import Stream

PRINTABLE = range(33, 127)  # ASCII without the space
LETTERS = "abcdefghijklmnopqrstuvwxyz"
_PAPER = "HAT, arXiv 2501.10322, section 4.4"


def eligible(text: Text) -> np.ndarray:
    """bool[n]: letters and digits between letters and digits."""
    alphanumeric = text.where(str.isalnum)
    result = np.zeros(len(text), bool)
    result[1:-1] = alphanumeric[:-2] & alphanumeric[1:-1] & alphanumeric[2:]
    return result


def permute(text: Text, stream: Stream) -> Proposal:
    index = np.flatnonzero(eligible(text))
    return Proposal(index, index + 2, lambda unit: text.text[index[unit] : index[unit] + 2][::-1])


def replace(text: Text, stream: Stream) -> Proposal:
    mask = eligible(text)
    draws = stream.below(CHOICE, int(mask.sum()), len(PRINTABLE))
    return each_character(text, mask, lambda unit, _: chr(PRINTABLE[draws[unit]]))


def delete(text: Text, stream: Stream) -> Proposal:
    return each_character(text, eligible(text), lambda unit, _: "")


def uppercase(text: Text, stream: Stream) -> Proposal:
    return each_word(text, lambda unit, word: word.upper())


def editor(text: Text, stream: Stream) -> Proposal:
    """A unit for each letter of a word but the last; what is done to it is drawn: a letter inserted
    before it, its case changed (twice as likely), it and the next swapped, the word split after it,
    or, in words of more than four letters, it is deleted."""
    starts, ends = text.words()
    index = np.concatenate([[], *(np.arange(a, b - 1) for a, b in zip(starts, ends))]).astype(int)
    long = np.concatenate([[], *(np.full(b - 1 - a, b - a > 4) for a, b in zip(starts, ends))])
    choice = stream.below(CHOICE, len(index), 5 + long.astype(np.int64))
    letter = stream.below(AMOUNT, len(index), len(LETTERS))

    def replace(unit: int) -> str:
        one, two = text.text[index[unit] : index[unit] + 2]
        return (LETTERS[letter[unit]] + one + two, one.swapcase() + two, one.swapcase() + two,
                two + one, f"{one} {two}", two)[choice[unit]]

    return Proposal(index, index + 2, replace)


def _perturbation(name, summary, propose, **options) -> Perturbation:
    options = {"unit": "character", "selection": Selection.COUNT, "source": _PAPER,
               "keeps_words": True} | options  # fmt: skip
    return Perturbation(name, "hat", summary=summary, propose=propose, **options)


PERTURBATIONS = (
    _perturbation("hat-permute", "swap a character inside a word with the next", permute),
    _perturbation("hat-replace", "replace a character inside a word by any of ASCII", replace),
    _perturbation("hat-delete", "delete a character inside a word", delete),
    _perturbation("hat-uppercase", "upper-case the whole text", uppercase, unit="word",
                  selection=Selection.ALL),
    _perturbation("hat-editor", "insert, delete, swap, change the case of or split at a letter",
                  editor, unit="letter but the last of a word", source="eval-framework Editor",
                  keeps_words=False),
)  # fmt: skip
