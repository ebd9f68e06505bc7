"""Rows of the HAT of 2025 give the numbers of one pass over the whole document."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from hat.byte_exact.run import load_byte_model
from hat.commands.conversions import open_source
from hat.compression.sessions import load_predictor
from hat.errors import UserError
from hat.evaluation.scoring import Scorer
from hat.inference.hat_2025_rows import CHUNKS, hat_2025_rows
from hat.inference.run import load_run
from hat.models.hat_2025 import W
from hat.text.ids import BOS, EOT
from hat.text.splitters import make_splitter
from tests.inference.helpers import built, hat_2025_config, hat_batch, whole_nats, write_run
from tests.inference.test_hat_rows import LENGTH, ROWS, TEXTS, TOLERANCE, batches

WORDS = make_splitter("words:70")


class Rows:
    """Texts that read an id each, all at the same time."""

    def __init__(self):
        model, params = built(hat_2025_config())
        self.kind = hat_2025_rows(model)
        self.params = self.kind.prepare(params, WORDS)

    def start(self, ids, rows, most=10**9):
        prompt = self.kind.read(WORDS, np.array(ids, np.int32))
        state, at = self.kind.empty(self.params, 1), 0
        while at < len(ids):
            state, logits, at = self.kind.read_chunk(self.params, state, prompt, at, most)
        self.state = jax.tree.map(lambda x: np.repeat(x, rows, 0), self.kind.at_end(state, prompt))
        return np.repeat(logits, rows, 0)

    def push(self, ids):
        state = self.kind.with_room(self.state, int(np.max(self.state.words)) + 1)
        ids = np.array(ids, np.int32)
        self.state, logits = push(self.kind, self.params, state, ids)
        return np.asarray(logits)


@functools.partial(jax.jit, static_argnums=0)
def push(kind, params, state, ids):
    return kind.step(params, state, 0, ids, np.ones(len(ids), bool), len(ids))


@pytest.fixture(scope="module")
def rows():
    return Rows()


def written(text: bytes) -> list[int]:
    """The bytes, a [W] before each that opens a word but the first, and the end."""
    starts = WORDS.split(np.frombuffer(text, np.uint8)).starts
    ids = [i for byte, start in zip(text, starts) for i in ([W, byte] if start else [byte])][1:]
    return ids + ([W] if text else []) + [EOT]


def surprise(logits, ids) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    top = logits.max(axis=1, keepdims=True)
    total = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
    return total - logits[np.arange(len(ids)), ids]


def test_incremental_equals_teacher_forced_on_any_bytes(rows):
    for texts in (TEXTS[:ROWS], TEXTS[-ROWS:]):
        assert_equal_sums(texts, rows)

    @settings(max_examples=6, suppress_health_check=list(HealthCheck))
    @given(batches)
    def check(texts):  # 6 x 16 documents
        assert_equal_sums(texts, rows)

    check()


def assert_equal_sums(documents, rows):
    whole = whole_nats(*built(hat_2025_config()), hat_batch(documents, WORDS, LENGTH)).sum(axis=1)
    texts = [written(text) for text in documents]
    logits, found = rows.start([BOS], ROWS), np.zeros(ROWS)
    for t in range(max(map(len, texts))):
        ids = [text[t] if t < len(text) else 0 for text in texts]
        going = np.array([t < len(text) for text in texts])
        found += np.where(going, surprise(logits, ids), 0)
        logits = rows.push(np.where(np.array(ids) == EOT, 0, ids))
    # Sums of up to 90 numbers, each as near as those of other rows in memory.
    np.testing.assert_allclose(found, whole, rtol=0, atol=10 * TOLERANCE)


def test_prompts_in_chunks_are_as_byte_by_byte(rows):
    for text in (b"a few words, and more\n", TEXTS[7], b"one " * 100):
        expected = rows.start([BOS, *text], 1)
        after = rows.push([W]), rows.push([ord("x")])
        for most in (1, 5):
            np.testing.assert_allclose(
                rows.start([BOS, *text], 1, most), expected, rtol=0, atol=TOLERANCE
            )
            for got, one in zip((rows.push([W]), rows.push([ord("x")])), after):
                np.testing.assert_allclose(got, one, rtol=0, atol=TOLERANCE)
    assert len(text) > CHUNKS[-1]


def test_words_end_at_their_limit_and_are_never_empty(rows):
    logits = rows.start([BOS, *b"x" * 70], 1)[0]
    assert logits.argmax() == W and (np.delete(logits, W) < -1e29).all()
    assert rows.push([W])[0, W] < -1e29


def test_longer_words_than_the_model_sees_are_refused():
    model, params = built(hat_2025_config())
    with pytest.raises(UserError, match="makes words of 100 bytes, and the model sees 70"):
        hat_2025_rows(model).prepare(params, make_splitter("words"))


def test_commands_that_need_every_byte_say_no(tmp_path):
    """The model writes the ends of words beside the bytes."""
    write_run(tmp_path / "run", hat_2025_config(), splitter="words:70", row_length=64)
    for load in (load_byte_model, lambda path: load_predictor(path, portable=False)):
        with pytest.raises(UserError, match="HAT of 2025"):
            load(tmp_path / "run")
    with pytest.raises(UserError, match="is of Hat2025Config, which no other format knows"):
        open_source(tmp_path / "run")
    assert Scorer.of_run(load_run(tmp_path / "run")).kind == "hat"
