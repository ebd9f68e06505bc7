"""Many requests at once: what a text depends on, and what it does not."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hat.errors import UserError
from hat.inference.engine import Engine
from hat.inference.requests import Request
from hat.inference.generation import continue_prompts, read_ids
from hat.inference.prefixes import Prefixes, common_start
from hat.inference.sampling import Sampling
from hat.inference.stops import StopFinder
from hat.serving.warm_up import warm_up
from hat.text.ids import BOS, EOT, PAD
from hat.text.splitters import make_splitter
from hat.text.tokenizers import ByteTokenizer
from tests.inference.helpers import (
    WORDS_OF,
    built,
    hat_2025_config,
    hat_batch,
    hat_config,
    llama_config,
    whole_nats,
)

WORDS = make_splitter("words")
ROWS = 4
SAMPLING = Sampling(temperature=1.0, seed=7)
RAGGED = [  # 16 prompts
    b"", b"a", b"def f(x):\n    return", "世界 and more".encode(), "cut inside 世".encode()[:-1],
    b"\xff\x00", b"word " * 20, b"x" * 99, b"\n", b" ", "naïve café".encode(), b"\xf0\x9f\xa4",
    b"1,234.5", "👩‍👧 and 🇩🇪".encode(), b"a\nb\nc\n", b"The end",
]  # fmt: skip


KINDS = {  # one predictor of words; test_hat_rows has the other
    "words": (WORDS_OF["words"], WORDS),
    "cosine": (WORDS_OF["cosine"], WORDS),
    "hat-2025": (hat_2025_config(), make_splitter("words:70")),
    "llama": (llama_config(), ByteTokenizer()),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


@functools.cache
def engine_of(kind: str, rows: int = ROWS, **options) -> Engine:
    config, rule = KINDS[kind]
    return Engine(*built(config), rule, max_rows=rows, **options)


@pytest.fixture
def engine():
    return engine_of("words")


def texts(engine, prompts, num_bytes=20, sampling=SAMPLING, **options):
    results = continue_prompts(engine, prompts, num_bytes=num_bytes, sampling=sampling, **options)
    return [result.text for result in results]


@functools.cache
def alone(kind: str) -> list[bytes]:
    """Every prompt continued by itself. Its number decides its random numbers."""
    one_row, made = engine_of(kind, 1, prefixes=0), []
    for number, prompt in enumerate(RAGGED):
        ids = read_ids(one_row.tokenizer, prompt)
        made.append(one_row.submit(Request(ids, 20, SAMPLING, prompt=number)))
        one_row.run()
    return [bytes(one.text) for one in made]


@each_kind
def test_sixteen_ragged_prompts_are_as_sixteen_single_runs(kind):
    assert texts(engine_of(kind), RAGGED) == alone(kind)


@each_kind
def test_rows_that_come_and_go_do_not_change_others(kind):
    """Requests arrive between bursts, some leave early; the rest is as if alone."""
    engine, made = engine_of(kind), []
    for number, prompt in enumerate(RAGGED):
        ids = read_ids(engine.tokenizer, prompt)
        made.append(engine.submit(Request(ids, 20, SAMPLING, prompt=number)))
        guest = engine.submit(Request([BOS, 65 + number], 200, SAMPLING, prompt=99))
        engine.step()
        engine.cancel(guest)
    engine.run()
    assert [bytes(one.text) for one in made] == alone(kind)
    assert guest.finish == "cancelled" and not engine.active


@pytest.mark.parametrize("rule", [
    dict(temperature=0.0), dict(temperature=1.0), dict(temperature=0.7, top_k=9, top_p=0.8),
    dict(temperature=1.0, min_p=0.05), dict(temperature=0.0, repetition_penalty=1.5),
])  # fmt: skip
def test_with_memory_or_without_the_text_is_the_same(engine, rule):
    """Against a loop that reads the whole text again for every byte."""
    from hat.inference.sampling import Draw, penalise, rules
    from hat.inference.sampling import _sample as draw_ids

    model, params = built(hat_config())
    sampling, prompt, size = Sampling(seed=3, **rule), b"two words\n", 12
    logits = jax.jit(model.logits)
    text = b""
    while len(text) < size:
        batch = hat_batch([prompt + text], WORDS, 48)
        row = logits(params, batch)[0, len(prompt + text)][None]
        recent = np.array([[BOS, *prompt, *text]])
        changed = penalise(row, recent, np.full(1, sampling.repetition_penalty, np.float32))
        draw = Draw(*np.array([[0], [0], [len(text)]], np.int32))
        (id,), _ = draw_ids(changed, rules(sampling, draw))
        if id > 255:
            break
        text += bytes([int(id)])
    assert texts(engine, [prompt], size, sampling) == [text]


@pytest.mark.parametrize("kind", ["words", "cosine"])
def test_log_probabilities_are_those_of_teacher_forcing(kind):
    engine = engine_of(kind)
    made = [
        engine.submit(Request(read_ids(engine.tokenizer, prompt), 20, SAMPLING, tops=True))
        for prompt in RAGGED[:6]
    ]
    engine.run()
    everything = [prompt + bytes(one.text) for prompt, one in zip(RAGGED, made)]
    nats = np.asarray(whole_nats(*built(WORDS_OF[kind]), hat_batch(everything, WORDS, 64)))
    for row, prompt, one in zip(nats, RAGGED, made):
        expected = row[len(prompt) : len(prompt) + len(one.nats)]
        np.testing.assert_allclose(one.nats, expected, rtol=0, atol=1e-4)  # sums in another order
        for (ids, likeliest), id, own in zip(one.tops, one.ids, one.nats):
            assert np.all(np.diff(likeliest) >= 0) and own >= likeliest[0] - 1e-6
            assert id not in ids or own == pytest.approx(likeliest[list(ids).index(id)])


@each_kind
def test_nothing_is_compiled_after_the_warm_up(kind):
    """Counted by JAX: whatever comes in whatever order, in buffers that need not grow."""
    engine = engine_of(kind, room=1024)
    warm_up(engine)
    long, valid_utf8 = b"many words, " * 50, Sampling(temperature=1.0, valid_utf8=True)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    )
    texts(engine, RAGGED, 37, Sampling(temperature=0.5, top_k=3, repetition_penalty=1.1), samples=2)
    texts(engine, [b"b" + long], 50, valid_utf8, stops=[b"no such text"])
    texts(engine, [b"one"], 5)
    assert compiled == []
    jax.jit(lambda x: x + len(RAGGED))(1.0)  # what is counted does count
    assert compiled


def test_prompts_that_begin_alike_are_read_once(monkeypatch):
    engine = Engine(*built(hat_config()), WORDS, max_rows=ROWS)
    read = []
    kind = type(engine._kind)
    read_chunk = kind.read_chunk

    def counted(self, params, state, prompt, first, most, **options):
        *result, last = read_chunk(self, params, state, prompt, first, most, **options)
        read.append(last - first)
        return *result, last

    monkeypatch.setattr(kind, "read_chunk", counted)
    shared = b"Be brief. " * 30
    prompts = [shared + end for end in (b"one", b"two", b"six", "zwölf".encode())]
    fresh = [texts(Engine(*built(hat_config()), WORDS, max_rows=1, prefixes=0), [p]) for p in prompts]
    read.clear()
    assert [texts(engine, [prompt]) for prompt in prompts] == fresh
    # The second prompt finds what it shares with the first, the others begin there.
    assert read[0] == 304 and sum(read[1:3]) == 304 and read[3:] == [3, 6]
    read.clear()
    assert texts(engine, [prompts[2]], samples=3)[0] == fresh[2][0]
    assert read == []  # read before, word for word


def test_valid_text_is_valid_to_its_end(engine):
    """After any prompt that is text so far, at any length."""
    sampling = dataclasses.replace(SAMPLING, temperature=3.0, valid_utf8=True)
    prompts = ["naïve 世".encode()[:-1], b"", "🇩🇪".encode()[:-2], b"\xff\xe4", b"\xe4\xb8\xff"]
    for size in (2, 3, 7):
        for prompt, text in zip(prompts, texts(engine, prompts, size, sampling)):
            begun = prompt if b"\xff" not in prompt else prompt[prompt.rindex(b"\xff") + 1 :]
            (begun + text).decode()
    with pytest.raises(UserError, match="2 more bytes"):
        texts(engine, ["世".encode()[:1]], 1, sampling)


@given(st.binary(max_size=30), st.lists(st.binary(min_size=1, max_size=3), max_size=3),
       st.integers(1, 4))  # fmt: skip
def test_stops_are_found_however_the_text_comes(text, stops, size):
    finder, released = StopFinder(stops), b""
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    for place in range(0, len(text), size):
        released += finder.feed(text[place : place + size])
        assert text.startswith(released)
        if finder.found:
            break
    assert finder.found == bool(ends)
    if ends:
        # Found in the piece that completes the first one; all before the earliest there is given.
        seen = text[: -(-min(ends) // size) * size]
        assert released == seen[: min(seen.find(stop) for stop in stops if stop in seen)]
    else:
        assert released + finder.rest() == text


def test_a_text_ends_where_its_memory_does():
    """Whatever is asked for: the backbone's memory is bounded."""
    engine = Engine(*built(hat_config()), WORDS, max_rows=ROWS, max_words=40)
    made = [
        engine.submit(Request(read_ids(engine.tokenizer, prompt), 1_000, SAMPLING, prompt=number))
        for number, prompt in enumerate((b"", b"one two"))
    ]
    with pytest.raises(UserError, match="41 words"):
        engine.submit(Request(read_ids(engine.tokenizer, b"a\n" * 20), 1))
    engine.run()
    for one in made:
        words = int(WORDS.split(np.frombuffer(bytes(one.text), np.uint8)).starts.sum())
        assert one.finish == "stop" or (one.finish == "length" and 30 <= words < 40)
    assert any(one.finish == "length" for one in made)


def test_scores_that_a_model_does_not_give_are_refused_at_once():
    with pytest.raises(UserError, match="gives no scores of prompts"):
        engine_of("hat-2025").submit(Request([BOS, 97], 1, scores=True))


def test_what_no_text_has_is_refused(engine):
    for ids in ([], [97], [BOS, BOS], [BOS, PAD], [BOS, 300], [BOS, -1]):
        with pytest.raises(ValueError):
            engine.submit(Request(ids, 1))
    made = engine.submit(Request([BOS, 97, EOT, 98], 3))
    engine.run()
    assert made.finish in ("length", "stop")


def test_prefixes_are_few():
    kept = Prefixes(2)
    a, b, c = (np.arange(n, dtype=np.int32) for n in (3, 5, 9))
    for ids in (a, b):
        kept.keep(ids, len(ids))
    assert kept.find(c) == (5, 5) and kept.find(np.arange(4, dtype=np.int32)) == (3, 3)
    kept.keep(c, 9)  # b was found longest ago
    assert len(kept) == 2 and kept.find(b) == (3, 3) and kept.find(c) == (9, 9)
    assert kept.find(np.array([7], np.int32)) == (0, None)
    assert common_start(b, c) == 5 and common_start(b, -c) == 1
