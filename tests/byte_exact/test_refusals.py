"""What byte-exact probabilities cannot be had of, said in one line; and what special tokens are."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hat.byte_exact.canonical import Canonical
from hat.byte_exact.generate import continue_bytes, continue_tokens
from hat.byte_exact.laws import LAWS
from hat.byte_exact.model import END, chosen, lost
from hat.byte_exact.token_bytes import Vocabulary
from hat.byte_exact.tokenized import TokenizedModel
from hat.errors import UserError
from hat.text.tokenizers import JsonTokenizer, SentencePieceTokenizer
from tests.byte_exact import families
from tests.byte_exact.brute import random_table
from tests.byte_exact.families import tokenizer
from tests.byte_exact.llamas import random_llama
from tests.byte_exact.test_laws import table_model

def without(its, text: bytes):
    """A table that gives no probability to any token with this byte string in it."""
    random = random_table(its.num_ids, 8)
    gone = [t for t in range(its.num_ids) if text in its.token_bytes(t)]

    def table(tokens):
        p = random(tokens).copy()
        p[gone] = 0.0
        return p / p.sum()

    return table


@pytest.mark.parametrize("law", LAWS)
def test_an_impossible_byte_is_named(law):
    """By a whole text, a session and a prompt."""
    its = tokenizer("gpt2")
    model = table_model(its, without(its, b"d"), law)
    said = r"byte 0x64 at 4 has no probability under law " + law
    with pytest.raises(UserError, match=said):
        model.logprobs(b"the dog")
    with pytest.raises(UserError, match=said):
        session = model.session()
        session.advance(b"the dog")
        session.logprobs()
    for way in (continue_bytes, continue_tokens):
        with pytest.raises(UserError, match=said):
            way(model, b"the dog", num_bytes=1)
    assert np.isfinite(model.session().logprobs()[ord("t")])


def test_an_empty_prompt_is_a_beginning():
    its = tokenizer("gpt2")
    model = TokenizedModel(*random_llama(its), its)
    (found,) = continue_tokens(model, b"", num_bytes=5)
    assert found.stopped or len(found.text) == 5
    assert model.logprobs(b"").shape == (1, 257) and model.session().logprob == 0.0


def test_a_special_tokens_text_is_characters():
    """No text spells a special token: its characters are bytes like others, and the token is END."""
    its = tokenizer("gpt2")
    name = b"<|end_of_text|>"
    table = random_table(its.num_ids, 9)
    model = table_model(its, table, "canonical")
    special = {t["id"] for t in its.spec["added_tokens"] if t["special"]}
    assert special and not special & set(its.encode(name).tolist())
    assert special <= set(model.vocabulary.ends.tolist())
    tokens = tuple(its.encode(name).tolist())
    nats = sum(np.log(table(tokens[:i])[token]) for i, token in enumerate(tokens))
    rows = model.logprobs(name)
    nats += np.log(table(tokens)[model.vocabulary.ends].sum())
    assert chosen(rows, name).sum() == pytest.approx(nats)
    # And what ends the text is counted once: nothing is above 1.
    rows = table_model(its, table, "all").logprobs(name[:3])
    assert lost(rows).max() < 1e-9 and np.exp(rows).sum(axis=1).max() < 1 + 1e-9


def test_a_model_without_bos_needs_a_row_for_it():
    """Where the vocabulary has no BOS its EOT stands in, or an id after the vocabulary."""
    its = tokenizer("gpt2")
    assert its.bos == its.eot  # <|end_of_text|> begins texts too
    bare = JsonTokenizer(json.dumps({**its.spec, "added_tokens": []}))
    assert bare.bos >= bare.vocab_size
    with pytest.raises(UserError, match="no id for the beginning or the end of a text"):
        Vocabulary(bare, bare.vocab_size)
    Vocabulary(bare, bare.num_ids)


def test_a_vocabulary_beyond_the_embedding():
    its = tokenizer("gpt2")
    with pytest.raises(UserError, match="ids up to 339 and the model only 300"):
        Vocabulary(its, 300)
    # An embedding with more rows than tokens: they are ends, if the model ever gives them.
    assert set(range(its.vocab_size, 400)) <= set(Vocabulary(its, 400).ends.tolist())


def test_tokens_whose_bytes_cannot_be_known():
    spec = json.loads(tokenizer("gpt2")._text)
    spec["model"]["vocab"]["色"] = len(spec["model"]["vocab"])  # no character of byte-level BPE
    with pytest.raises(UserError, match="bytes of token '色' cannot be known"):
        JsonTokenizer(json.dumps(spec))


def test_what_is_not_understood_has_law_all_alone():
    """Law all needs no encoder; the others say why they cannot be."""
    theatre = b"\x0a\x0b\x0a\x07theatre\x18\x04"  # pieces (1) { piece (1), type (3): user-defined }
    its = SentencePieceTokenizer(families._sentencepiece(340) + theatre)
    with pytest.raises(UserError, match="'theatre' is user-defined.*--law all works"):
        Canonical(Vocabulary(its, its.num_ids))
    model, params = random_llama(its)
    for law in ("canonical", "last-free"):
        with pytest.raises(UserError, match="user-defined"):
            TokenizedModel(model, params, its, law)
    every = TokenizedModel(model, params, its, "all", beam=None)
    with pytest.raises(UserError, match="user-defined"):
        every.with_law("canonical")
    rows = every.logprobs("the 色".encode())
    assert lost(rows).max() < 1e-5 and np.isfinite(rows[:, END]).all()
    (found,) = continue_tokens(every, b" th", num_bytes=4)
    assert found.stopped or len(found.text) == 4


def test_options_beyond_the_rules():
    spec = json.loads(tokenizer("gpt2")._text)
    for option, value in (("dropout", 0.5), ("end_of_word_suffix", "</w>")):
        odd = JsonTokenizer(json.dumps({**spec, "model": {**spec["model"], option: value}}))
        with pytest.raises(UserError, match=f"has {option}"):
            Canonical(Vocabulary(odd, odd.num_ids))


@pytest.mark.parametrize("change, error", [
    ({"law": "some"}, "law 'some' is none of"), ({"beam": 0}, "beam 0"),
    ({"context": 3}, "too short"),
])  # fmt: skip
def test_wrong_options(change, error):
    its = tokenizer("gpt2")
    with pytest.raises(UserError, match=error):
        TokenizedModel(*random_llama(its), its, **change)
