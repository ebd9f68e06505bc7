"""Rows of new tokens: identities, invariances, and the cache."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given, settings

from hat.dynamic_tokenization import embeddings
from hat.dynamic_tokenization.embeddings import (
    KnownSpellings,
    RowCache,
    Suffixes,
    SuffixSpellings,
    extended,
    last_part,
    last_suffix,
    mean_of_parts,
    pad_parts,
    source_of,
)
from hat.errors import UserError
from hat.models.hypernetwork import HypernetworkConfig
from tests.dynamic_tokenization.models import HYPER_STACK, hypernetwork, llama
from tests.dynamic_tokenization.texts import TEXTS, bpe

PARTS = [(3,), (5, 9), (9, 5), (270, 3, 3, 1), (299,), (1, 2, 3, 4, 5, 6, 7, 8), (5, 9)]


def sides(rows):
    return [np.asarray(side) for side in rows if side is not None]


@pytest.mark.parametrize("tied", [False, True])
def test_the_mean_is_the_mean_and_one_part_its_row(tied):
    model, params = llama(tied)
    source = source_of(model, params)
    found = mean_of_parts(source, pad_parts(PARTS, 9))
    assert (found.outputs is None) == tied
    for rows, base in zip(sides(found), sides(source), strict=True):
        for row, its in zip(rows, PARTS, strict=True):
            wanted = base[list(its)].astype(np.float64).mean(axis=0)
            np.testing.assert_allclose(row, wanted, rtol=0, atol=1e-6)  # fp32 sums of 8 numbers
            if len(its) == 1:
                np.testing.assert_array_equal(row, base[its[0]])


@pytest.mark.parametrize("tied", [False, True])
def test_the_last_part_is_read_and_the_mean_is_written(tied):
    source = source_of(*llama(tied))
    parts = pad_parts(PARTS, 9, len(PARTS) + 1)
    found, mean = last_part(source, parts), mean_of_parts(source, parts)
    inputs, head = np.asarray(source.inputs), sides(mean)[-1]
    np.testing.assert_array_equal(found.inputs[:-1], inputs[[its[-1] for its in PARTS]])
    np.testing.assert_array_equal(found.outputs, head)
    assert not found.inputs[-1].any()  # of no parts
    cached = RowCache(last_part, source)(PARTS)
    for rows, wanted in zip(cached, found, strict=True):  # a mean of 8 in another order
        np.testing.assert_allclose(rows, wanted[:-1], rtol=0, atol=1e-6)
    assert [len(side) for side in RowCache(last_part, source)([])] == [0, 0]
    both = extended(source, found)
    base = inputs if tied else source.outputs
    np.testing.assert_array_equal(both.outputs, np.concatenate([base, found.outputs]))


kinds = pytest.mark.parametrize("kind", ["parts", "bytes"])


@kinds
@pytest.mark.parametrize("tied", [False, True])
def test_a_fresh_hypernetwork_is_the_mean(tied, kind):
    """So that one part keeps its row bit for bit: what is added is 0."""
    source = source_of(*llama(tied))
    predictor = embeddings.hypernetwork(*hypernetwork(tied, kind=kind), bpe())
    parts = pad_parts(PARTS, 8)
    for rows, mean in zip(sides(predictor(source, parts)),
                          sides(mean_of_parts(source, parts)), strict=True):  # fmt: skip
        np.testing.assert_array_equal(rows, mean)


@kinds
@pytest.mark.parametrize("tied", [False, True])
def test_padding_and_order_change_nothing(tied, kind):
    """To 1e-5 of numbers of 1: fp32 sums of 8 parts in another order."""
    source = source_of(*llama(tied))
    predictor = embeddings.hypernetwork(*hypernetwork(tied, False, kind), bpe())
    rows = jax.jit(lambda parts: predictor(source, parts))
    found = sides(rows(pad_parts(PARTS, 8)))
    mean = sides(mean_of_parts(source, pad_parts(PARTS, 8)))
    assert all(np.abs(a - b).max() > 1e-2 for a, b in zip(found, mean))
    for others in (sides(rows(pad_parts(PARTS, 12))), sides(rows(pad_parts(PARTS, 8, 16)))):
        for a, b in zip(found, others):
            np.testing.assert_allclose(a, b[: len(a)], rtol=0, atol=1e-5)
    order = np.random.default_rng(0).permutation(len(PARTS))
    for a, b in zip(found, sides(rows(pad_parts([PARTS[i] for i in order], 8)))):
        np.testing.assert_allclose(a[order], b, rtol=0, atol=1e-5)
        np.testing.assert_allclose(a[1], a[6], rtol=0, atol=1e-5)  # equal parts, equal rows
        assert np.abs(a[1] - a[2]).max() > 1e-3  # but their order counts
        assert np.isfinite(a).all()
    for rows_of_nothing in sides(rows(pad_parts([], 8, 4))):
        assert np.isfinite(rows_of_nothing).all()


def test_bytes_are_read_as_bytes():
    """Two ways to cut one spelling have the same change to their means; 1e-5 of fp32."""
    its = bpe()
    source = source_of(*llama())
    predictor = embeddings.hypernetwork(*hypernetwork(False, False, "bytes"), its)
    one = tuple(its.encode(b" the cat").tolist())
    other = tuple(int(its.encode(bytes([byte]))[0]) for byte in b" the cat")
    assert len(one) < len(other)
    parts = pad_parts([one, other], 8)
    for rows, mean in zip(sides(predictor(source, parts)), sides(mean_of_parts(source, parts))):
        np.testing.assert_allclose(*(rows - mean), rtol=0, atol=1e-5)
    table = embeddings.spellings_for(hypernetwork(False, False, "bytes")[0], its)
    for token in (0, 255, 290, its.eot):
        assert bytes(table[token][table[token] >= 0].tolist()) == its.token_bytes(token)


def test_base_tokens_stay_bit_for_bit():
    """Specials among them: rows are appended."""
    source = source_of(*llama())
    predictor = embeddings.hypernetwork(*hypernetwork(fresh=False), bpe())
    both = extended(source, predictor(source, pad_parts(PARTS, 8)))
    for whole, base in zip(sides(both), sides(source), strict=True):
        np.testing.assert_array_equal(whole[: len(base)], base)
        assert len(whole) == len(base) + len(PARTS)


def test_the_cache_is_memory_and_nothing_else():
    source = source_of(*llama())
    predictor = embeddings.hypernetwork(*hypernetwork(fresh=False), bpe())
    cache = RowCache(predictor, source, capacity=3)
    direct = sides(predictor(source, pad_parts(PARTS, 8)))
    for _ in range(2):
        for a, b in zip(sides(cache(PARTS)), direct, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    distinct = len(set(PARTS))
    assert cache.predicted == distinct  # one call's rows are never dropped, though capacity is 3
    cache(PARTS[:1])
    cache(PARTS[:1])
    assert cache.predicted == distinct
    cache(PARTS)
    assert distinct < cache.predicted <= 2 * distinct - 1


def test_a_spelling_that_is_a_token_is_that_token():
    its = bpe()
    the = next(t for t in range(its.vocab_size) if its.token_bytes(t) == b" the")
    halves = tuple(int(its.encode(half)[0]) for half in (b" ", b"t", b"h", b"e"))
    assert its.decode(halves) == b" the"
    assert KnownSpellings(its)([halves, halves[::-1]]) == [(the,), halves[::-1]]


@settings(max_examples=80)
@given(text=TEXTS)
def test_longest_suffixes_by_brute_force(text):
    its = bpe()
    suffixes = Suffixes(its)
    known = {}
    for token in range(its.vocab_size):
        known.setdefault(its.token_bytes(token), token)
    for end, found in enumerate(suffixes(text).tolist()):
        best = max((text[start : end + 1] for start in range(end + 1)
                    if text[start : end + 1] in known), key=len)  # fmt: skip
        assert found == known[best]
    cut = text[: len(text) // 2]
    np.testing.assert_array_equal(suffixes(cut), suffixes(text)[: len(cut)])


@pytest.mark.parametrize("tied", [False, True])
def test_a_suffix_is_read_and_the_mean_of_the_parts_is_written(tied):
    its, source = bpe(), source_of(*llama(tied))
    letters = [tuple(int(its.encode(bytes([byte]))[0]) for byte in text) for text in (b"x the", b"a")]
    found = SuffixSpellings(its)(letters)
    assert found[0][:-1] == letters[0] and its.token_bytes(found[0][-1]) == b" the"
    assert found[1] == letters[1] * 2  # one part is its own suffix
    rows = last_suffix(source, pad_parts(found, 9))
    inputs, mean = np.asarray(source.inputs), mean_of_parts(source, pad_parts(letters, 9))
    np.testing.assert_array_equal(rows.inputs, inputs[[its[-1] for its in found]])
    np.testing.assert_array_equal(rows.outputs, sides(mean)[-1])


def test_a_hypernetwork_needs_its_base():
    with pytest.raises(UserError, match="--set base=RUN"):
        HypernetworkConfig(stack=HYPER_STACK).build()
