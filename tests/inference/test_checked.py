"""Rows whose ids the host checks: as under a mask at every id, beside rows that are free."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hat.inference.engine import Engine
from hat.inference.requests import Request
from hat.inference.sampling import Sampling
from hat.text.ids import BOS, EOT
from hat.text.tokenizers import ByteTokenizer
from tests.inference.helpers import built, llama_config

NUM_IDS = llama_config().num_ids


class Sums:
    """After a sum s of the ids so far, an id may follow that leaves another rest by 7 than s; the
    end of text where the sum is even."""

    def __init__(self, ids=()):
        self.ids = list(ids)

    def mask(self) -> np.ndarray:
        total = sum(self.ids)
        mask = np.arange(NUM_IDS) % 7 != total % 7
        mask[EOT] = total % 2 == 0
        return mask

    def count(self, ids) -> int:
        so_far = Sums(self.ids)
        for number, id in enumerate(ids):
            if not so_far.mask()[id]:
                return number
            so_far.take([id])
        return len(ids)

    def take(self, ids) -> None:
        self.ids += ids


@pytest.fixture(scope="module", params=[None, 5])
def engine(request):
    config = llama_config(window=request.param)
    return Engine(*built(config), ByteTokenizer(), max_rows=4, rings=False)


def made(engine, sampling, checked=True, samples=6, num_bytes=45):
    requests = [
        Request([BOS, 97], num_bytes, sampling, sample=n, check=Sums() if checked else None)
        for n in range(samples)
    ]
    rows = [engine.submit(request) for request in requests]
    engine.run()
    return rows


@pytest.mark.parametrize("sampling", [
    Sampling(1.0, seed=4), Sampling(0.0), Sampling(1.0, repetition_penalty=1.5),
    Sampling(1.3, valid_utf8=True, seed=1),
])  # fmt: skip
def test_ids_are_those_of_a_mask_at_every_draw(engine, sampling):
    """A least share of the likeliest that leaves every id in makes the engine mask every draw."""
    rows = made(engine, sampling)
    masked = made(engine, dataclasses.replace(sampling, min_p=1e-30))
    for one, other in zip(rows, masked):
        assert one.ids == other.ids and one.finish == other.finish
        assert Sums().count(one.ids) == len(one.ids)
        np.testing.assert_allclose(one.nats, other.nats, rtol=0, atol=1e-4)
    free = made(engine, sampling, checked=False)
    assert any(one.ids != other.ids for one, other in zip(rows, free))


def test_free_rows_are_as_if_alone(engine):
    sampling = Sampling(1.0, seed=8)
    alone = made(engine, sampling, checked=False)
    checked = [
        engine.submit(Request([BOS, 98], 30, sampling, sample=n, check=Sums())) for n in range(3)
    ]
    free = made(engine, sampling, checked=False)
    assert [row.ids for row in free] == [row.ids for row in alone]
    assert all(Sums().count(row.ids) == len(row.ids) for row in checked)


def test_what_has_begun_counts(engine):
    """Bytes that the ids spell already take room, belong to the text, and may begin a stop."""
    sampling = Sampling(0.0)
    (row,) = made(engine, sampling, checked=False, samples=1, num_bytes=10)
    begun = Request([BOS, 97], 12, sampling, begun=b"xy")
    after = engine.submit(begun)
    engine.run()
    assert bytes(after.text) == b"xy" + bytes(row.text) and after.finish == row.finish
    stop = b"y" + bytes(row.text[:1])
    after = engine.submit(dataclasses.replace(begun, stops=(stop,)))
    engine.run()
    assert (bytes(after.text), after.finish) == (b"x", "stop")
