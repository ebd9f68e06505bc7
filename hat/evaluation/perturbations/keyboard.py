"""Slips of the finger: neighbouring keys, swapped letters, letters left out or doubled."""

from __future__ import annotations

import functools
import math

import numpy as np

from hat.evaluation.perturbations.core import Perturbation, Proposal, Text, substitute
from hat.evaluation.streams import Stream

# Rows of keys, and how far each is shifted to the right, in keys.
_SHIFTS = (0.0, 0.5, 0.75, 1.25)
_DIGITS = "1234567890"
_CYRILLIC = ("", "йцукенгшщзхъ", "фывапролджэ", "ячсмитьбю")
LAYOUTS = {
    "qwerty": (_DIGITS, "qwertyuiop", "asdfghjkl;'", "zxcvbnm,./"),
    "qwertz": (_DIGITS + "ß", "qwertzuiopü", "asdfghjklöä", "yxcvbnm,.-"),
    "azerty": ("", "azertyuiop", "qsdfghjklmù", "wxcvbn,;:!"),
}
_REACH = 1.3  # keys: those beside, and the two that touch above and below


@functools.cache
def neighbours(layout: str) -> dict[str, tuple[str, ...]]:
    """For every letter and digit of a layout, and of the Cyrillic one, the keys that touch it.
    Capitals become capitals."""
    table = {}
    for rows in (LAYOUTS[layout], _CYRILLIC):
        at = {key: (column + shift, line) for line, (row, shift) in enumerate(zip(rows, _SHIFTS))
              for column, key in enumerate(row)}
        for key in filter(str.isalnum, at):
            near = [other for other in at if other != key and math.dist(at[key], at[other]) < _REACH]
            table[key] = tuple(near)
            if _capital(key) != key:
                table[_capital(key)] = tuple(map(_capital, near))
    return table


def _capital(key: str) -> str:
    """With Shift, where that gives one letter; ß has no capital on a keyboard."""
    return key.upper() if len(key.upper()) == 1 else key


def slip(layout: str):
    def propose(text: Text, stream: Stream) -> Proposal:
        return substitute(text, stream, neighbours(layout))

    return propose


def swap(text: Text, stream: Stream) -> Proposal:
    index = _letter_pairs(text)
    return Proposal(index, index + 2, lambda unit: text.text[index[unit] : index[unit] + 2][::-1])


def omit(text: Text, stream: Stream) -> Proposal:
    index = _letter_pairs(text)
    return Proposal(index, index + 1, lambda unit: "")


def _letter_pairs(text: Text) -> np.ndarray:
    """int64[u]: letters that another letter follows."""
    letters = text.where(str.isalpha)
    return np.flatnonzero(letters[:-1] & letters[1:])


def _perturbation(name, summary, propose, source, unit="letter") -> Perturbation:
    return Perturbation(name, "typing", unit, summary, source, propose, keeps_words=True)


PERTURBATIONS = (
    _perturbation("keyboard", "a neighbouring key of QWERTY (and of the Cyrillic ЙЦУКЕН)",
                  slip("qwerty"), "nlpaug, NL-Augmenter butter_fingers", "key"),
    _perturbation("keyboard-qwertz", "a neighbouring key of the German layout", slip("qwertz"),
                  "nlpaug", "key"),
    _perturbation("keyboard-azerty", "a neighbouring key of the French layout", slip("azerty"),
                  "nlpaug", "key"),
    _perturbation("swap-letters", "swap two letters anywhere in a word", swap,
                  "CheckList add_typos, NL-Augmenter swap_characters"),
    _perturbation("omit-letter", "leave out a letter that another follows", omit, "TextFlint"),
)  # fmt: skip
