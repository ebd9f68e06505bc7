"""Merges over words: against counting anew for every merge, and what telling them costs."""

from __future__ import annotations

import collections
import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hat.errors import UserError
from hat.text.merging import Merged
from hat.text.splitters import FixedStride, WordRule, make_splitter

texts = st.lists(
    st.sampled_from([b"ab", b"a", b" ", b"b", b" the", b" of", b"\n", "世".encode(), b"\xff"]),
    max_size=60,
).map(b"".join) | st.binary(max_size=40)
BASES = [FixedStride(1), WordRule(), make_splitter("spacebyte:7")]


def array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def words(splitter, data: bytes) -> list[bytes]:
    starts = np.flatnonzero(splitter.split(array(data)).starts).tolist()
    return [data[a:b] for a, b in itertools.pairwise([*starts, len(data)])]


def recounted(parts: list[bytes], merges: int, most_bytes: int) -> list[bytes]:
    """The same by counting all pairs for every merge."""
    for _ in range(merges):
        counts = collections.Counter(
            pair for pair in itertools.pairwise(parts) if len(pair[0] + pair[1]) <= most_bytes
        )
        if max(counts.values(), default=0) < 2:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merged, i = [], 0
        while i < len(parts):
            both = tuple(parts[i : i + 2]) == best
            merged.append(parts[i] + parts[i + 1] if both else parts[i])
            i += 1 + both
        parts = merged
    return parts


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.name)
@given(texts, st.integers(0, 12), st.sampled_from([4, 100]))
@example(b"aaaaaaa", 3, 100)
@example(b"", 3, 100)
@settings(max_examples=100)
def test_incremental_equals_counting_anew(base, data, merges, most_bytes):
    parts = words(base, data)
    assert words(Merged(base, merges, most_bytes), data) == recounted(parts, merges, most_bytes)


def test_examples():
    def merged(spec, text):
        return words(make_splitter(spec), text)

    text = b"one of the two, one of the three"
    assert merged("words+merges=0", text) == words(WordRule(), text)
    assert merged("words+merges=1", text) == [
        b"one", b" of the", b" two,", b" one", b" of the", b" three"
    ]  # fmt: skip
    assert merged("stride:1+merges=2", b"abcabcab") == [b"abc", b"abc", b"ab"]
    assert make_splitter("words:64,han=6+merges=9") == Merged(WordRule(64, (("han", 6),)), 9)
    assert make_splitter("words+merges=9").name == "words-v1-unicode16.0-max100+merges-v1-9-max100"
    assert make_splitter("words+merges=9").causality.kind == "sequence"


@given(texts)
@settings(max_examples=40)
def test_words_never_become_more_and_are_known_with_their_last_part(data):
    base = WordRule().split(array(data))
    last = base
    for merges in (0, 1, 2, 5):
        split = Merged(WordRule(), merges).split(array(data))
        assert split.starts.sum() <= last.starts.sum()
        assert not (split.starts & ~base.starts).any()
        # Word k is known where the base knows as many of its words as stand up to the end of k.
        for t, known in enumerate(split.known):
            ends = [base.starts[:end].sum() for end in [*np.flatnonzero(split.starts)[1:], len(data)]]
            assert known == sum(end <= base.known[t] for end in ends)
        last = split


@given(texts, st.integers(0, 8))
@settings(max_examples=60)
def test_the_cost_of_telling_the_boundaries(data, merges):
    """An adaptive code, answer by answer."""
    splitter = Merged(WordRule(), merges)
    base = np.flatnonzero(WordRule().split(array(data)).starts)
    starts = splitter.split(array(data)).starts
    counts = {True: [0.5, 0.5], False: [0.5, 0.5]}
    expected, before = np.zeros(len(data)), True
    for t in base[1:]:
        answer = bool(starts[t])
        expected[t] = -math.log(counts[before][answer] / sum(counts[before]))
        counts[before][answer] += 1
        before = answer
    np.testing.assert_allclose(splitter.boundary_nats(array(data)), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("words+merges=-1", "-1 merges cannot be; give 0 or more"),
        ("words+merges=x", "'x' is no number of merges"),
        ("words+merges=", "'' is no number of merges"),
        ("wods+merges=3", "splitter 'wods' is not known"),
        ("words+merges=3+merges=3", "not byte-causal"),
    ],
)
def test_merges_that_cannot_be(spec, message):
    with pytest.raises(UserError, match=message):
        make_splitter(spec)
