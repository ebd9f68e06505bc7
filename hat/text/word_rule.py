"""Two rules from characters to words, as automata over character classes.

A rule is a function `step(state, character class) -> (state, whether this character starts a
word)`, written below for a reader. `automaton(rule)` enumerates its states, minimises them,
merges the classes that it cannot tell apart, and returns the small table that runs.

The word rule (that of the HAT models of 2025/26, arXiv 2603.15953): segment by the word
boundaries of UAX #29; cut every segment after each punctuation character and between a lowercase
and an uppercase letter; then join pieces from left to right: a single space joins the word after
it, and punctuation joins the space, word or punctuation before it. Every other whitespace stands
alone.

Read causally: a word starts at character i iff the last word of the rule applied to text[:i + 1]
is that character alone. A boundary in front of a character thus never waits for the next one.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hat.text.unicode_classes import CharacterClass


class Token(enum.Enum):
    """The kinds of piece that the joining tells apart."""

    SPACE = enum.auto()  # exactly one U+0020
    WHITE_SPACE = enum.auto()  # any other run of white space
    PUNCTUATION = enum.auto()  # one punctuation character
    WORD = enum.auto()  # everything else


class State(NamedTuple):
    """What the word rule remembers of a text."""

    joins: str  # what the next character may join by UAX #29: a Word_Break value, or with a mark
    after_joiner: bool  # the last character is U+200D
    after_lower: bool  # the last character is a lowercase letter
    after_punctuation: bool  # the last character is punctuation: its piece is closed
    token: Token  # the last piece


_BREAK = "Newline"  # nothing joins, not even a combining mark (WB3a)
_LETTERS = ("ALetter", "Hebrew_Letter")
_IGNORED = ("Extend", "Format", "ZWJ")  # join whatever they follow (WB4)

# UAX #29, rules WB3, WB3d and WB5 to WB16: after the key, these Word_Break values join, and
# become the key for the next character. "ALetter+Mid" is a letter and a character such as an
# apostrophe, which join only if a letter follows (WB6, WB7); likewise for the others. A full
# "Flag" joins no third regional indicator.
_AFTER_LETTER = {v: v for v in (*_LETTERS, "Numeric", "ExtendNumLet")}  # WB5, WB9, WB13a
_JOINING = {
    "CR": {"LF": _BREAK},
    "WSegSpace": {"WSegSpace": "WSegSpace"},
    "ALetter": _AFTER_LETTER,
    "Hebrew_Letter": _AFTER_LETTER | {"Single_Quote": "ALetter+Mid"},  # WB7a
    "Numeric": _AFTER_LETTER,  # WB8, WB10, WB13a
    "Katakana": {v: v for v in ("Katakana", "ExtendNumLet")},  # WB13, WB13a
    "ExtendNumLet": _AFTER_LETTER | {"Katakana": "Katakana"},  # WB13a, WB13b
    "ALetter+Mid": {v: v for v in _LETTERS},  # WB7
    "Hebrew_Letter+Quote": {"Hebrew_Letter": "Hebrew_Letter"},  # WB7c
    "Numeric+Mid": {"Numeric": "Numeric"},  # WB11
    "Regional_Indicator": {"Regional_Indicator": "Flag"},  # WB15, WB16
}
# WB6, WB7b and WB12 look ahead. Read causally these characters break, yet what follows may join.
_MID_LETTER = {v: "ALetter+Mid" for v in ("MidLetter", "MidNumLet", "Single_Quote")}
_MID = {
    "ALetter": _MID_LETTER,
    "Hebrew_Letter": _MID_LETTER | {"Double_Quote": "Hebrew_Letter+Quote"},
    "Numeric": {v: "Numeric+Mid" for v in ("MidNum", "MidNumLet", "Single_Quote")},
}
_OPENS_WITH = {"CR": "CR", "LF": _BREAK, "Newline": _BREAK, "WSegSpace": "WSegSpace"} | {
    v: v for v in (*_LETTERS, "Numeric", "Katakana", "ExtendNumLet", "Regional_Indicator")
}

WORDS_START = State(_BREAK, False, False, False, Token.WHITE_SPACE)


def _segment(state: State, character: CharacterClass) -> tuple[bool, str]:
    """UAX #29: whether the character joins the segment before it, and what may join it next."""
    value = character.word_break
    if state.after_joiner and character.pictographic:
        # WB3c. UAX #29 would let the letters among the pictographs (U+2139, U+24C2, U+1F170...)
        # go on joining letters here; the segmentation that the released models were trained on
        # does not, and neither do we.
        return True, "Other"
    if value in _IGNORED and state.joins not in (_BREAK, "CR"):
        # WB4. Spaces join spaces only where nothing stands between them (WB3d).
        return True, "Other" if state.joins == "WSegSpace" else state.joins
    if value in _JOINING.get(state.joins, {}):
        return True, _JOINING[state.joins][value]
    if value in _MID.get(state.joins, {}):
        return False, _MID[state.joins][value]
    return False, _OPENS_WITH.get(value, "Other")


def words_step(state: State, character: CharacterClass) -> tuple[State, bool]:
    """One character of the word rule."""
    joined, joins = _segment(state, character)
    camel_case = state.after_lower and character.upper
    if joined and not state.after_punctuation and not camel_case:
        starts = False
        blank = state.token in (Token.SPACE, Token.WHITE_SPACE) and character.white_space
        token = Token.WHITE_SPACE if blank else Token.WORD
    else:
        if character.space:
            token = Token.SPACE
        elif character.white_space:
            token = Token.WHITE_SPACE
        else:
            token = Token.PUNCTUATION if character.punctuation else Token.WORD
        attaches = (token == Token.WORD and state.token == Token.SPACE) or (
            token == Token.PUNCTUATION and state.token != Token.WHITE_SPACE
        )
        starts = not attaches
    after_joiner = character.word_break == "ZWJ"
    return State(joins, after_joiner, character.lower, character.punctuation, token), starts


def whitespace_step(after_space: bool, character: CharacterClass) -> tuple[bool, bool]:
    """One character of the whitespace rule (arXiv 2501.10322): what follows white space, and is
    none, starts a word."""
    return character.white_space, after_space and not character.white_space


RULES = {"words": (words_step, WORDS_START), "whitespace": (whitespace_step, True)}


class ClassAutomaton(NamedTuple):
    """A minimal automaton of Q states (0 is the first) over C merged character classes."""

    merged: np.ndarray  # uint8[number of CharacterClass], the merged class of each class
    next_state: np.ndarray  # int32[Q, C]
    starts: np.ndarray  # bool[Q, C], whether the character starts a word


def automaton(
    step: Callable, first_state: tuple | bool, classes: tuple[CharacterClass, ...]
) -> ClassAutomaton:
    """Enumerates, minimises and numbers the states of a rule."""
    numbers = {first_state: 0}
    next_state, starts = [], []
    order = [first_state]
    for state in order:  # grows while we walk it: breadth first
        results = [step(state, character) for character in classes]
        for reached, _ in results:
            if reached not in numbers:
                numbers[reached] = len(order)
                order.append(reached)
        next_state.append([numbers[reached] for reached, _ in results])
        starts.append([start for _, start in results])
    return _minimal(np.array(next_state, np.int32), np.array(starts, bool))


def _minimal(next_state: np.ndarray, starts: np.ndarray) -> ClassAutomaton:
    """Merges states by partition refinement (Moore), then classes with equal columns."""
    _, block = np.unique(starts, axis=0, return_inverse=True)
    while True:
        signature = np.concatenate([block.reshape(-1, 1), block[next_state]], axis=1)
        _, refined = np.unique(signature, axis=0, return_inverse=True)
        if refined.max() == block.max():
            break
        block = refined
    # Number the blocks by their first state, so that block 0 is the first state.
    _, first, block = np.unique(block, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first))
    representatives = np.sort(first)
    next_state = rank[block][next_state[representatives]]
    starts = starts[representatives]
    _, first, merged = np.unique(
        np.concatenate([next_state, starts], axis=0), axis=1, return_index=True, return_inverse=True
    )
    return ClassAutomaton(
        merged.reshape(-1).astype(np.uint8), next_state[:, first], starts[:, first]
    )
