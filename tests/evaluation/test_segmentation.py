from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.errors import UserError
from hat.evaluation.perturbations.segmentation import MODES, jitter
from hat.text.splitters import make_splitter
from tests.evaluation.texts import ALL, rates, texts

SPLITTER = make_splitter("words")
any_bytes = st.one_of(texts.map(str.encode), st.binary(max_size=30))
modes = st.sampled_from(MODES)


def split(data: bytes):
    return SPLITTER.split(np.frombuffer(data, np.uint8))


@settings(max_examples=100)
@given(any_bytes, modes, rates)
def test_a_jittered_split_is_a_split(data, mode, rate):
    before, after = split(data), jitter(data, split(data), mode, rate, 1, "x")
    assert after.starts.shape == after.known.shape == (len(data),)
    assert after.starts.dtype == bool and after.known.dtype == np.int32
    if data:
        assert after.starts[0]
        assert (np.diff(after.known) >= 0).all()
        assert (after.known <= np.cumsum(after.starts) - 1).all()
        if mode == "split":
            assert (after.starts >= before.starts).all()
        elif mode == "merge":
            assert (after.starts <= before.starts).all()


@settings(max_examples=80)
@given(any_bytes, any_bytes, modes, rates)
def test_what_is_known_depends_on_no_later_byte(data, more, mode, rate):
    whole = jitter(data + more, split(data + more), mode, rate, 1, "x")
    for size in range(1, len(data) + 1):
        part = jitter(data[:size], split(data[:size]), mode, rate, 1, "x")
        np.testing.assert_array_equal(part.known, whole.known[:size])
        # Words that are known to be complete are words of the whole.
        ends = np.flatnonzero(np.append(whole.starts, True))[1:]
        assert (np.flatnonzero(part.starts)[: part.known[-1] + 1][1:] == ends[: part.known[-1]]).all()


@given(texts, modes, rates)
def test_no_character_is_cut(text, mode, rate):
    data = text.encode()
    after = jitter(data, split(data), mode, rate, 1, "x")
    for start in np.flatnonzero(after.starts):
        data[:start].decode()


def test_rate_0_and_rate_1():
    data = ALL.encode()
    before = split(data)
    characters = sum(byte >> 6 != 0b10 for byte in data)
    for mode in MODES:
        same = jitter(data, before, mode, 0.0, 1, "x")
        np.testing.assert_array_equal(same.starts, before.starts)
        np.testing.assert_array_equal(same.known, before.known)
    assert jitter(data, before, "merge", 1.0, 1, "x").starts.sum() == 1
    assert jitter(data, before, "split", 1.0, 1, "x").starts.sum() == characters
    words = jitter(b"one two three", split(b"one two three"), "delay", 1.0, 1, "x")
    assert np.flatnonzero(words.starts).tolist() == [0, 4, 8]  # "one ", "two ", "three"


@given(texts, rates, rates)
def test_severities_are_nested(text, rate, other):
    data, (low, high) = text.encode(), sorted((rate, other))
    few, many = (jitter(data, split(data), "merge", r, 1, "x").starts for r in (low, high))
    assert (few >= many).all()
    few, many = (jitter(data, split(data), "split", r, 1, "x").starts for r in (low, high))
    assert (few <= many).all()


def test_moved_boundaries_go_both_ways():
    data = b"word " * 400
    after = jitter(data, split(data), "move", 1.0, 1, "x")
    offsets = (np.flatnonzero(after.starts)[1:] + 1) % 5  # the rule begins " word" at 4 mod 5
    assert set(offsets) == {1, 4}
    # 399 fair coins, within four standard deviations; the numbers are fixed.
    assert abs(int((offsets == 1).sum()) - 199.5) < 40


def test_bad_input():
    with pytest.raises(UserError, match="no jitter 'merg'; did you mean merge?"):
        jitter(b"a", split(b"a"), "merg", 0.1, 0, "x")
    with pytest.raises(UserError, match="rate 2 is no share"):
        jitter(b"a", split(b"a"), "merge", 2, 0, "x")
