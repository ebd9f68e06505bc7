"""Ensembles of models that are tables over bytes, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from hat.byte_exact.ensemble import Ensemble
from hat.errors import UserError


class Table:
    """A ByteModel whose distribution depends on the last byte alone, and may lack some mass."""

    name = "table"

    def __init__(self, seed: int, mass: float = 1.0):
        p = np.random.default_rng(seed).random((257, 257)) ** 4
        self.logs = np.log(mass * p / p.sum(axis=1, keepdims=True))

    def logprobs(self, text: bytes) -> np.ndarray:
        return self.logs[[256, *text]]

    def session(self):
        return Walk(self.logs, 256)


class Walk:
    def __init__(self, logs, last):
        self.logs, self.last = logs, last

    def logprobs(self):
        return self.logs[self.last]

    def push(self, byte):
        self.last = byte

    def fork(self):
        return Walk(self.logs, self.last)


TEXT = b"any bytes"
MEMBERS = [Table(1), Table(2, 0.7), Table(3)]
P = [np.exp(m.logprobs(TEXT)) / np.exp(m.logprobs(TEXT)).sum(axis=1, keepdims=True)
     for m in MEMBERS]  # fmt: skip


def made_one(p: np.ndarray) -> np.ndarray:
    return p / p.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("options, expected", [
    (dict(mode="mean"), sum(P) / 3),
    (dict(mode="mean", weights=[0.5, 0.0, 0.5]), (P[0] + P[2]) / 2),
    (dict(mode="product"), made_one((P[0] * P[1] * P[2]) ** (1 / 3))),
    (dict(mode="product", weights=[0.25, 0.75, 0.0]), made_one(P[0] ** 0.25 * P[1] ** 0.75)),
    (dict(mode="proxy", alpha=0.5), made_one(P[0] * (P[1] / P[2]) ** 0.5)),
])  # fmt: skip
def test_as_defined(options, expected):
    ensemble = Ensemble(MEMBERS, **options)
    np.testing.assert_allclose(np.exp(ensemble.logprobs(TEXT)), expected, atol=1e-12)
    session = ensemble.session()
    for t, byte in enumerate(TEXT):
        np.testing.assert_allclose(np.exp(session.logprobs()), expected[t], atol=1e-12)
        session.fork().push(0)
        session.push(byte)


@pytest.mark.parametrize("members, options, error", [
    ([], {}, "needs a member"), (MEMBERS, {"mode": "vote"}, "mode 'vote'"),
    (MEMBERS[:2], {"mode": "proxy"}, "a base, an expert"),
    (MEMBERS, {"weights": [0.5, 0.5]}, "not 3 shares"), (MEMBERS, {"alpha": np.inf}, "finite"),
    (MEMBERS, {"weights": [np.nan, 0.5, 0.5]}, "not 3 shares"),
])  # fmt: skip
def test_wrong_options(members, options, error):
    with pytest.raises(UserError, match=error):
        Ensemble(members, **options)
