"""The three laws against covers listed one by one, and against all token strings."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from hat.byte_exact.laws import LAWS
from hat.byte_exact.model import END, chosen, lost
from hat.byte_exact.token_bytes import Vocabulary
from hat.byte_exact.tokenized import TokenizedModel
from hat.byte_exact.unigram import canonical_of
from tests.byte_exact.brute import Reference, TableEvaluator, TokenModel, all_texts, random_table
from tests.byte_exact.families import TEXT, tokenizer

TOLERANCE = 1e-9  # of probabilities: sums of float64 in another order


def table_model(its, table: TokenModel, law: str, beam=None, context=None) -> TokenizedModel:
    """A TokenizedModel whose token probabilities are those of a table."""
    model = object.__new__(TokenizedModel)
    model.law, model.beam, model.context, model.name = law, beam, context, "table"
    model.vocabulary, model.canonical = prepared(its)
    model.evaluator, model._pool = TableEvaluator(table, its.num_ids), None
    return model


@functools.cache
def prepared(its):
    vocabulary = Vocabulary(its, its.num_ids)
    return vocabulary, canonical_of(vocabulary)


@functools.cache
def reference(family: str) -> Reference:
    its = tokenizer(family)
    return Reference(its, its.num_ids)


TEXTS = [  # contractions, spaces, digits from either side, unfinished characters, whole words
    ("gpt2", "e'll"), ("gpt2", "a  x"), ("gpt2", "é色"), ("llama3-whole", "thea1"),
    ("cl100k", "1234 \n"), ("rightward", "1234"), ("sentencepiece", " d色x"),
    ("qwen-added", "1<th>"), ("unigram", " d色x"),
]  # fmt: skip


@pytest.mark.parametrize("family, text", TEXTS)
def test_every_prefix_as_by_listed_covers(family, text):
    its, text = tokenizer(family), text.encode()
    table = random_table(its.num_ids, 1)
    for law in LAWS:
        model = table_model(its, table, law)
        whole = model.logprobs(text)
        session = model.session()
        for t in range(len(text) + 1):
            listed = reference(family).masses(table, text[:t], law)
            before = reference(family).prefix(table, text[:t], law)
            # Total variation at every prefix, relative to what is there.
            assert np.abs(np.exp(whole[t]) - listed / before).sum() / 2 < TOLERANCE
            np.testing.assert_allclose(session.logprobs(), whole[t], atol=TOLERANCE)
            assert session.logprob == pytest.approx(np.log(before), abs=1e-7)
            if t < len(text):
                session.push(text[t])
        if law == "all":
            assert lost(whole).max() < TOLERANCE


def counted(family: str) -> TokenModel:
    """A trained model: how often a token followed another in the text of the tokenizers, of which
    other tokens get a thousandth."""
    its = tokenizer(family)
    counts = np.full((its.num_ids + 1, its.num_ids), 1e-3 / its.num_ids)
    for line in TEXT.splitlines(keepends=True):
        ids = its.encode(line.encode()).tolist()
        for last, token in zip([its.num_ids, *ids], [*ids, its.eot]):
            counts[last, token] += 1
    counts /= counts.sum(axis=1, keepdims=True)
    return lambda tokens: counts[tokens[-1] if tokens else its.num_ids]


@pytest.mark.parametrize("family, text", [
    ("llama3", "we'l"), ("gpt2", "   g"), ("qwen2", "😀"), ("o200k", "DON'"), ("fallback", "世x"),
    ("starcoder", "a12"), ("deepseek", " 12 "),
])  # fmt: skip
def test_a_trained_model(family, text):
    its, text, table = tokenizer(family), text.encode(), counted(family)
    rows = {law: table_model(its, table, law).logprobs(text) for law in LAWS}
    for t in range(len(text) + 1):
        for law in LAWS:
            listed = reference(family).masses(table, text[:t], law)
            before = reference(family).prefix(table, text[:t], law)
            assert np.abs(np.exp(rows[law][t]) - listed / before).sum() / 2 < TOLERANCE
    # What is trained on encodings hardly leaves them, and beginnings are likelier, the more count.
    prefix = {law: chosen(rows[law], text)[:-1].cumsum() for law in LAWS}
    assert (prefix["canonical"] <= prefix["last-free"] + TOLERANCE).all()
    assert (prefix["last-free"] <= prefix["all"] + TOLERANCE).all()


def masked_to_valid(family: str, table: TokenModel) -> TokenModel:
    """The table with the tokens left out after which no text is encoded so, and an end only where
    the encoding of the text ends; renormalised."""
    its = reference(family)

    @functools.cache
    def model(tokens):
        p = table(tokens).copy()
        text = b"".join(its.spell[token] for token in tokens)
        for token, spelled in enumerate(its.spell):
            if not (its.valid((*tokens, token)) if spelled else its.encode(text) == tokens):
                p[token] = 0.0
        return p / p.sum()

    return model


def test_on_valid_tokens_alone_the_laws_are_one():
    its, text = tokenizer("gpt2"), b"e'l"
    table = masked_to_valid("gpt2", random_table(its.num_ids, 2))
    rows = {law: table_model(its, table, law).logprobs(text) for law in LAWS}
    for law in LAWS:
        np.testing.assert_allclose(np.exp(rows[law]), np.exp(rows["all"]), atol=TOLERANCE)
        assert lost(rows[law]).max() < TOLERANCE


@pytest.mark.parametrize("law", ["all", "canonical"])
def test_against_every_token_string(law):
    """No notion of a cover: every string of up to five tokens, grouped by its bytes; for law
    canonical, of a model that never leaves the encodings."""
    its, longest = tokenizer("gpt2"), 5
    active = [its._spellings.index(text) for text in (b"t", b"h", b"e", b"th", b"re", b"r")]
    random = random_table(its.num_ids, 3)

    @functools.cache
    def table(tokens):
        p = np.zeros(its.num_ids)
        p[[*active, its.eot]] = random(tokens)[[*active, its.eot]]
        for token in active:
            text = its.decode([*tokens, token])
            if law == "canonical" and its.encode(text).tolist() != [*tokens, token]:
                p[token] = 0.0
        if len(tokens) >= longest:
            p[active] = 0.0
        return p / p.sum()

    texts = all_texts(table, its._spellings, active, longest)
    assert sum(texts.values()) == pytest.approx(1.0, abs=1e-12)
    model = table_model(its, table, law)
    for text in (b"thre", b"rere", b"tthth"):
        rows = np.exp(model.logprobs(text))
        for t in range(len(text) + 1):
            beginning = {x: p for x, p in texts.items() if x.startswith(text[:t])}
            total = sum(beginning.values())
            listed = np.zeros(257)
            for x, p in beginning.items():
                listed[x[t] if len(x) > t else END] += p / total
            np.testing.assert_allclose(rows[t], listed, atol=TOLERANCE)


def test_without_merges_it_is_the_model_itself():
    from hat.text.tokenizers import ByteTokenizer

    its = ByteTokenizer()
    table = random_table(its.num_ids, 4)
    text = "é\xff x".encode("latin-1")
    p = np.stack([table(tuple(text[:t])) for t in range(len(text) + 1)])
    own = np.concatenate([p[:, :256], p[:, 256:].sum(axis=1, keepdims=True)], axis=1)
    for law in LAWS:
        np.testing.assert_allclose(np.exp(table_model(its, table, law).logprobs(text)), own,
                                   atol=TOLERANCE)


def test_the_whole_text_costs_what_its_tokens_cost():
    """Under `canonical` a text and its end together have the probability of its encoding."""
    its, text = tokenizer("llama3-whole"), "don't   theater 12345 色\n\n".encode()
    table = random_table(its.num_ids, 5)
    tokens = tuple(its.encode(text).tolist())
    spelled = [its.token_bytes(token) for token in range(its.num_ids)]
    nats = sum(np.log(table(tokens[:i])[token]) for i, token in enumerate(tokens))
    nats += np.log(sum(table(tokens)[i] for i, text in enumerate(spelled) if not text))
    rows = table_model(its, table, "canonical").logprobs(text)
    assert chosen(rows, text).sum() == pytest.approx(nats, abs=1e-8)


def test_a_beam_is_a_lower_bound_with_its_drops_counted():
    its, text = tokenizer("gpt2"), b"the theatre there's"
    table = random_table(its.num_ids, 6, sharpness=1.0)
    exact = table_model(its, table, "all")
    whole = exact.logprobs(text)
    total = np.cumsum(chosen(whole, text)[:-1])
    previous = -np.inf
    for beam in (1, 8, 1000):
        model = table_model(its, table, "all", beam)
        session = model.session()
        for t, byte in enumerate(text):
            assert lost(session.logprobs()) == pytest.approx(session.dropped, abs=TOLERANCE)
            session.push(byte)
            assert session.logprob <= total[t] + 1e-9
            assert np.logaddexp(session.logprob, session.log_dropped) >= total[t] - 1e-9
        assert session.logprob >= previous - 1e-9
        previous = session.logprob
        # The canonical covers are never dropped.
        canonical = chosen(table_model(its, table, "canonical").logprobs(text), text)[:-1].sum()
        assert session.logprob >= canonical - 1e-9
    assert previous == pytest.approx(total[-1], abs=1e-8)


def test_forks_and_batches_and_pieces():
    its = tokenizer("gpt2")
    table = random_table(its.num_ids, 7)
    model = table_model(its, table, "canonical")
    texts = [b"the  them", "1 色 don't".encode(), b""]
    together = model.logprobs_of(texts)
    for text, rows in zip(texts, together):
        np.testing.assert_allclose(model.logprobs(text), rows, atol=TOLERANCE)
        session = model.session()
        session.advance(text[:3])
        other = session.fork()
        other.push(0xFF)
        session.advance(text[3:])
        np.testing.assert_allclose(session.logprobs(), rows[-1], atol=TOLERANCE)
    # Pieces are scored as texts of their own, without their ends.
    short = table_model(its, table, "canonical", context=32)
    text = "the theatre there, 色 and 你好 don't   ".encode() * 3
    pieces = short._cut(text)
    assert b"".join(pieces) == text and len(pieces) > 2
    rows = [model.logprobs(piece) for piece in pieces]
    expected = np.concatenate([*(r[:-1] for r in rows[:-1]), rows[-1]])
    np.testing.assert_allclose(short.logprobs(text), expected, atol=TOLERANCE)
