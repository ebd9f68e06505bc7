from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hat.evaluation import edits
from hat.evaluation.edits import Edit, Perturbed, osa_distance


def reference_distance(a: bytes, b: bytes) -> int:
    """The recurrence of optimal string alignment, cell by cell."""
    table = {(i, 0): i for i in range(len(a) + 1)} | {(0, j): j for j in range(len(b) + 1)}
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1,
                              table[i - 1, j - 1] + (a[i - 1] != b[j - 1]))
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                table[i, j] = min(table[i, j], table[i - 2, j - 2] + 1)
    return table[len(a), len(b)]


few_symbols = st.lists(st.integers(0, 3), max_size=14).map(bytes)


@settings(max_examples=400)
@given(few_symbols, few_symbols)
@example(b"", b"")
@example(b"ab", b"ba")
@example(b"ca", b"abc")
def test_distance_is_that_of_the_recurrence(a, b):
    assert osa_distance(a, b) == reference_distance(a, b)


def test_distance_beyond_one_machine_word():
    generator = random.Random(0)
    for _ in range(3):
        a = bytes(generator.choices(b"abcd", k=150))
        b = bytes(generator.choices(b"abcd", k=130))
        assert osa_distance(a, b) == reference_distance(a, b)
    assert osa_distance(b"ca", b"abc") == 3  # 2 for the unrestricted Damerau distance


PERTURBED = Perturbed(b"0123456789", (Edit(0, 0, b">"), Edit(2, 4, b""), Edit(6, 7, b"ab")))


def test_edits_are_made_and_spans_found_again():
    assert PERTURBED.text == b">0145ab789"
    for start, end in [(0, 2), (4, 6), (7, 10), (5, 6), (10, 10), (2, 2), (4, 4)]:
        a, b = PERTURBED.locate(start, end)
        assert PERTURBED.text[a:b] == PERTURBED.source[start:end]
    for start, end in [(1, 3), (3, 5), (0, 10), (6, 7), (5, 8)]:
        with pytest.raises(ValueError, match="are edited"):
            PERTURBED.locate(start, end)
    insertion = Perturbed(b"abcd", (Edit(2, 2, b"--"),))
    assert insertion.locate(0, 2) == (0, 2) and insertion.locate(2, 4) == (4, 6)
    with pytest.raises(ValueError, match="are edited"):
        insertion.locate(1, 3)


def test_rate_counts_edits_of_bytes():
    assert (PERTURBED.edit_distance, PERTURBED.edit_rate) == (5, 0.5)
    assert Perturbed(b"", ()).edit_rate == 0
    swap = Perturbed(b"abcd", (Edit(1, 3, b"cb"),))
    assert swap.edit_distance == 1


def test_a_long_text_is_measured_in_pieces(monkeypatch):
    generator = random.Random(1)
    source = bytes(generator.choices(b"etaoin shrdlu", k=4000))
    places = sorted(generator.sample(range(0, 3998, 2), 300))
    some = tuple(Edit(i, i + 2, source[i : i + 2][::-1]) for i in places
                 if source[i] != source[i + 1])
    whole = Perturbed(source, some).edit_distance
    monkeypatch.setattr(edits, "EXACT_BYTES", 256)
    pieces = Perturbed(source, some).edit_distance
    # A cut can only miss a shorter way across it; 16 cuts miss at most one edit each.
    assert whole <= pieces <= whole + 16
    assert pieces <= len(some)
