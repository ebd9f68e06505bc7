"""Letters taken for others: scanned, from another script, as digits, without their accents."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from hat.evaluation.perturbations.core import (
    CHOICE,
    Perturbation,
    Proposal,
    Text,
    each_character,
    substitute,
)
from hat.evaluation.streams import Stream

# Strings that print alike enough for a scanner to take one for another.
_SCANNED_ALIKE = (
    ("0", "O", "o", "D"), ("O", "Q"), ("1", "l", "I", "i"), ("5", "S"), ("8", "B"), ("6", "b", "G"),
    ("2", "Z", "z"), ("9", "g", "q"), ("c", "e"), ("h", "b"), ("u", "v"), ("f", "t"), ("C", "G"),
    ("E", "F"), ("m", "rn", "nn"), ("d", "cl"), ("w", "vv"), ("n", "ri", "ii"), ("h", "li"),
)  # fmt: skip
# Latin, Greek and Cyrillic letters that most fonts draw alike.
_DRAWN_ALIKE = (
    "aа", "cсϲ", "eе", "iіι", "jјϳ", "oоο", "pрρ", "sѕ", "vν", "xх", "yу", "AАΑ", "BВΒ", "CСϹ", "EЕΕ",
    "HНΗ", "IІΙ", "JЈ", "KКΚ", "MМΜ", "NΝ", "OОΟ", "PРΡ", "SЅ", "TТΤ", "XХΧ", "YΥҮ", "ZΖ", "ГΓ",
    "ПΠ", "ФΦ",
)  # fmt: skip
LEET = {"a": "4@", "b": "8", "e": "3", "g": "9", "i": "1!", "l": "1|", "o": "0", "s": "5$",
        "t": "7+", "z": "2"}  # fmt: skip
_ACCENTS = "\u0300\u0301\u0302\u0303\u0308\u030a\u030c"  # grave, acute, circumflex, tilde, ...
_VOICING_OR_VIRAMA = 9  # combining classes up to it are no accents: they make another letter


def alike(groups: Sequence[Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """For every member of a group, the other members of all its groups."""
    table: dict[str, tuple[str, ...]] = {}
    for group in groups:
        for member in group:
            table[member] = table.get(member, ()) + tuple(o for o in group if o != member)
    return table


HOMOGLYPHS = alike(_DRAWN_ALIKE)
SCANS = alike(_SCANNED_ALIKE)
_LEET = LEET | {letter.upper(): options for letter, options in LEET.items()}
# At each place the longest string of the table; what overlaps is left to the priorities.
_SCANNED = re.compile(f"(?=({'|'.join(sorted(SCANS, key=len, reverse=True))}))")


def ocr(text: Text, stream: Stream) -> Proposal:
    spans = np.array([m.span(1) for m in _SCANNED.finditer(text.text)], np.int64).reshape(-1, 2)
    starts, ends = spans.T
    draws = stream.uniform(CHOICE, len(starts))

    def replace(unit: int) -> str:
        options = SCANS[text.text[starts[unit] : ends[unit]]]
        return options[int(draws[unit] * len(options))]

    return Proposal(starts, ends, replace)


def homoglyph(text: Text, stream: Stream) -> Proposal:
    return substitute(text, stream, HOMOGLYPHS)


def leetspeak(text: Text, stream: Stream) -> Proposal:
    return substitute(text, stream, _LEET)


def strip_diacritics(text: Text, stream: Stream) -> Proposal:
    """A unit is a character with the accents after it, where there is one to take away."""
    accents = text.where(is_accent)
    count = np.cumsum(accents | text.where(lambda c: without_accents(c) != c), dtype=np.int64)
    first = np.flatnonzero(~accents)
    ends = np.append(first[1:], len(text))
    # An accent on white space, or on nothing, may be all that a word consists of.
    bare = text.where(str.isspace)[first]
    units = (count[ends - 1] > np.concatenate([[0], count])[first]) & ~bare
    starts, ends = first[units], ends[units]
    return Proposal(starts, ends, lambda u: without_accents(text.text[starts[u] : ends[u]]))


def without_accents(text: str) -> str:
    """Without its accents, Hebrew points, Arabic short vowels and tone marks, precomposed or not.

    Marks of combining class 0 to 9 stay: vowel signs, nukta, kana voicing and virama."""
    decomposed = unicodedata.normalize("NFD", text)
    kept = "".join(character for character in decomposed if not is_accent(character))
    return unicodedata.normalize("NFC", kept) if kept != decomposed else text


def is_accent(character: str) -> bool:
    return unicodedata.combining(character) > _VOICING_OR_VIRAMA


def add_diacritics(text: Text, stream: Stream) -> Proposal:
    letters = text.where(lambda c: c.isascii() and c.isalpha())
    draws = stream.below(CHOICE, int(letters.sum()), len(_ACCENTS))
    return each_character(
        text, letters,
        lambda unit, i: unicodedata.normalize("NFC", text.text[i] + _ACCENTS[draws[unit]]),
    )  # fmt: skip


def _perturbation(name, summary, propose, source, unit="letter") -> Perturbation:
    return Perturbation(name, "lookalikes", unit, summary, source, propose, keeps_words=True)


PERTURBATIONS = (
    _perturbation("ocr", "what a scanner mistakes: rn for m, 0 for O", ocr, "nlpaug, TokSuite",
                  "confusable string"),
    _perturbation("homoglyph", "the same shape from Latin, Greek or Cyrillic", homoglyph,
                  "TokSuite"),
    _perturbation("leetspeak", "a digit or sign for a letter: l33t", leetspeak, "NL-Augmenter"),
    _perturbation("strip-diacritics", "take accents, points and tone marks away", strip_diacritics,
                  "TokSuite", "accented letter"),
    _perturbation("add-diacritics", "put an accent on an ASCII letter", add_diacritics,
                  "NL-Augmenter visual_attack"),
)  # fmt: skip
