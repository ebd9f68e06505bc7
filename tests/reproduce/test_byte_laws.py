"""`hat reproduce byte-laws`, very small: it runs through, resumes, and counts right."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from hat import cli
from hat.byte_exact.model import chosen
from hat.byte_exact.tokenized import TokenizedModel
from hat.reproduce import byte_laws, prompt_ends
from tests.byte_exact.families import tokenizer
from tests.byte_exact.llamas import random_llama

ROOT = Path(__file__).resolve().parents[2]
DEVICES = jax.devices()


@pytest.fixture(autouse=True)
def one_device(tmp_path, monkeypatch):
    monkeypatch.setenv("HAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(jax, "devices", lambda *a: DEVICES[:1])


def test_it_runs_and_does_not_repeat_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prompt_ends, "PROMPT", 24)
    monkeypatch.setattr(prompt_ends, "NEXT", 3)
    sources = sorted((ROOT / "hat" / "text").glob("*.py"))
    text = tmp_path / "text.txt"
    text.write_text("\n".join(path.read_text(encoding="utf-8") for path in sources))
    words = ["reproduce", "byte-laws", "--smoke", "--text", str(text), "--configs",
             str(ROOT / "configs"), "--out", str(tmp_path / "out"), "--json"]  # fmt: skip
    assert cli.main(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["laws"]["bpe"]) == {"code", "noisy code"}
    for found in result["laws"]["bpe"].values():
        law = found["law"]
        assert law["all"]["bits_per_byte"] <= law["canonical"]["bits_per_byte"] + 1e-6
        assert all(0 <= its["mean_lost"] <= its["most_lost"] <= 1 for its in law.values())
        assert all(0 <= its["mean"] <= its["most"] <= 1
                   for its in found["total_variation"].values())
        assert found["canonical_nodes"]["new_per_byte"] >= 0.9
    assert set(result["prompts"]["all"]["ways"]) == set(prompt_ends.WAYS)

    def refuse(*args):
        raise AssertionError("measured again")

    monkeypatch.setattr(byte_laws, "measure", refuse)
    monkeypatch.setattr(prompt_ends, "one", refuse)
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out) == result
    assert cli.main([*words, "--llama-given", "x"]) == 2
    assert "other options" in capsys.readouterr().err


def test_healing_is_a_choice_among_tokens_that_begin_so():
    """Of the tokens after "the" without its last token, those that begin with its bytes, each with
    all ways to go on, listed."""
    its = tokenizer("gpt2")
    model = TokenizedModel(*random_llama(its), its, "all", beam=None)
    ids, following = its.encode(b"x the").tolist(), b"re"
    *before, last = ids
    taken = its.token_bytes(last)
    row = model.session(before)
    pool_rows: dict = {}
    model.pool.read([row.states[0][0]], pool_rows)
    p = np.exp(pool_rows[row.states[0][0]].astype(float))
    total = good = 0.0
    for token in range(len(p)):
        if its.token_bytes(token).startswith(taken):
            total += p[token]
            beyond = its.token_bytes(token)[len(taken) :]
            if len(beyond) >= len(following):
                good += p[token] * beyond.startswith(following)
            elif following.startswith(beyond):
                session = model.session([*before, token])
                session.advance(following[len(beyond) :])
                good += p[token] * np.exp(session.logprob)
    nats, text = prompt_ends.heal(model, ids, following)
    assert nats == pytest.approx(-np.log(good / total), abs=1e-4)
    best = max((t for t in range(len(p)) if its.token_bytes(t).startswith(taken)), key=p.__getitem__)
    assert text.startswith(its.token_bytes(best)[len(taken) :])


def test_living_nodes():
    """A node lives for as long as a token may go on from it."""
    its = tokenizer("gpt2")
    model = TokenizedModel(*random_llama(its), its)
    text = b"the  theatre"
    tree, session = model.tree(text), model.session()
    expected = [len(session.states)]
    for byte in text:
        session.push(byte)
        expected.append(len(session.states))
    assert byte_laws.live(tree).tolist() == expected
    rows = model.logprobs(text)
    assert byte_laws.bits(rows, text) == pytest.approx(-chosen(rows, text)[:-1].sum() / np.log(2))
