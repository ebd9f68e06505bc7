"""The rule of SpaceByte (arXiv 2404.14408, section 3), over bytes and without their characters.

A byte is spacelike unless it encodes a letter, a digit or the continuation of a character. The
first of a run of spacelike bytes closes its word, and the others begin the next one: " the," is a
word, and so is a Chinese character but for its first byte, with the first byte of the next.
"""

from __future__ import annotations

import enum

import numpy as np

from hat.text.utf8 import NOTHING, ByteAutomaton, Emission
from hat.text.word_rule import ClassAutomaton, automaton


class _Last(enum.Enum):
    """The bytes read so far end with..."""

    INSIDE = enum.auto()  # a byte that is not spacelike
    FIRST = enum.auto()  # a spacelike one after such a byte: the word is closed
    MORE = enum.auto()  # another spacelike one, or nothing: BOS is one


def _step(last: _Last, spacelike: bool) -> tuple[_Last, bool]:
    starts = last is _Last.FIRST
    if not spacelike:
        return _Last.INSIDE, starts
    return (_Last.FIRST if last is _Last.INSIDE else _Last.MORE), starts


def automata() -> tuple[ClassAutomaton, ByteAutomaton]:
    """The rule, and a reader for which every byte is a character."""
    rule = automaton(_step, _Last.MORE, (False, True))
    is_part = np.array([b >= 0x80 and b < 0xC0 or b < 0x80 and chr(b).isalnum() for b in range(256)])
    class_of = rule.merged[np.where(is_part, 0, 1)].astype(np.int64)
    classes = sorted(set(class_of.tolist()))
    reader = ByteAutomaton(
        next_state=np.zeros((1, 256), np.int32),
        emission=(1 + np.searchsorted(classes, class_of)).astype(np.int32)[None],
        emissions=(NOTHING, *(Emission(0, c, 1) for c in classes)),
        pending=np.zeros(1, np.int32),
        candidates=(frozenset((c, 1) for c in classes),),
        invalid=classes[0],  # never used: no byte is pending
    )
    return rule, reader
