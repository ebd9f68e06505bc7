from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hat.text.utf8 import BREAKING_BYTE, ByteAutomaton, byte_automaton
from tests.text.reference import characters


@pytest.fixture(scope="module")
def classes():
    """Code points in small random classes, so that a wrong code point shows."""
    return np.random.default_rng(0).integers(0, 7, 0x110000).astype(np.uint8)


@pytest.fixture(scope="module")
def automaton(classes) -> ByteAutomaton:
    # Random classes give the largest automaton there is: a leaf for every block of 64.
    return byte_automaton(classes, invalid=7)


def run(automaton: ByteAutomaton, data: bytes) -> list[tuple[int, int]]:
    state, result = 0, []
    for byte in data:
        emission = automaton.emissions[automaton.emission[state, byte]]
        result += [(7, 1)] * emission.broken
        if emission.length:
            result.append((emission.character, emission.length))
        state = automaton.next_state[state, byte]
    broken = automaton.emissions[automaton.emission[state, BREAKING_BYTE]].broken
    assert broken == automaton.pending[state]
    return result + [(7, 1)] * broken


def expected(classes, data: bytes) -> list[tuple[int, int]]:
    return [
        (7 if c == 0xFFFD and length == 1 else int(classes[c]), length)
        for c, length in characters(data)
    ]


def test_every_code_point(automaton, classes):
    for first, last, length in ((0, 0x80, 1), (0x80, 0x800, 2), (0x800, 0x10000, 3),
                                (0x10000, 0x110000, 4)):
        points = np.arange(first, last)
        points = points[(points < 0xD800) | (points > 0xDFFF)]
        encoded = np.frombuffer("".join(map(chr, points)).encode(), np.uint8).reshape(-1, length)
        state = np.zeros(len(points), int)
        for position in range(length):
            emission = automaton.emission[state, encoded[:, position]]
            state = automaton.next_state[state, encoded[:, position]]
            if position < length - 1:
                assert (emission == 0).all()
                assert (automaton.pending[state] == position + 1).all()
        table = np.array(automaton.emissions)
        np.testing.assert_array_equal(table[emission, 0], 0)
        np.testing.assert_array_equal(table[emission, 1], classes[points])
        np.testing.assert_array_equal(table[emission, 2], length)
        assert (state == 0).all()


EDGES = [0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1,
         0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF]


def test_all_short_strings_of_edge_bytes(automaton, classes):
    for length in (1, 2, 3):
        for data in itertools.product(EDGES, repeat=length):
            assert run(automaton, bytes(data)) == expected(classes, bytes(data))


@given(st.lists(st.sampled_from(EDGES), max_size=12).map(bytes) | st.binary(max_size=12))
def test_recovery_is_byte_by_byte(automaton, classes, data):
    assert run(automaton, data) == expected(classes, data)


def test_candidates_are_the_characters_that_may_come(automaton):
    for state in range(len(automaton.pending)):
        reached = set()
        for byte in range(256):
            emission = automaton.emissions[automaton.emission[state, byte]]
            if emission.broken:
                reached.add((7, 1))
            elif emission.length:
                reached.add((emission.character, emission.length))
            else:
                reached |= automaton.candidates[automaton.next_state[state, byte]]
        assert reached == automaton.candidates[state]
