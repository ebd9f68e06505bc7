"""UTF-8 as an automaton from bytes to character classes, with recovery from invalid bytes.

A byte either completes a character or leaves up to three bytes pending. Only well-formed
sequences are characters (Unicode 16.0, table 3-7: no overlong forms, no surrogates, nothing past
U+10FFFF). Recovery is byte by byte: when a byte cannot continue the pending ones, each of them is
a character by itself, of the class of U+FFFD, and the byte is read afresh. A pending sequence
always has a valid continuation, and a continuation byte never opens a character, so nothing is
ever read twice. The end of the data breaks a pending sequence in the same way.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BREAKING_BYTE = 0xFF  # in no character: what the end of the data does to a pending sequence
_SURROGATES = range(0xD800 >> 6, 0xE000 >> 6)  # blocks of 64 code points
_PAGES = range(0x10000 >> 12, 0x110000 >> 12)  # of 4,096 code points, with four-byte characters
_INVALID = -(1 << 20)  # in a row of a node: this continuation byte breaks the sequence


class Emission(NamedTuple):
    """The characters that one byte completes: first `broken` invalid ones, a byte each, then the
    character of class `character` (-1: none) that is `length` bytes long and ends at the byte."""

    broken: int
    character: int
    length: int


NOTHING = Emission(0, -1, 0)


class ByteAutomaton(NamedTuple):
    """S states; 0 is "nothing pending". A state knows the number of its pending bytes and, for
    each of their continuations, the class of the character."""

    next_state: np.ndarray  # int32[S, 256]
    emission: np.ndarray  # int32[S, 256], index into `emissions`
    emissions: tuple[Emission, ...]  # 0 is NOTHING
    pending: np.ndarray  # int32[S], bytes pending: 0 to 3
    candidates: tuple[frozenset[tuple[int, int]], ...]  # [S]: (class, length) of every character
    # that may come next, beginning with the pending bytes; the invalid byte is one of them
    invalid: int  # the class of an invalid byte


def byte_automaton(class_of: np.ndarray, invalid: int) -> ByteAutomaton:
    """Builds the minimal automaton for uint8[0x110000] classes and the class of invalid bytes."""
    nodes = _Nodes()
    blocks = class_of.reshape(-1, 64)  # the last byte of a character chooses within a block
    lead = np.full(256, _complete(invalid), np.int32)
    lead[:128] = _complete(class_of[:128])
    for byte in range(0xC2, 0xE0):
        lead[byte] = nodes.add_leaf(1, blocks[byte & 0x1F])
    for byte in range(0xE0, 0xF0):
        row = np.full(64, _INVALID, np.int32)
        for second in range(64):
            block = (byte & 0xF) * 64 + second
            if block >= 0x20 and block not in _SURROGATES:  # else overlong
                row[second] = nodes.add_leaf(2, blocks[block])
        lead[byte] = nodes.add(1, row)
    for byte in range(0xF0, 0xF5):
        row = np.full(64, _INVALID, np.int32)
        for second in range(64):
            page = (byte & 7) * 64 + second
            if page in _PAGES:
                leaves = [nodes.add_leaf(3, block) for block in blocks[page * 64 : page * 64 + 64]]
                row[second] = nodes.add(2, np.array(leaves, np.int32))
        lead[byte] = nodes.add(1, row)
    return _assemble(lead, nodes, invalid)


def _complete(character_class):
    """In a row, classes are negative and nodes are positive."""
    return -1 - np.asarray(character_class, np.int32)


class _Nodes:
    """The states with bytes pending, equal ones merged. Numbered from 1, children first."""

    def __init__(self):
        self.pending = [0]
        self.rows = [np.empty(0, np.int32)]  # int32[64] by continuation byte
        self._numbers: dict[tuple[int, bytes], int] = {}
        self._leaves: dict[tuple[int, bytes], int] = {}

    def add(self, pending: int, row: np.ndarray) -> int:
        """A node by what each continuation byte leads to."""
        key = (pending, row.tobytes())
        if key not in self._numbers:
            self._numbers[key] = len(self.rows)
            self.pending.append(pending)
            self.rows.append(row)
        return self._numbers[key]

    def add_leaf(self, pending: int, block: np.ndarray) -> int:
        """A node by the class of the character that each continuation byte completes."""
        key = (pending, block.tobytes())
        if key not in self._leaves:
            self._leaves[key] = self.add(pending, _complete(block))
        return self._leaves[key]


def _assemble(lead: np.ndarray, nodes: _Nodes, invalid: int) -> ByteAutomaton:
    emissions = {NOTHING: 0}

    def number(*emission: int) -> int:
        return emissions.setdefault(Emission(*emission), len(emissions))

    afresh = np.array(  # [bytes pending, byte]: what a byte emits that breaks the pending ones
        [
            [number(pending, -1 - v, 1) if v < 0 else number(pending, -1, 0) for v in lead.tolist()]
            for pending in range(4)
        ]
    )
    next_state = np.tile(np.maximum(lead, 0), (len(nodes.rows), 1))
    emission = afresh[nodes.pending]
    candidates = [frozenset()]
    for state in range(1, len(nodes.rows)):
        pending = nodes.pending[state]
        possible = {(invalid, 1)}  # if the next byte breaks the sequence
        for value in np.unique(nodes.rows[state]).tolist():
            if value == _INVALID:
                continue
            bytes_ = 0x80 + np.flatnonzero(nodes.rows[state] == value)
            if value < 0:
                character, length = -1 - value, pending + 1
                possible.add((character, length))
                next_state[state, bytes_] = 0
                emission[state, bytes_] = number(0, character, length)
            else:
                possible |= candidates[value]
                next_state[state, bytes_] = value
                emission[state, bytes_] = 0
        candidates.append(frozenset(possible))
    alone = {(-1 - value, 1) for value in lead.tolist() if value < 0}
    candidates[0] = frozenset(alone.union(*(candidates[v] for v in lead.tolist() if v > 0)))
    return ByteAutomaton(
        next_state=next_state.astype(np.int32),
        emission=emission.astype(np.int32),
        emissions=tuple(emissions),
        pending=np.array(nodes.pending, np.int32),
        candidates=tuple(candidates),
        invalid=invalid,
    )
