"""Generation in tokens at the speed of tokens, against one token at a time under masks."""

from __future__ import annotations

import numpy as np
import pytest

from hat.byte_exact import tree_attention
from hat.byte_exact.generate import continue_bytes, continue_tokens
from hat.byte_exact.model import END, normalized
from hat.byte_exact.tokenized import TokenizedModel
from hat.inference import burst, checked
from hat.inference import sampling as sampling_module
from hat.inference.sampling import Draw, Sampling, sample
from tests.byte_exact.families import tokenizer
from tests.byte_exact.llamas import random_llama, reference_rows

NATS = 1e-3  # of a text: float32 beside float64, 1e-5 or so a token


def model_of(family: str, law="canonical", window=None, **options) -> TokenizedModel:
    its = tokenizer(family)
    return TokenizedModel(*random_llama(its, window), its, law, **options)


def by_hand(model: TokenizedModel, sampling: Sampling, number: int, num_bytes: int, rows):
    """(text, nats, whether it ended) after an empty prompt: every token from the distribution in
    float64, masked, by the random numbers of its place. Knows nothing of bursts and caches."""
    v, rule = model.vocabulary, model.canonical
    tokens: list[int] = []
    text, nats, configuration = b"", 0.0, rule.start
    while len(text) < num_bytes:
        with np.errstate(divide="ignore"):
            logs = np.log(rows(tuple(tokens)))
        allowed = np.array([
            rule.step(configuration, t) >= 0 if v.spellings[t] else rule.may_end(configuration)
            for t in range(len(logs))
        ])  # fmt: skip
        logits = np.where(allowed, logs, -np.inf).astype(np.float32)[None]
        draw = Draw(*np.array([[0], [number], [len(tokens)]], np.int32))
        token = int(sample(logits, draw, sampling)[0][0])
        nats -= logs[token]
        if not v.spellings[token]:
            return text, nats, True
        tokens.append(token)
        text += v.spellings[token]
        configuration = rule.step(configuration, token)
    return text[:num_bytes], nats, False


@pytest.mark.parametrize("family, window, sampling", [
    ("gpt2", None, Sampling(1.0)), ("llama3-whole", 5, Sampling(1.0, seed=3)),
    ("unigram", None, Sampling(1.2)), ("sentencepiece", None, Sampling(0.0)),
    ("gpt2", 5, Sampling(1.0, top_k=3)), ("qwen-added", None, Sampling(1.0, top_p=0.6)),
    ("gpt2", None, Sampling(1.5, min_p=0.1)),
])  # fmt: skip
def test_valid_tokens_as_under_masks(family, window, sampling):
    """What a row draws freely, checks and draws again is what masks at every token give."""
    model = model_of(family, window=window)
    its = model.vocabulary.tokenizer
    rows = reference_rows(model.evaluator.model, random_llama(its, window)[1], its.bos)
    found = continue_tokens(model, b"", num_bytes=60, samples=3, sampling=sampling)
    for number, one in enumerate(found):
        text, nats, ended = by_hand(model, sampling, number, 60, rows)
        assert (one.text, one.stopped) == (text, ended)
        assert -one.logprob == pytest.approx(nats, abs=NATS)


@pytest.mark.parametrize("law", ["canonical", "all", "last-free"])
def test_lengths_and_stops_cut_anywhere(law):
    """A shorter continuation begins a longer one, and a stop ends it inside a token."""
    model, prompt = model_of("gpt2", law), b"the th"
    options = dict(samples=4, sampling=Sampling(1.0, seed=5))
    whole = continue_tokens(model, prompt, num_bytes=50, **options)
    assert any(len(one.text) == 50 for one in whole)
    for size in (1, 2, 7, 23):
        for one, longer in zip(continue_tokens(model, prompt, num_bytes=size, **options), whole):
            assert one.text == longer.text[:size]
            assert one.stopped == (longer.stopped and len(longer.text) < size)
    longest = max(whole, key=lambda one: len(one.text)).text
    for at, size in ((0, 1), (3, 2), (11, 3)):
        stop = longest[at : at + size]
        made = continue_tokens(model, prompt, num_bytes=50, stop=stop, **options)
        for one, longer in zip(made, whole):
            assert one.text == longer.text.split(stop)[0]
            assert one.stopped == (longer.stopped or stop in longer.text)


def test_samples_do_not_depend_on_each_other():
    """Twenty rows, more than go side by side: each as in a call for fewer."""
    model, options = model_of("gpt2"), dict(num_bytes=12, sampling=Sampling(1.0, seed=1))
    many = continue_tokens(model, b"do", samples=20, **options)
    for one, same in zip(continue_tokens(model, b"do", samples=3, **options), many):
        assert (one.text, one.stopped) == (same.text, same.stopped)
        assert one.logprob == pytest.approx(same.logprob, abs=NATS)
    assert len({one.text for one in many}) > 10


@pytest.mark.parametrize("sampling", [
    Sampling(0.0), Sampling(0.7, seed=2), Sampling(1.0, top_p=0.9), Sampling(1.0, min_p=0.02),
])  # fmt: skip
def test_bytes_are_drawn_as_by_sample(sampling):
    """Side by side, with the random numbers of each text's own places."""
    model, num_bytes = model_of("gpt2", "last-free"), 40
    found = continue_bytes(model, b"the", num_bytes=num_bytes, samples=3, sampling=sampling)
    for number, one in enumerate(found):
        session, text, nats = model.session(), b"", 0.0
        session.advance(b"the")
        while len(text) < num_bytes:
            row = normalized(session.logprobs())
            draw = Draw(*np.array([[0], [number], [len(text)]], np.int32))
            symbol = int(sample(row[None].astype(np.float32), draw, sampling)[0][0])
            nats -= row[symbol]
            if symbol == END:
                break
            text += bytes([symbol])
            session.push(symbol)
        assert one.text == text and one.stopped == (symbol == END)
        assert -one.logprob == pytest.approx(nats, abs=NATS)


def test_nothing_is_compiled_again():
    """After a text whose prompt has one node and one whose prompt has many, every byte and every
    burst of others runs what is there."""
    model = model_of("gpt2")
    programs = tree_attention._extend, burst.run_burst, checked.go_back, sampling_module.noise

    def counts(prompts, seed):
        for prompt in prompts:
            for way in (continue_bytes, continue_tokens):
                way(model, prompt, num_bytes=50, sampling=Sampling(1.0, seed=seed))
        return [program._cache_size() for program in programs]

    before = counts([b"", b"the theatre"], 1)
    assert min(before) > 0
    assert counts([b"", b"don't see!!", "色は é ".encode()], 2) == before


@pytest.mark.parametrize("way", [continue_tokens, continue_bytes])
def test_bytes_are_drawn_by_the_law(way):
    """The first two bytes after a prompt that ends inside a token, by the law `all`."""
    from scipy.stats import chisquare

    model, prompt, count = model_of("gpt2", "all", beam=None), b" th", 300
    made = way(model, prompt, num_bytes=2, samples=count, sampling=Sampling(1.0, seed=2))
    texts = [one.text for one in made]
    session = model.session()
    session.advance(prompt)
    first = np.exp(session.logprobs())
    expected, seen = [], []
    for byte in np.argsort(first[:256])[::-1][:20].tolist():
        expected.append(count * first[byte])
        seen.append(sum(text[:1] == bytes([byte]) for text in texts))
    best = int(np.argmax(first[:256]))
    session.push(best)
    second = np.exp(session.logprobs())
    other = int(np.argmax(second[:256]))
    pair = count * first[best] * second[other]
    both = sum(text == bytes([best, other]) for text in texts)
    enough = [i for i, e in enumerate(expected) if e >= 5]
    assert len(enough) >= 3 and pair >= 5
    expected, seen = [expected[i] for i in enough], [seen[i] for i in enough]
    rest = count - sum(expected), count - sum(seen)
    assert chisquare([*seen, rest[1]], [*expected, rest[0]]).pvalue > 1e-3
    assert chisquare([both, count - both], [pair, count - pair]).pvalue > 1e-3
