"""Edits of white space. They change how many words a text has, hence the steps of a backbone."""

from __future__ import annotations

from hat.evaluation.perturbations.core import (
    CHOICE,
    Perturbation,
    Proposal,
    Text,
    each_character,
    each_word,
    runs,
)
from hat.evaluation.perturbations.graphemes import clusters
from hat.evaluation.streams import Stream


def merge_words(text: Text, stream: Stream) -> Proposal:
    """A unit is a run of white space between two words."""
    starts, ends = runs(text.where(str.isspace))
    between = (starts > 0) & (ends < len(text))
    return Proposal(starts[between], ends[between], lambda unit: "")


def split_words(text: Text, stream: Stream) -> Proposal:
    """A unit is a run of at least two letters and digits; the place is drawn."""
    starts, ends = runs(text.where(str.isalnum))
    long = ends - starts > 1
    starts, ends = starts[long], ends[long]
    places = starts + 1 + stream.below(CHOICE, len(starts), ends - starts - 1)
    return Proposal(places, places, lambda unit: " ")


def double_spaces(text: Text, stream: Stream) -> Proposal:
    return each_character(text, text.where(" ".__eq__), lambda unit, _: "  ")


def break_lines(text: Text, stream: Stream) -> Proposal:
    return each_character(text, text.where(" ".__eq__), lambda unit, _: "\n")


def space_out(text: Text, stream: Stream) -> Proposal:
    def replace(unit: int, word: str) -> str:
        starts, ends = clusters(Text(word))
        return " ".join(word[start:end] for start, end in zip(starts, ends))

    return each_word(text, replace)


def _perturbation(name, summary, propose, source, unit, keeps_words=False) -> Perturbation:
    return Perturbation(name, "whitespace", unit, summary, source, propose, keeps_words)


PERTURBATIONS = (
    _perturbation("merge-words", "remove the white space between two words", merge_words,
                  "TokSuite space removal, NL-Augmenter", "gap between words"),
    _perturbation("split-words", "a space inside a word", split_words, "eval-framework Editor",
                  "word"),
    _perturbation("double-spaces", "two spaces for one", double_spaces, "NL-Augmenter", "space",
                  keeps_words=True),
    _perturbation("break-lines", "a newline for a space", break_lines, "own", "space",
                  keeps_words=True),
    _perturbation("space-out", "s p a c e d  o u t  words", space_out, "TokSuite spaced styling",
                  "word"),
)  # fmt: skip
