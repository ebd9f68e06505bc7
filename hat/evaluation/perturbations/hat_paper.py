"""The perturbations of the HAT paper (arXiv 2501.10322, section 4.4), in our own form.

Eligible is a character that stands between two others and, like both of them, is a letter or a
digit: so neither the first nor the last of a word. Exactly floor(rate * eligible) are edited. What
we do otherwise than the authors' code: numbers come from the item's own stream, severities are
nested, and swaps never overlap, so that none undoes another. `eval_framework` has their form.
"""

from __future__ import annotations

import numpy as np

from hat.evaluation.perturbations.core import (
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


def _perturbation(name, summary, propose, **options) -> Perturbation:
    options = {"unit": "character", "selection": Selection.COUNT} | options
    return Perturbation(
        name, "hat", summary=summary, source=_PAPER, propose=propose, keeps_words=True, **options
    )


PERTURBATIONS = (
    _perturbation("hat-permute", "swap a character inside a word with the next", permute),
    _perturbation("hat-replace", "replace a character inside a word by any of ASCII", replace),
    _perturbation("hat-delete", "delete a character inside a word", delete),
    _perturbation("hat-uppercase", "upper-case the whole text", uppercase, unit="word",
                  selection=Selection.ALL),
)  # fmt: skip
