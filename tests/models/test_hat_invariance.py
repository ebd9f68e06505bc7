"""A document is worth the same nats wherever it lies, and nobody sees its neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import reference, toy

# The order of a sum over masked keys depends on where a document lies in its row, so rounding
# differs: measured 2e-6 nats a byte at most, where a byte costs 5.5 nats.
TOLERANCE = 1e-5


def nats_of(nats: np.ndarray, rows) -> list[list[np.ndarray]]:
    return [
        [nats[b, place] for place in places] for b, places in enumerate(reference.spans(rows))
    ]


def pack(documents, T, N):
    """Rows filled in the order of the documents, a new row where one does not fit."""
    rows, bytes_left, words_left = [[]], T, N
    for document in documents:
        ids, word, _ = reference.layout(document)
        if len(ids) > bytes_left or word[-1] + 1 > words_left:
            rows.append([])
            bytes_left, words_left = T, N
        rows[-1].append(document)
        bytes_left, words_left = bytes_left - len(ids), words_left - word[-1] - 1
    return rows


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 15), min_size=4, max_size=4),
    order=st.permutations(range(4)),
    slots=st.permutations(range(toy.B)),
    seed=st.integers(0, 2**16),
    name=st.sampled_from(["plain", "everything", *toy.LEARNED]),
)
def test_nats_do_not_depend_on_packing_order_or_slot(lengths, order, slots, seed, name):
    hat = toy.compiled(name)
    words = toy.words_of(name)
    rng = np.random.default_rng(seed)
    documents = [toy.random_document(rng, n, closed=bool(rng.random() < 0.8)) for n in lengths]
    alone = [[document] for document in documents]
    nats = hat.nats(hat.params, reference.build_batch(alone, toy.T, words))
    expected = [row[0] for row in nats_of(nats, alone)]

    packed = pack([documents[i] for i in order], toy.T, toy.N)
    packed = packed + [[] for _ in range(toy.B - len(packed))]
    rows = [packed[i] for i in slots]
    nats = hat.nats(hat.params, reference.build_batch(rows, toy.T, words))
    for row, places in zip(rows, nats_of(nats, rows), strict=True):
        for document, got in zip(row, places, strict=True):
            index = next(i for i, d in enumerate(documents) if d is document)
            np.testing.assert_allclose(got, expected[index], rtol=0, atol=TOLERANCE)


def test_nats_do_not_depend_on_padding():
    hat = toy.compiled("everything")
    rng = np.random.default_rng(0)
    rows = [[toy.random_document(rng, 11), toy.random_document(rng, 17)]] * toy.B
    short = hat.nats(hat.params, reference.build_batch(rows, toy.T, toy.N))
    wide = hat.nats(hat.params, reference.build_batch(rows, toy.T + 23, toy.N + 9))
    np.testing.assert_allclose(wide[:, : toy.T], short, rtol=0, atol=TOLERANCE)
    assert not wide[:, toy.T :].any()


@pytest.mark.parametrize("guide", ["earliest", "released"])
def test_what_lies_beside_a_document_changes_no_bit_of_it(guide):
    """Every id of a neighbour and of the padding is replaced; the words stay where they are."""
    hat = toy.compiled("everything", guide)
    rng = np.random.default_rng(1)
    rows = [[toy.random_document(rng, 9) for _ in range(4)] for _ in range(toy.B)]
    batch = reference.build_batch(rows, toy.T, toy.N)
    before = hat.logits(hat.params, batch)
    for s in range(5):  # 0: the padding
        other = batch["segment"] == s
        noise = rng.integers(0, 259, batch["bytes"].shape)
        after = hat.logits(hat.params, batch | {"bytes": np.where(other, noise, batch["bytes"])})
        np.testing.assert_array_equal(after[~other], before[~other])
        if s:
            assert (after[other] != before[other]).any(axis=-1).mean() > 0.8


def test_no_part_of_the_model_looks_into_another_document():
    """As above for each part by itself, its inputs at one document replaced by large noise."""
    hat = toy.compiled("everything")
    rng = np.random.default_rng(2)
    rows = [[toy.random_document(rng, 9) for _ in range(4)] for _ in range(toy.B)]
    batch = reference.build_batch(rows, toy.T, toy.N)
    module = hat.model.module(hat.params)
    d, D = hat.config.encoder.hidden_size, hat.config.backbone.hidden_size
    segment, position, word = batch["segment"], batch["position"], batch["word"]
    word_segment, word_position = batch["word_segment"], batch["word_position"]

    @toy.jit
    def parts(ids, x, w):
        return {
            "encoder": module.encoder(ids, segment, position),
            "connector": module.connector(x, position, word, word_position),
            "backbone": module.backbone(w, word_segment, word_position),
            "decoder": module.decoder(x, w, batch["guide"], segment, position),
        }

    x = rng.normal(size=(toy.B, toy.T, d)).astype(np.float32)
    w = rng.normal(size=(toy.B, toy.N, D)).astype(np.float32)
    before = parts(batch["bytes"], x, w)
    for s in range(5):
        bytes_of, words_of = segment == s, word_segment == s
        after = parts(
            np.where(bytes_of, rng.integers(0, 259, segment.shape), batch["bytes"]),
            np.where(bytes_of[..., None], 1e3 * rng.normal(size=x.shape).astype(np.float32), x),
            np.where(words_of[..., None], 1e3 * rng.normal(size=w.shape).astype(np.float32), w),
        )
        for part in before:
            there = words_of if part in ("connector", "backbone") else bytes_of
            a, b = np.asarray(before[part]), np.asarray(after[part])
            np.testing.assert_array_equal(b[~there], a[~there], err_msg=part)
            if s:
                assert (a[there] != b[there]).any(axis=-1).mean() > 0.8, part


def test_words_of_a_piece_are_numbered_like_those_of_a_document():
    """A piece (BOS, no EOT) is worth what a document with the same bytes is, but for its end."""
    hat = toy.compiled("plain")
    rng = np.random.default_rng(3)
    whole = toy.random_document(rng, 20)
    rows = [[whole], [whole._replace(closed=False)], [], []]
    nats = hat.nats(hat.params, reference.build_batch(rows, toy.T, toy.N))
    np.testing.assert_allclose(nats[0, :20], nats[1, :20], rtol=0, atol=TOLERANCE)
    assert nats[0, 20] > 0
    assert not nats[1, 20:].any()
