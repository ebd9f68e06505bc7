"""Repetition as people type it: looong letters, doubled words, many exclamation marks."""

from __future__ import annotations

from hat.evaluation.perturbations.core import (
    AMOUNT,
    CHOICE,
    Perturbation,
    Proposal,
    Text,
    each_character,
    each_word,
    runs,
)
from hat.evaluation.streams import Stream

_MOST_COPIES = 4


def elongate(text: Text, stream: Stream) -> Proposal:
    """A unit is a run of letters; which of them is drawn."""
    starts, ends = runs(text.where(str.isalpha))
    index = starts + stream.below(CHOICE, len(starts), ends - starts)
    copies = 2 + stream.below(AMOUNT, len(starts), _MOST_COPIES - 1)
    return Proposal(index, index + 1, lambda unit: text.text[index[unit]] * int(1 + copies[unit]))


def repeat_words(text: Text, stream: Stream) -> Proposal:
    return each_word(text, lambda unit, word: f"{word} {word}")


def repeat_punctuation(text: Text, stream: Stream) -> Proposal:
    marks = text.where("!?.,;:…。！？،؟।".__contains__)
    copies = 1 + stream.below(AMOUNT, int(marks.sum()), _MOST_COPIES)
    return each_character(text, marks, lambda unit, i: text.text[i] * int(1 + copies[unit]))


PERTURBATIONS = (
    Perturbation("elongate", "repetition", "word", "2 to 4 more of a letter: sooo",
                 "TokSuite letter repetition", elongate, keeps_words=True),
    Perturbation("repeat-words", "repetition", "word", "say a word a word twice", "own",
                 repeat_words, keeps_words=False),
    Perturbation("repeat-punctuation", "repetition", "punctuation mark", "1 to 4 more of it!!!",
                 "own", repeat_punctuation, keeps_words=True),
)  # fmt: skip
