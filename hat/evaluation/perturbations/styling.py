"""Unicode dressed up: mathematical alphabets, circles, strokes, hidden characters; normal forms."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

import numpy as np

from hat.evaluation.perturbations.core import Perturbation, Proposal, Text, each_word

_UPPER, _LOWER, _DIGITS = range(0x41, 0x5B), range(0x61, 0x7B), range(0x30, 0x3A)


def _alphabet(upper: int, lower: int, digits: int | None = None, holes: str = "") -> dict[int, str]:
    """The letters as runs of code points. holes: pairs of a letter and where it stands instead."""
    table = {code: chr(upper + i) for i, code in enumerate(_UPPER)}
    table |= {code: chr(lower + i) for i, code in enumerate(_LOWER)}
    if digits is not None:
        table |= {code: chr(digits + i) for i, code in enumerate(_DIGITS)}
    return table | {ord(letter): styled for letter, styled in zip(holes[::2], holes[1::2])}


ALPHABETS = {
    "bold": _alphabet(0x1D400, 0x1D41A, 0x1D7CE),
    "italic": _alphabet(0x1D434, 0x1D44E, holes="hℎ"),
    "script": _alphabet(0x1D4D0, 0x1D4EA),
    "fraktur": _alphabet(0x1D56C, 0x1D586),
    "double-struck": _alphabet(0x1D538, 0x1D552, 0x1D7D8, "CℂHℍNℕPℙQℚRℝZℤ"),
    "sans-serif": _alphabet(0x1D5A0, 0x1D5BA, 0x1D7E2),
    "monospace": _alphabet(0x1D670, 0x1D68A, 0x1D7F6),
    "fullwidth": _alphabet(0xFF21, 0xFF41, 0xFF10),
    "circled": _alphabet(0x24B6, 0x24D0),
}
_HIDDEN = {"strikethrough": "\u0336", "underline": "\u0332", "zero-width": "\u200b"}
_WORD_AND_SPACE = re.compile(r"\S+\s*|\s+")


def _each_word(change: Callable[[str], str]):
    def propose(text: Text, stream) -> Proposal:
        return each_word(text, lambda unit, word: change(word))

    return propose


def _after_each(mark: str) -> Callable[[str], str]:
    return lambda word: "".join(character + mark for character in word)


def _normal(form: str):
    """A unit is a word with the white space after it. No form composes or reorders across the
    beginning of a word, so at rate 1 this is the form of the whole text."""

    def propose(text: Text, stream) -> Proposal:
        spans = [match.span() for match in _WORD_AND_SPACE.finditer(text.text)]
        starts, ends = np.array(spans, np.int64).reshape(-1, 2).T
        return Proposal(
            starts, ends,
            lambda unit: unicodedata.normalize(form, text.text[starts[unit] : ends[unit]]),
        )  # fmt: skip

    return propose


PERTURBATIONS = (
    *(
        Perturbation(f"style-{name}", "styling", "word", f"ASCII letters as {name} ones",
                     "TokSuite unicode styling", _each_word(lambda word, t=table: word.translate(t)),
                     keeps_words=True)
        for name, table in ALPHABETS.items()
    ),
    *(
        Perturbation(name, "styling", "word", f"U+{ord(mark):04X} after every character of a word",
                     "own", _each_word(_after_each(mark)), keeps_words=True)
        for name, mark in _HIDDEN.items()
    ),
    *(
        # The compatibility forms can turn one word into several: U+00B4 holds a space.
        Perturbation(form.lower(), "normal-forms", "word", f"Unicode normalisation form {form}",
                     "UAX #15", _normal(form), keeps_words="K" not in form)
        for form in ("NFC", "NFD", "NFKC", "NFKD")
    ),
)  # fmt: skip
