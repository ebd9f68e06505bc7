"""A splitting rule compiled to a few integer tables, and one step through them.

`compile_tables` composes the byte automaton (utf8.py) with the class automaton of a rule
(word_rule.py) and a limit on the bytes of a word. The same tables run on the host
(split_loop.py), in a stream, and inside a jitted scan: `step` is written with indexing and
arithmetic alone, so that it takes Python integers, NumPy and JAX arrays alike (for JAX, map
`jax.numpy.asarray` over the tables and the state first).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hat.text.utf8 import ByteAutomaton, Emission
from hat.text.word_rule import ClassAutomaton

MAX_ROOM = 4  # no character is longer, and one byte completes at most as many bytes


class SplitTables(NamedTuple):
    """For S byte states, Q word states, E emissions, R sets of candidates. All int32.

    Room is how many bytes the current word may still take after the last complete character;
    more than MAX_ROOM counts as MAX_ROOM.
    """

    next_byte: Any  # [S, 256] byte state after a byte
    emission: Any  # [S, 256] the characters that the byte completes; 0 for none
    pending: Any  # [S] bytes of a character begun and not complete, 0 to 3
    next_word: Any  # [Q, E] word state after an emission
    starts: Any  # [MAX_ROOM + 1, Q, E] 4 bits by room: bit k, a word starts k bytes back
    candidates: Any  # [S, MAX_ROOM + 1] by room: the set of characters that may still join
    closed: Any  # [Q, R] 1 if none of the candidates does: the word is complete
    num_starts: Any  # [16] the bits set in a mask
    last_start: Any  # [16] bytes from the last word start in a mask to now; 0 if it has none
    max_word_bytes: Any  # []


class SplitState(NamedTuple):
    """Where a splitter is between two bytes. All integers."""

    byte: Any  # byte state
    word: Any  # word state
    length: Any  # bytes since the last word start reported, pending ones included


class Revelation(NamedTuple):
    """What one byte reveals."""

    starts: Any  # 4 bits: bit k is set if a word starts k bytes back, in characters now complete
    closed: Any  # 1 if the last of these words is complete: it ends before the pending bytes


def initial_state(max_word_bytes: int) -> SplitState:
    """The beginning of the data is like the end of a full word: the first byte starts one."""
    return SplitState(byte=0, word=0, length=max_word_bytes)


def step(tables: SplitTables, state: SplitState, byte: Any) -> tuple[SplitState, Revelation]:
    """Reads one byte, an integer 0..255. The number of words known to be complete is the number
    of starts reported so far, minus 1, plus `closed`."""
    emission = tables.emission[state.byte, byte]
    next_byte = tables.next_byte[state.byte, byte]
    room = tables.max_word_bytes - state.length + tables.pending[state.byte]
    starts = tables.starts[_at_most(room, MAX_ROOM), state.word, emission]
    word = tables.next_word[state.word, emission]
    length = (starts == 0) * (state.length + 1) + tables.last_start[starts]
    room = tables.max_word_bytes - length + tables.pending[next_byte]
    closed = tables.closed[word, tables.candidates[next_byte, _at_most(room, MAX_ROOM)]]
    return SplitState(next_byte, word, length), Revelation(starts, closed)


def _at_most(value: Any, limit: int) -> Any:
    return value - (value > limit) * (value - limit)


def compile_tables(
    words: ClassAutomaton, characters: ByteAutomaton, max_word_bytes: int
) -> SplitTables:
    """Composes the two automata. A character starts a word by the rule, or if the word would
    otherwise exceed `max_word_bytes` bytes; a character longer than that is itself cut."""
    num_emissions = len(characters.emissions)
    next_word = np.empty((len(words.next_state), num_emissions), np.int32)
    starts = np.empty((MAX_ROOM + 1, *next_word.shape), np.int32)
    for number, emission in enumerate(characters.emissions):
        for room in range(MAX_ROOM + 1):
            next_word[:, number], starts[room, :, number] = _read(
                words, emission, characters.invalid, room, max_word_bytes
            )
    candidates, closed = _closing(words, characters)
    masks = range(16)
    return SplitTables(
        next_byte=characters.next_state,
        emission=characters.emission,
        pending=characters.pending,
        next_word=next_word,
        starts=starts,
        candidates=candidates,
        closed=closed,
        num_starts=np.array([mask.bit_count() for mask in masks], np.int32),
        last_start=np.array([(mask & -mask).bit_length() for mask in masks], np.int32),
        max_word_bytes=np.int32(max_word_bytes),
    )


def _read(
    words: ClassAutomaton, emission: Emission, invalid: int, room: int, max_word_bytes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Next word state [Q] and mask of starts [Q], one character of the emission after another."""
    characters = [(invalid, 1, back) for back in range(emission.broken, 0, -1)]
    if emission.length:
        characters.append((emission.character, emission.length, emission.length - 1))
    state = np.arange(len(words.next_state))
    length = np.full(len(state), max_word_bytes - room)
    masks = np.zeros(len(state), np.int32)
    for character, num_bytes, first_back in characters:
        start = words.starts[state, character] | (length + num_bytes > max_word_bytes)
        state = words.next_state[state, character]
        cuts = range(first_back, first_back - num_bytes, -max_word_bytes)
        masks |= start * np.int32(sum(1 << back for back in cuts))
        last_part = (num_bytes - 1) % max_word_bytes + 1
        length = np.where(start, last_part, length + num_bytes)
    return state, masks


def _closing(words: ClassAutomaton, characters: ByteAutomaton) -> tuple[np.ndarray, np.ndarray]:
    """The tables `candidates` and `closed`. Sets that close the same word states are one set."""
    sets: dict[bytes, int] = {}
    by_classes: dict[frozenset[int], int] = {}
    candidates = np.empty((len(characters.pending), MAX_ROOM + 1), np.int32)
    for state, possible in enumerate(characters.candidates):
        for room in range(MAX_ROOM + 1):
            fitting = frozenset(character for character, length in possible if length <= room)
            if fitting not in by_classes:
                closed = words.starts[:, sorted(fitting)].all(axis=1)
                by_classes[fitting] = sets.setdefault(closed.tobytes(), len(sets))
            candidates[state, room] = by_classes[fitting]
    closed = np.array([np.frombuffer(column, bool) for column in sets], np.int32).T
    return candidates, np.ascontiguousarray(closed)
