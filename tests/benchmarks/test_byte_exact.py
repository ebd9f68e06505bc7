"""`hat bench byte-exact` on a tiny model: every way runs, and the ratios are of its rates."""

from __future__ import annotations

import argparse

import pytest

from hat.benchmarks import byte_exact
from hat.byte_exact.token_bytes import Vocabulary
from hat.byte_exact.unigram import canonical_of
from hat.errors import UserError
from tests.byte_exact.families import TEXT, tokenizer
from tests.training import tiny


@pytest.mark.parametrize("vocabulary, samples", [(None, 1), (400, 2)])
def test_it_compares_all_ways(vocabulary, samples, tmp_path, monkeypatch):
    monkeypatch.setattr(byte_exact, "read_experiment", lambda _: tiny.llama(tmp_path))
    monkeypatch.setattr(byte_exact, "PROMPT", 5)
    arguments = argparse.Namespace(
        config="any", size=None, run=None, bytes=12, repeats=1, vocabulary=vocabulary, samples=samples)
    found = byte_exact.run(arguments)
    assert found["ids"] == (408 if vocabulary else 304)
    rates = found["bytes_per_second"]
    assert len(rates) >= 7 and all(rate > 0 for rate in rates.values())
    each = rates["generate: exact, every byte"] / rates["generate: tokens"]
    assert found["ratios"]["every byte over tokens, a token"] == pytest.approx(
        each * found["bytes_per_drawn_token"])
    assert set(found["ratios"]) == set(found["processor_ratios"])


@pytest.mark.parametrize("run, config", [("runs/mine", byte_exact.CONFIG), (None, "other.py")])
def test_a_size_of_another_model_is_refused(run, config):
    arguments = argparse.Namespace(size="2m", run=run, config=config)
    with pytest.raises(UserError, match="--size is of"):
        byte_exact.open_model(arguments, b"")


def test_made_up_tokens_are_encodings():
    base = tokenizer("gpt2")
    wide = byte_exact.widened(base, 600)
    assert wide.vocab_size == 600
    assert [*map(wide.token_bytes, range(300))] == [*map(base.token_bytes, range(300))]
    rule = canonical_of(Vocabulary(wide, 608))
    for text in (TEXT, " ".join(wide.token_bytes(t).decode() for t in range(400, 600))):
        at, ids = rule.start, wide.encode(text.encode()).tolist()
        for token in ids:
            at = rule.step(at, token)
            assert at >= 0
    assert len(set(ids) & set(range(400, 600))) > 100
    with pytest.raises(UserError, match="--vocabulary 9000000"):
        byte_exact.widened(base, 9_000_000)
