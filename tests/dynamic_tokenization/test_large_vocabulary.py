"""Search over large vocabularies against all scores, and generation against the full softmax."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hat.dynamic_tokenization.embeddings import KnownSpellings, RowCache, mean_of_parts, source_of
from hat.dynamic_tokenization.large_vocabulary import LargeModel, grow
from hat.dynamic_tokenization.measure import rows_of
from hat.dynamic_tokenization.model import MergedLlama, merged_params
from hat.dynamic_tokenization.search import Found, Vocabulary, recall
from hat.errors import UserError
from tests.dynamic_tokenization.models import llama
from tests.dynamic_tokenization.texts import LINES, bpe

TEXTS = [line.encode() * 2 for line in LINES]


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("size, block", [(1000, 64), (37, 8192), (515, 33)])
def test_the_search_is_exact_on_one_device_and_on_eight(devices, size, block):
    """Equal ids, also where scores are equal: whole numbers, whose products round nowhere."""
    rng = np.random.default_rng(size)
    rows = rng.integers(-3, 4, (size, 6)).astype(np.float32)
    queries = rng.integers(-3, 4, (5, 6)).astype(np.float32)
    predicted = rng.random(size) < 0.8
    its = Vocabulary(rows, predicted, block, jax.devices()[:devices])
    found = its.search(jnp.asarray(queries), 4)
    scores = np.where(predicted, queries @ rows.T, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :4]
    np.testing.assert_array_equal(found.ids, order)
    np.testing.assert_array_equal(found.scores, np.take_along_axis(scores, order, axis=1))
    approximate = its.search(jnp.asarray(queries), 4, approximate=True)
    assert recall(approximate, found) >= 0.5
    at = np.take_along_axis(scores, np.asarray(approximate.ids), axis=1)
    np.testing.assert_array_equal(approximate.scores, at)  # rescored exactly


def test_recall_is_a_share():
    exact = Found(np.zeros((2, 4)), np.arange(8).reshape(2, 4))
    found = Found(np.zeros((2, 4)), np.array([[3, 2, 1, 0], [4, 5, 0, 1]]))
    assert recall(found, exact) == 0.75


def make(boundary="word", tied=False, size=340, devices=None, window=None):
    model, params = llama(tied, window)
    rows = RowCache(mean_of_parts, source_of(model, params), KnownSpellings(bpe()))
    table = grow(bpe(), model.config.num_ids, TEXTS, size, boundary)
    return LargeModel(model, params, bpe(), table, rows, boundary, devices), rows


@pytest.mark.parametrize("tied, devices, window", [(False, 1, None), (True, 8, 5)])
def test_greedy_is_that_of_the_full_softmax(tied, devices, window):
    """Every token, from caches and by search, is the likeliest of one pass without either."""
    large, rows = make(tied=tied, devices=jax.devices()[:devices], window=window)
    made = large.write(b"the cat", 12)
    assert len(made.symbols) > 2 and made.text == b"".join(map(large.spell, made.symbols))
    ids = [bpe().bos, *large.read(b"the cat").tolist(), *made.symbols]
    batch = {"tokens": np.array([ids]), "segment": np.ones((1, len(ids)), np.int32),
             "position": np.arange(len(ids))[None]}  # fmt: skip
    model, params = llama(tied, window)
    whole = merged_params(params, rows_of(large.table, rows), len(large.table))
    logits = np.asarray(MergedLlama(model.config).logits(whole, batch))[0]
    first = len(ids) - len(made.symbols) - 1
    assert logits[first : len(ids) - 1].argmax(axis=1).tolist() == made.symbols


def test_a_draw_is_one_of_the_likeliest_and_repeats():
    large, _ = make(devices=jax.devices()[:1])
    one, again, other = (large.write(b"x", 8, temperature=2.0, seed=s) for s in (1, 1, 2))
    assert one.symbols == again.symbols != other.symbols
    assert 0 < large.recall(one.hidden) <= 1


def test_vocabularies_that_cannot_be():
    base = llama()[0].config.num_ids
    with pytest.raises(UserError, match="none to grow: the tokenizer has 300"):
        grow(bpe(), base, TEXTS, 300)
    with pytest.raises(UserError, match="yields only .* tokens of 1,000,000"):
        grow(bpe(), base, TEXTS, 1_000_000)
