"""Learning curves of another language, against definitions written again."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hat.evaluation import adaptation
from hat.evaluation.adaptation import Curve


@pytest.mark.parametrize("target, bits, expected", [
    (3.0, (4.0, 2.0, 1.0), 50), (4.0, (4.0, 2.0, 1.0), 0), (1.5, (4.0, 2.0, 1.0), 200),
    (0.5, (4.0, 2.0, 1.0), math.nan), (2.0, (4.0, 2.0, 3.0), 100),
])
def test_bytes_to_a_target(target, bits, expected):
    found = adaptation.bytes_to(target, (0, 100, 300), bits)
    assert found == expected or math.isnan(found) and math.isnan(expected)


@given(st.lists(st.text("ab \nä日", max_size=1500), max_size=3), st.integers(1, 3000))
def test_pieces_are_the_beginning_of_the_documents(texts, total):
    documents = [text.encode() for text in texts]
    found = adaptation.cut(documents, total)
    rest = b"\0".join(documents)
    for piece in found:
        assert len(piece) >= adaptation.PIECE_BYTES
        place = rest.index(piece)  # in order, and apart
        rest = rest[place + len(piece) :]
    assert sum(map(len, found[:-1])) < total  # as few pieces as reach it


def test_intervals_of_a_learning_curve():
    """Of text that every piece of which costs the same, nothing is unsure; of other text the
    interval is that of a mean."""
    sizes = np.full(50, 400.0)
    same = Curve(np.outer(sizes, np.log(2) * np.array([4.0, 2.0, 3.0])), sizes)
    found = adaptation.summarize("m", "deu", (0, 100, 300), same, same, 3.0)
    assert [x.estimate for x in found.new] == pytest.approx([4, 2, 3])
    assert found.bytes_to_recover == pytest.approx((50, 50, 50, 50))
    assert found.retention == pytest.approx((4 / 3, 4 / 3, 4 / 3, 50))

    spread = np.random.default_rng(0).normal(0, 0.3, size=(50, 1))
    nats = np.log(2) * sizes[:, None] * (np.array([4.0, 2.0]) + spread)
    found = adaptation.summarize("m", "deu", (0, 100), Curve(nats, sizes), same, 2.0)
    point = found.new[1]
    # A percentile interval of a mean of 50: 3.92 standard errors wide, within 5 %.
    assert point.high - point.low == pytest.approx(3.92 * spread.std() / 50**0.5, rel=0.05)
    assert point.n == 50
    # As many draws stay above the level of the whole as fall below: its end is not known.
    assert math.isnan(found.bytes_to_recover.high) and found.bytes_to_recover.low < 100
