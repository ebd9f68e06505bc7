"""Ticks, and texts that show their edits, on any input."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hat.evaluation.report.examples import NEAR, passage, pieces, visible
from hat.evaluation.report.svg import ticks
from tests.evaluation.report_results import results

NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(NUMBERS, NUMBERS)
def test_ticks_are_round_and_cover_their_range(a, b):
    low, high = min(a, b), max(a, b)
    if high - low < 1e-6 * max(abs(low), abs(high), 1e-3):
        return  # no scale to speak of
    found = ticks(low, high)
    step = found[1] - found[0]
    slack = 1e-8 * max(abs(low), abs(high), 1)
    assert found[0] <= low + slack and found[-1] >= high - slack
    assert 2 <= len(found) <= 8  # six steps, and one cut at either end
    digits = f"{step:.0e}"[0]
    assert digits in "125" and step == pytest.approx(float(f"{step:.0e}"), rel=1e-5)


@given(st.binary(max_size=60))
def test_nothing_visible_is_hidden(data):
    for character in visible(data):
        assert unicodedata.category(character)[0] != "C" and character not in "\n\r\u2028\u2029"


def test_what_is_made_visible():
    text = "a b\tc\n\u200d\u00a0é\u202e".encode() + b"\xff"
    assert visible(text) == "a b\\tc\\n\\u200d\\xa0é\\u202e\\xff"


EDITS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4), st.text("xyz", max_size=3)))


@given(st.text("abcdefgh ", max_size=300), EDITS)
def test_pieces_spell_the_text_before_and_after(context, gaps):
    """Up to what lies far from every edit, which a gap stands for."""
    edits, end, after = [], 0, ""
    for skip, length, replacement in gaps:
        start = end + skip + 1
        if start + length > len(context) or not (length or replacement):
            continue
        after += context[end:start] + replacement
        edits.append((start, start + length, replacement.encode()))
        end = start + length
    after += context[end:]
    found = pieces(context.encode(), edits)
    if all(kind != "gap" for kind, _ in found):
        assert "".join(said for kind, said in found if kind != "inserted") == context
        assert "".join(said for kind, said in found if kind != "deleted") == after
    kept = "".join(said for kind, said in found if kind == "same")
    assert len(kept) <= 2 * NEAR * (len(edits) + 1)
    assert sum(kind == "deleted" for kind, _ in found) == sum(b > a for a, b, _ in edits)


def test_a_gap_cuts_no_character():
    found = pieces("é".encode() * 200, [(200, 202, b"e")])
    assert [kind for kind, _ in found] == ["gap", "same", "deleted", "inserted", "same", "gap", "same"]
    assert all(set(said) == {"é"} for kind, said in found if kind == "same")


def test_a_passage_says_what_the_noise_cost():
    found = passage(results().examples[0])
    assert found.note.endswith("9.50 after the noised one: +0.929 nats/byte over 7 bytes")
    kinds = [kind for kind, _ in found.pieces]
    assert kinds == ["same", "deleted", "inserted", "same", "inserted", "same", "continuation"]
