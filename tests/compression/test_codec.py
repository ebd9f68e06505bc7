"""The file codec: it returns every file or says why not, and a file never grows by much."""

from __future__ import annotations

import random

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from hat.compression import codec
from hat.compression.container import unpack
from hat.compression.integer_model import IntegerPredictor
from hat.compression.predictor import LlamaPredictor
from hat.errors import UserError
from tests.compression.models import CONTEXT, model
from tests.compression.toy import HELDOUT, pictures

HEAD = 64


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(codec, "LEAST_CHUNK", 64)
    monkeypatch.setattr(codec, "MOST_CHUNK", 100)


def integer(rows: int) -> IntegerPredictor:
    return IntegerPredictor(*model(), rows, CONTEXT)


def floating(rows: int) -> LlamaPredictor:
    return LlamaPredictor(*model(), rows, CONTEXT)


def back(content: bytes, make=integer) -> bytes:
    return codec.decompress(*unpack(content), make)


def likely(count: int) -> bytes:
    """What the model expects: the likeliest bytes of its own."""
    predictor, text = integer(1), bytearray()
    weights = predictor.begin()
    for _ in range(count):
        text.append(int(weights[0].argmax()))
        weights = predictor.push(np.array([text[-1]], np.uint8))
    return bytes(text)


@pytest.fixture(scope="module")
def text() -> bytes:
    return likely(500) + HELDOUT[:150]


@pytest.mark.parametrize("make, portable", [(integer, True), (floating, False)])
def test_files_return(make, portable, text):
    noise = random.Random(0).randbytes(700)
    for data in (b"", b"\0", text, noise, b"\xff" * 300, b"\xff\xd8\xff\xe0%PDF" * 20):
        packed = codec.compress(data, make, portable=portable, most_rows=8)
        assert back(packed.content, make) == data
        assert len(packed.content) <= HEAD + 8 + len(data)
        header, chunks = unpack(packed.content)
        assert header.portable == portable and header.length == len(data)
        raw = [chunk.raw for chunk in chunks]
        assert packed.raw_chunks == sum(raw) and (not data == noise or all(raw))
    assert 0 < len(codec.compress(text, make).content) < len(text)


def test_progress_ends_at_twice_the_length(text, monkeypatch):
    """Also where the parts of a group differ in length."""
    monkeypatch.setattr(codec, "MOST_CHUNK", 100)
    told: list[int] = []
    codec.compress(text[:450], integer, portable=True, most_rows=8, progress=told.append)
    assert told == sorted(told) and told[-1] == 900


@pytest.mark.parametrize("kind", ["jpeg", "pdf"])
def test_whole_files_return(kind, monkeypatch):
    monkeypatch.setattr(codec, "MOST_CHUNK", 512)
    data = pictures()[kind][:6000]
    packed = codec.compress(data, integer, portable=True, most_rows=8)
    assert back(packed.content) == data and len(packed.content) < 1.01 * len(data) + HEAD


@hypothesis.settings(max_examples=25)
@hypothesis.given(st.binary(max_size=300), st.sampled_from([1, 8]))
def test_any_bytes_return(data, rows):
    content = codec.compress(data, integer, portable=True, most_rows=rows).content
    assert back(content) == data


def test_the_cost_is_the_information_of_the_model(text):
    """Within 0.1 % and a byte a stream of what the weights themselves say."""
    predictor = integer(8)
    parts = [text[i : i + 60] for i in range(0, 480, 60)]
    streams, bits = codec.encode_group(predictor, parts)
    ideal = 0.0
    for part in parts:
        weights, alone = predictor.begin(), 0.0
        for byte in part:
            alone -= np.log2(weights[0, byte] / weights[0].sum())
            weights = predictor.push(np.full(8, byte, np.uint8))
        ideal += alone
    assert sum(bits) == pytest.approx(ideal, rel=1e-9)
    assert ideal - 1 < 8 * sum(map(len, streams)) < 1.001 * ideal + 12 * len(parts)


def test_damage_is_found(text):
    content = codec.compress(text, integer, portable=True).content
    _, chunks = unpack(content)
    streams = len(content) - sum(len(chunk.stream) for chunk in chunks)
    places = [*range(0, streams, 5), *range(streams, len(content), 40), len(content) - 1]
    for place in places:
        bad = bytearray(content)
        bad[place] ^= 1 << place % 8
        with pytest.raises(UserError, match="damaged|version|not a file|cut short"):
            back(bytes(bad))
    for length in (0, 5, 63, 64, streams - 1, len(content) - 1):
        with pytest.raises(UserError, match="cut short|not a file"):
            back(content[:length])
    with pytest.raises(UserError, match="after its end"):
        back(content + b"x")


def test_other_models_arithmetics_and_versions_are_refused(text, monkeypatch):
    content = codec.compress(text, floating).content
    with pytest.raises(UserError, match="another model"):
        back(content, integer)
    monkeypatch.setattr(jax, "__version__", "0.0.0")
    with pytest.raises(UserError, match="other numbers here"):
        back(content, floating)
    later = content[:8] + b"\x02" + content[9:]
    with pytest.raises(UserError, match="version 2"):
        unpack(later)


def test_a_chunk_that_does_not_come_back_is_kept_as_it_is(text):
    """A model whose numbers change between two runs, as on some devices."""

    class Fickle(IntegerPredictor):
        beginnings = 0

        def begin(self):
            Fickle.beginnings += 1
            return super().begin() + Fickle.beginnings % 2 * np.arange(256)[::-1] * 997

    packed = codec.compress(text, lambda rows: Fickle(*model(), rows, CONTEXT), portable=True)
    assert packed.raw_chunks == len(unpack(packed.content)[1]) == 1


# --- the integer model ----------------------------------------------------------------------------


def test_whole_numbers_are_near_the_model_and_the_same_in_every_batch():
    rng = np.random.default_rng(0)
    symbols = rng.integers(0, 256, (40, 8)).astype(np.uint8)  # longer than the context
    one, few, many, reference = integer(1), integer(3), integer(8), floating(8)
    found = [predictor.begin() for predictor in (one, few, many)]
    expected = reference.begin()
    for step, its in enumerate(symbols):
        assert np.array_equal(found[0][0], found[2][0])
        assert np.array_equal(found[1], found[2][:3])
        chances = found[2] / found[2].sum(axis=1, keepdims=True)
        assert np.abs(chances - expected / 2.0**24).max() < 0.02  # int8 matrices
        restart = np.arange(8) == step % 11  # rows begin anew, each at its own time
        found = [p.push(its[: p.rows], restart[: p.rows]) for p in (one, few, many)]
        expected = reference.push(its, restart)


def test_tables_of_the_integer_model_are_those_of_exact_arithmetic():
    from hat.compression.integer_model import rotations, tables

    powers, sigmoid = tables()
    assert np.abs(powers - 2.0 ** (30 - np.arange(4096) / 4096)).max() <= 0.51
    exact = 65_536 / (1 + np.exp(-np.arange(len(sigmoid)) / 1024.0))
    assert np.abs(sigmoid - exact).max() <= 0.51
    cos, sin = rotations(8, "10000.0", 50)
    angles = np.arange(50)[:, None] * 10_000.0 ** (-np.arange(4) / 4)
    assert np.abs(cos - 65_536 * np.cos(angles)).max() <= 0.51
    assert np.abs(sin - 65_536 * np.sin(angles)).max() <= 0.51


def test_what_the_integer_model_does_not_know_is_refused():
    import dataclasses

    plain, params = model()
    stack = dataclasses.replace(plain.config.stack, qkv_bias=True)
    config = dataclasses.replace(plain.config, stack=stack)
    with pytest.raises(UserError, match="--portable knows no biases"):
        IntegerPredictor(config.build(), params, 1, 5)
