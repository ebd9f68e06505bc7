"""Plain arithmetic coding: it returns what it was given, and costs what information theory asks."""

from __future__ import annotations

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from hat.compression import range_coder
from hat.compression.probabilities import cumulative


def coded(symbols: np.ndarray, tables: np.ndarray, bits: int) -> bytes:
    rows = np.arange(len(symbols))
    return range_coder.encode(tables[rows, symbols], tables[rows, symbols + 1], bits)


def decoded(stream: bytes, tables: np.ndarray, bits: int) -> np.ndarray:
    decoder = range_coder.open_streams([stream])
    return np.array([range_coder.decode(decoder, row[None], bits)[0] for row in tables], np.int64)


def random_tables(rng, count: int, bits: int, sharp: float) -> np.ndarray:
    weights = (rng.random((count, 256)) ** sharp * 2**24).astype(np.int64)
    return cumulative(weights, bits)


@pytest.mark.parametrize("bits", [8, 16, 24, 31])
@hypothesis.settings(max_examples=20)
@hypothesis.given(seed=st.integers(0, 10**6), count=st.integers(0, 300),
                  sharp=st.sampled_from([0.0, 1.0, 40.0, 2000.0]))  # fmt: skip
def test_symbols_return(bits, seed, count, sharp):
    rng = np.random.default_rng(seed)
    tables = random_tables(rng, count, bits, sharp)
    draw = rng.integers(0, 1 << bits, count)
    likely = (tables <= draw[:, None]).sum(1) - 1 if count else np.zeros(0, np.int64)
    for symbols in (likely, rng.integers(0, 256, count)):
        stream = coded(symbols, tables, bits)
        assert decoded(stream, tables, bits).tolist() == symbols.tolist()
        rows = np.arange(count)
        cells = tables[rows, symbols + 1] - tables[rows, symbols]
        ideal = (bits - np.log2(cells)).sum() if count else 0.0
        assert 8 * len(stream) <= ideal + 16 + count * 2.0 ** (bits - 55)


def test_carries_run_through_many_bytes():
    """The highest symbols make a low of ones, which the last one overflows."""
    table = np.arange(257) << 8
    for ending in ([0], [255, 255], [128, 0]):
        symbols = np.array([255] * 300 + ending)
        tables = np.tile(table, (len(symbols), 1))
        assert decoded(coded(symbols, tables, 16), tables, 16).tolist() == symbols.tolist()
    # 1/3 of every interval: no symbol ends at a byte.
    third = np.concatenate([[0, 21845, 43690], np.full(254, 65536)])
    for middle in (0, 1, 2):
        symbols = np.array([middle] * 500 + [2] + [0] * 9)
        tables = np.tile(third, (len(symbols), 1))
        assert decoded(coded(symbols, tables, 16), tables, 16).tolist() == symbols.tolist()
        ideal = len(symbols) * math.log2(3)
        assert 8 * len(coded(symbols, tables, 16)) <= ideal + 16


def test_streams_side_by_side():
    rng = np.random.default_rng(0)
    tables = random_tables(rng, 200, 24, 10.0).reshape(4, 50, 257)
    symbols = rng.integers(0, 256, (4, 50))
    streams = [coded(s, t, 24) for s, t in zip(symbols, tables)]
    decoder = range_coder.open_streams(streams)
    found = [range_coder.decode(decoder, tables[:, i], 24) for i in range(50)]
    assert np.array_equal(np.stack(found, axis=1), symbols)


def test_damage_gives_wrong_symbols_and_ends():
    rng = np.random.default_rng(0)
    tables = random_tables(rng, 300, 24, 3.0)
    symbols = rng.integers(0, 256, 300)
    stream = coded(symbols, tables, 24)
    for bad in (b"", stream[:50], bytes([stream[0] ^ 1]) + stream[1:], b"\xff" * len(stream)):
        found = decoded(bad, tables, 24)
        assert found.min() >= 0 and found.max() < 256 and found.tolist() != symbols.tolist()
