"""Laws of a real Llama: one tree of all prefixes, sessions in a slot pool, and float64."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hat.byte_exact import pool as pool_module
from hat.byte_exact import sessions, tree_attention
from hat.byte_exact.laws import LAWS
from hat.byte_exact.model import chosen
from hat.byte_exact.tokenized import TokenizedModel
from tests.byte_exact.brute import Reference
from tests.byte_exact.families import tokenizer
from tests.byte_exact.llamas import random_llama, reference_rows

TOTAL_VARIATION = 1e-6  # float32 log-probabilities round at about 1e-7
STEPWISE = 1e-4  # nats a byte: matrices of other shapes are summed in another order


@pytest.fixture(scope="module")
def model() -> TokenizedModel:
    its = tokenizer("llama3-whole")
    return TokenizedModel(*random_llama(its), its)


@pytest.mark.parametrize("text", ["e'l", "a  1", "é", "thea"])
def test_every_prefix_as_in_float64(model, text):
    """Against covers listed one by one, under the same Llama run on whole sequences in float64."""
    its, text = model.vocabulary.tokenizer, text.encode()
    reference = Reference(its, model.evaluator.num_ids)
    rows = reference_rows(model.evaluator.model, random_llama(its)[1], its.bos)
    for law in LAWS:
        ours = model.with_law(law, None).logprobs(text)
        for t in range(len(text) + 1):
            listed = reference.masses(rows, text[:t], law)
            before = reference.prefix(rows, text[:t], law)
            apart = np.abs(np.exp(ours[t]) - listed / before).sum() / 2
            assert apart < TOTAL_VARIATION


TEXTS = ["the  theatre there'll\n\n be 12345 色", "x", "", "don't   \n 1"]


@pytest.mark.parametrize("window", [None, 5])
def test_one_forward_is_byte_by_byte(window, monkeypatch):
    """Several texts in one tree each, in chunks, beside sessions that grow, fork and start anew."""
    its = tokenizer("gpt2")
    model = TokenizedModel(*random_llama(its, window), its)
    texts = [text.encode() for text in TEXTS]
    together = model.logprobs_of(texts)
    monkeypatch.setattr(model.evaluator, "max_nodes", 16)  # of which the longest text needs three
    for text, rows in zip(texts, together):
        np.testing.assert_allclose(model.logprobs(text), rows, atol=STEPWISE)
        session, jumping = model.session(), model.session()
        forks = []
        for t, byte in enumerate(text):
            np.testing.assert_allclose(session.logprobs(), rows[t], atol=STEPWISE)
            forks.append(session.fork())
            session.push(byte)
        jumping.advance(text)  # evaluated at the end alone
        for last in (session, jumping):
            np.testing.assert_allclose(last.logprobs(), rows[-1], atol=STEPWISE)
            assert last.logprob == pytest.approx(chosen(rows, text)[:-1].sum(), abs=STEPWISE)
        for t, fork in enumerate(forks):
            np.testing.assert_allclose(fork.logprobs(), rows[t], atol=STEPWISE)


def test_law_all_side_by_side(model):
    texts = [text.encode() for text in ("the  '", "12", "")]
    every = model.with_law("all", 4)
    for text, rows in zip(texts, every.logprobs_of(texts)):
        np.testing.assert_allclose(every.logprobs(text), rows, atol=STEPWISE)


def test_a_pool_gives_slots_back(model):
    """A long session holds the slots of its trunk and of what is alive; none when it is gone."""
    session = model.with_law("canonical").session()
    for byte in b"the theatre there " * 12:
        session.push(byte)
        session.logprobs()
    pool = session.model.pool
    used = pool._size - len(pool.free)
    tokens = len(model.vocabulary.tokenizer.encode(b"the theatre there " * 12))
    assert used <= tokens + model.vocabulary.longest + 2
    del session
    assert len(pool.free) == pool._size


def test_a_pool_that_has_grown_is_small_again(model, monkeypatch):
    """What is asked of a long text does not slow down what comes after it."""
    monkeypatch.setattr(pool_module, "FEWEST_SLOTS", 16)
    model = model.with_law("canonical")
    text = b"the theatre there " * 4
    alone = model.logprobs(text)
    for _ in range(2):
        session = model.session()
        session.logprobs()
        assert model.pool._size == 16
        session.advance(text)
        np.testing.assert_allclose(session.logprobs(), alone[-1], atol=STEPWISE)
        assert model.pool._size > 16
        del session


@pytest.mark.parametrize("law", ["canonical", "last-free"])
def test_reading_ahead_saves_calls_and_changes_nothing(law, monkeypatch):
    """Sessions that follow the likeliest byte, and leave it at every place, whether it is guessed
    or not: a guess that fails gives its slots back, a fork has what was guessed."""
    its = tokenizer("gpt2")
    llama, params = random_llama(its)
    params = params | {"head": {**params["head"], "projection": {
        "kernel": 6 * params["head"]["projection"]["kernel"]}}}  # fmt: skip  # a model that is sure
    model = TokenizedModel(llama, params, its, law)

    def follow() -> tuple[list[np.ndarray], int]:
        calls, rows = [], []
        extend = model.evaluator.extend
        monkeypatch.setattr(model.evaluator, "extend", lambda *a: calls.append(1) or extend(*a))
        session = model.session()
        for _ in range(40):
            rows.append(session.logprobs())
            likeliest = np.argsort(rows[-1][:256])[::-1]
            other = session.fork()
            other.push(int(likeliest[1]))
            session.push(int(likeliest[0]))
            if len(rows) % 7 == 0:
                rows.append(other.logprobs())
        monkeypatch.undo()
        del session, other
        assert len(model.pool.free) == model.pool._size
        return rows, len(calls)

    ahead, calls = follow()
    monkeypatch.setattr(sessions, "_AHEAD", 0)
    one_by_one, without = follow()
    np.testing.assert_allclose(ahead, one_by_one, atol=STEPWISE)
    assert calls < without


def test_a_context_stands_before_the_text(model):
    """Ids between BOS and the text: what follows them, by the model itself."""
    its = model.vocabulary.tokenizer
    ids = its.encode(b"there ").tolist()
    rows = reference_rows(model.evaluator.model, random_llama(its)[1], its.bos)
    p = rows(tuple(ids))
    first = np.zeros(257)
    for token in range(len(p)):
        spelled = its.token_bytes(token)
        first[spelled[0] if spelled else 256] += p[token]
    session = model.with_law("all", None).session(ids)
    assert np.abs(np.exp(session.logprobs()) - first).sum() / 2 < TOTAL_VARIATION


def test_chunks_give_slots_back():
    """The plan of a long thin tree reuses slots of branches that are over, never a live one."""
    random = np.random.default_rng(0)
    parents = np.array([-1, *(max(0, i - 1 - int(random.integers(3))) for i in range(1, 200))])
    slots = tree_attention._plan(parents, 8)
    held: dict[int, int] = {}
    for node in range(200):
        way, at = [], node
        while at >= 0:
            way.append(at)
            at = parents[at]
        held[slots[node]] = node
        assert all(held[slots[ancestor]] == ancestor for ancestor in way)
        chunk = range(node // 8 * 8, node)
        assert all(held[slots[other]] == other for other in chunk)
    assert slots.max() + 1 < 200


def test_a_model_without_the_tokenizers_ids_is_refused():
    from hat.errors import UserError

    its = tokenizer("gpt2")
    model, params = random_llama(its)
    smaller = dataclasses.replace(model.config, num_tokens=300, eot_id=None).build()
    with pytest.raises(UserError, match="not the tokenizer of this model"):
        TokenizedModel(smaller, params, its)
