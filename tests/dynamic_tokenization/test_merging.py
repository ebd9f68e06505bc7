"""Merging against its definition, and what must hold of it for arbitrary bytes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.dynamic_tokenization.boundaries import BOUNDARIES, encode, piece_starts
from hat.dynamic_tokenization.merging import apply, check_likelihood, learn, merge
from hat.errors import UserError
from tests.dynamic_tokenization.texts import LINES, TEXTS, TOKENIZERS, bpe, recount

kinds = st.sampled_from(BOUNDARIES)
names = st.sampled_from(sorted(TOKENIZERS))
some_texts = st.lists(TEXTS, max_size=4)


def encoded(name, texts, boundary):
    its = TOKENIZERS[name]()
    return its, [encode(text, its, boundary) for text in texts]


@settings(max_examples=150)
@given(texts=some_texts, name=names, boundary=kinds, most=st.integers(0, 40),
       least=st.integers(1, 3), most_parts=st.sampled_from([None, 2, 3, 5]))  # fmt: skip
def test_incremental_equals_recounting(texts, name, boundary, most, least, most_parts):
    its, its_texts = encoded(name, texts, boundary)
    table = learn(
        its_texts, its.num_ids, merges=most, least_count=least, most_parts=most_parts
    )
    pairs, counts, lengths, symbols = recount(
        its_texts, its.num_ids, most, least, most_parts or 10**9
    )
    assert list(map(tuple, table.pairs.tolist())) == pairs
    assert table.counts.tolist() == counts and table.lengths.tolist() == lengths
    assert [found.tolist() for found in apply(table, its_texts)] == symbols


@settings(max_examples=100)
@given(texts=some_texts, name=names, boundary=kinds, most=st.integers(0, 30))
def test_bytes_stay_and_no_symbol_crosses_a_boundary(texts, name, boundary, most):
    its, its_texts = encoded(name, texts, boundary)
    for scope in ("example", "batch"):
        found = merge(its_texts, its.num_ids, scope, merges=most)
        for text, before, (table, symbols) in zip(texts, its_texts, found, strict=True):
            tokens = table.expand(symbols)
            np.testing.assert_array_equal(tokens, before.tokens)
            assert its.decode(tokens) == text
            starts = piece_starts(text, its, boundary)
            sizes = [len(its.decode(table.expand(np.array([s])))) for s in symbols]
            ends = np.cumsum(sizes, dtype=int)
            firsts = ends - sizes
            # A cut that is a border of base tokens is a border of symbols.
            base = np.cumsum(its.byte_lengths[before.tokens]) - its.byte_lengths[before.tokens]
            assert set(base[starts[base]].tolist()) <= set(firsts.tolist())


@settings(max_examples=60)
@given(texts=some_texts, name=names, boundary=kinds)
def test_no_merge_is_the_base_and_length_falls_with_every_merge(texts, name, boundary):
    its, its_texts = encoded(name, texts, boundary)
    none = learn(its_texts, its.num_ids, merges=0)
    assert len(none) == 0
    for text, symbols in zip(its_texts, apply(none, its_texts), strict=True):
        np.testing.assert_array_equal(symbols, text.tokens)
    table = learn(its_texts, its.num_ids)
    assert (np.diff(table.lengths) < 0).all()
    for merges in range(len(table) + 1):
        symbols = apply(table.first(merges), its_texts)
        assert sum(map(len, symbols)) == table.lengths[merges]


@settings(max_examples=60)
@given(texts=some_texts, boundary=st.sampled_from(["word", "word-hyphen", "sentence"]))
def test_all_merges_of_bytes_leave_one_symbol_a_piece(texts, boundary):
    """Bytes cross no boundary, so the fixpoint is the rule itself."""
    its, its_texts = encoded("bytes", texts, boundary)
    for text, (_, symbols) in zip(texts, merge(its_texts, its.num_ids), strict=True):
        assert len(symbols) == piece_starts(text, its, boundary).sum()


@settings(max_examples=60)
@given(texts=some_texts)
def test_a_byte_level_bpe_never_crosses_words(texts):
    """So its fixpoint too is one symbol a word, and under `pretoken` one a piece of its own rule."""
    for boundary in ("word", "pretoken"):
        its, its_texts = encoded("bpe", texts, boundary)
        for text, (_, symbols) in zip(texts, merge(its_texts, its.num_ids), strict=True):
            assert len(symbols) == piece_starts(text, its, boundary).sum()


@settings(max_examples=60)
@given(texts=some_texts, name=names, boundary=kinds, most=st.integers(0, 20), data=st.data())
def test_the_order_of_a_batch_changes_nothing(texts, name, boundary, most, data):
    its, its_texts = encoded(name, texts, boundary)
    order = data.draw(st.permutations(range(len(texts))))
    shuffled = [its_texts[i] for i in order]
    for scope in ("example", "batch"):
        found = merge(its_texts, its.num_ids, scope, merges=most)
        again = merge(shuffled, its.num_ids, scope, merges=most)
        for place, i in enumerate(order):
            np.testing.assert_array_equal(again[place][0].pairs, found[i][0].pairs)
            np.testing.assert_array_equal(again[place][1], found[i][1])


def test_the_scopes_differ_as_they_say():
    its = bpe()
    texts = [encode(line.encode(), its, "word") for line in LINES]
    alone = merge(texts, its.num_ids, "example", merges=5)
    together = merge(texts, its.num_ids, "batch", merges=5)
    assert not np.array_equal(alone[1][0].pairs, together[1][0].pairs)
    one = merge(texts[:1], its.num_ids, "example", merges=5)[0]
    np.testing.assert_array_equal(one[1], alone[0][1])  # whatever stands beside it
    table = learn(texts, its.num_ids, merges=20)
    given_ = merge(texts[:1], its.num_ids, "corpus", table=table)[0]
    assert given_[0] is table and len(given_[1]) < len(texts[0].tokens)


def test_noise_gives_other_tables_reproducibly():
    its = bpe()
    texts = [encode(line.encode() * 3, its, "sentence") for line in LINES]
    plain = learn(texts, its.num_ids, merges=12)
    tables = [learn(texts, its.num_ids, merges=12, noise=1.0, seed=seed) for seed in (1, 2, 1)]
    np.testing.assert_array_equal(tables[0].pairs, tables[2].pairs)
    assert not np.array_equal(tables[0].pairs, tables[1].pairs)
    assert not np.array_equal(tables[0].pairs, plain.pairs)
    backward = learn(texts[::-1], its.num_ids, merges=12, noise=1.0, seed=1)
    np.testing.assert_array_equal(tables[0].pairs, backward.pairs)


@pytest.mark.parametrize("boundary, pieces", [
    ("word", ["the", " cat-dog's", "  ", " end.", "\n\n", "x", "\t", "y", " "]),
    ("word-hyphen", ["the", " cat-dog", "'", "s", "  ", " end", ".", "\n\n", "x", "\t", "y", " "]),
    ("pretoken", ["the", " cat", "-", "dog", "'s", "  ", " end", ".", "\n", "\n", "x", "\t", "y", " "]),
    ("sentence", ["the cat-dog's   end.\n\n", "x\ty "]),
])  # fmt: skip
def test_the_rules_by_example(boundary, pieces):
    text = "".join(pieces).encode()
    starts = np.flatnonzero(piece_starts(text, bpe(), boundary))
    found = [text[a:b].decode() for a, b in zip(starts, [*starts[1:], len(text)])]
    assert found == pieces


def test_sentences_of_several_scripts():
    text = 'He said "no." Then…  "Why?" 1.5 is. 色は匂へど。散り！ end'.encode()
    starts = np.flatnonzero(piece_starts(text, bpe(), "sentence"))
    found = [text[a:b].decode() for a, b in zip(starts, [*starts[1:], len(text)])]
    assert found == ['He said "no."', " Then…", '  "Why?"', " 1.5 is.", " 色は匂へど。", "散り！",
                     " end"]  # fmt: skip


def test_what_a_table_costs():
    its = bpe()
    table = learn([encode(LINES[0].encode(), its, "word")], its.num_ids, merges=3)
    base = its.num_ids
    pairs = 2 * (math.log(base) + math.log(base + 1) + math.log(base + 2))
    assert table.nats() == pytest.approx(5 * math.log(2) + pairs)  # 3 is 00100 of 5 bits
    assert table.first(0).nats() == pytest.approx(math.log(2))


def test_reductions():
    its = bpe()
    texts = [encode(line.encode() * 2, its, "word") for line in LINES]
    table = learn(texts, its.num_ids)
    for reduction in (0.0, 0.1, 0.2):
        merges = table.merges_for(reduction)
        length = table.lengths[0]
        assert table.lengths[merges] <= (1 - reduction) * length
        assert merges == 0 or table.lengths[merges - 1] > (1 - reduction) * length
        np.testing.assert_array_equal(
            learn(texts, its.num_ids, reduction=reduction).pairs, table.pairs[:merges]
        )


def test_mistakes_are_told():
    its = bpe()
    texts = [encode(LINES[0].encode(), its, "word")]
    table = learn(texts, its.num_ids)
    most = 1 - table.lengths[-1] / table.lengths[0]
    with pytest.raises(UserError, match=f"90.0% cannot be reached: the largest is {most:.1%}"):
        table.merges_for(0.9)
    with pytest.raises(UserError, match="reduction of 100% cannot be"):
        table.merges_for(1.0)
    with pytest.raises(UserError, match="reduction of -5% cannot be"):
        learn(texts, its.num_ids, reduction=-0.05)
    with pytest.raises(UserError, match="-1 merges cannot be made"):
        learn(texts, its.num_ids, merges=-1)
    with pytest.raises(UserError, match="boundary 'line' is not known"):
        encode(b"x", its, "line")
    with pytest.raises(UserError, match="scope 'all' is not known"):
        merge(texts, its.num_ids, "all")
    with pytest.raises(UserError, match="needs a table"):
        merge(texts, its.num_ids, "corpus")
    with pytest.raises(UserError, match="no likelihood"):
        check_likelihood("batch")
    check_likelihood("example")
