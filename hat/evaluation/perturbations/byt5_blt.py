"""The noises of ByT5 (TACL 2022, section 6) and of BLT (arXiv 2412.09871, section 6.2).

Neither paper's code is public. Where their descriptions differ, or leave room, both readings are
here under names of their own; where they agree, one name serves.
"""

from __future__ import annotations

import numpy as np

from hat.evaluation.perturbations.core import (
    AMOUNT,
    CHOICE,
    Perturbation,
    Proposal,
    Text,
    each_character,
    each_word,
)
from hat.evaluation.streams import Stream


def drop(text: Text, stream: Stream) -> Proposal:
    return each_character(text, np.ones(len(text), bool), lambda unit, _: "")


def repeat(max_copies: int):
    """Appends 1 to max_copies copies of a character."""

    def propose(text: Text, stream: Stream) -> Proposal:
        copies = 1 + stream.below(AMOUNT, len(text), max_copies)
        every = np.ones(len(text), bool)
        return each_character(text, every, lambda unit, i: text.text[i] * int(1 + copies[unit]))

    return propose


def antspeak_byt5(text: Text, stream: Stream) -> Proposal:
    every = np.ones(len(text), bool)
    return each_character(text, every, lambda unit, i: f" {text.text[i].upper()} ")


def antspeak_blt(text: Text, stream: Stream) -> Proposal:
    not_last = np.arange(len(text)) < len(text) - 1
    every = np.ones(len(text), bool)
    return each_character(text, every, lambda _, i: text.text[i].upper() + " " * int(not_last[i]))


def uppercase(text: Text, stream: Stream) -> Proposal:
    return each_word(text, lambda unit, word: word.upper())


def random_case(text: Text, stream: Stream) -> Proposal:
    cased = text.where(lambda c: c.upper() != c.lower())
    upper = stream.below(CHOICE, int(cased.sum()), 2)
    return each_character(
        text, cased, lambda unit, i: text.text[i].upper() if upper[unit] else text.text[i].lower()
    )


def _perturbation(name, summary, propose, source="ByT5, BLT", unit="character", keeps_words=False):
    return Perturbation(name, "byt5-blt", unit, summary, source, propose, keeps_words)


PERTURBATIONS = (
    _perturbation("drop", "drop a character (both papers: rate 0.1)", drop),
    _perturbation("repeat-byt5", "append 1 to 3 copies of a character (rate 0.2)", repeat(3),
                  "ByT5", keeps_words=True),
    _perturbation("repeat-blt", "append 1 to 4 copies of a character (rate 0.2)", repeat(4), "BLT",
                  keeps_words=True),
    _perturbation("antspeak-byt5", 'upper-case and pad on both sides: " A  B  C " (rate 1)',
                  antspeak_byt5, "ByT5"),
    _perturbation("antspeak-blt", 'upper-case and separate: "A B C" (rate 1)', antspeak_blt, "BLT"),
    _perturbation("uppercase", "upper-case a word (rate 1)", uppercase, unit="word",
                  keeps_words=True),
    _perturbation("random-case", "upper or lower case by a coin (rate 1)", random_case,
                  unit="cased character", keeps_words=True),
)  # fmt: skip
