"""Continued training on another language: how soon it is learnt, and what is left of the first.

Held-out text is cut into pieces, each scored as a document of its own; pieces, not bytes, are
resampled for the intervals. They say how sure the numbers are of one training run, nothing of
other runs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hat.evaluation.results import Adaptation
from hat.evaluation.scoring import Scorer
from hat.evaluation.statistics import Interval, percentile_interval, resampled_sums

PIECE_BYTES = 400


class Curve(NamedTuple):
    """nats float64 [n, p]: of n pieces of text at p points of training; num_bytes float64 [n]."""

    nats: np.ndarray
    num_bytes: np.ndarray


def bits_per_byte(curve: Curve) -> list[float]:
    """Of all pieces together, at every point."""
    return (curve.nats.sum(axis=0) / math.log(2) / curve.num_bytes.sum()).tolist()


def cut(documents: Sequence[bytes], total: int) -> list[bytes]:
    """The first `total` bytes of documents, about, in pieces of at least PIECE_BYTES up to white
    space; what is left over at the end of a document is too short and left out."""
    found: list[bytes] = []
    for document in documents:
        start = 0
        while total > 0 and len(document) - start >= PIECE_BYTES:
            end = start + PIECE_BYTES
            while end < len(document) and not document[end : end + 1].isspace():
                end += 1
            found.append(document[start:end])
            total -= end - start
            start = end
    return found


def piece_nats(scorer: Scorer, pieces: Sequence[bytes]) -> np.ndarray:
    """float64 [n]: of every piece; the end of text, which is not there, is not charged."""
    return np.array([score.nats[:-1].sum(dtype=np.float64) for score in scorer.rolling(pieces)])


def summarize(
    model: str, language: str, trained: Sequence[int], new: Curve, first: Curve, target: float
) -> Adaptation:
    """The results of one model. trained: bytes of the new language at every point, ascending.
    target: bits per byte of the new language that count as recovered, the same for all models."""
    points, new_draws = _bits(new)
    first_points, first_draws = _bits(first)
    reached = np.array([bytes_to(target, trained, bits) for bits in new_draws.tolist()])
    n, estimate = len(new.num_bytes), bytes_to(target, trained, bits_per_byte(new))
    return Adaptation(
        model, language, tuple(trained), points, first_points, target,
        # A draw that never reaches it is later than any that does.
        percentile_interval(estimate, np.where(np.isnan(reached), math.inf, reached), n),
        percentile_interval(first_points[0].estimate / first_points[-1].estimate,
                            first_draws[:, 0] / first_draws[:, -1], len(first.num_bytes)),
    )  # fmt: skip


def _bits(curve: Curve) -> tuple[tuple[Interval, ...], np.ndarray]:
    """Bits per byte at every point, and of every draw: float64 [draws, p]."""
    drawn = resampled_sums(np.concatenate([curve.nats, curve.num_bytes[:, None]], axis=1))
    draws, n = drawn[:, :-1] / drawn[:, -1:] / math.log(2), len(curve.num_bytes)
    estimates = bits_per_byte(curve)
    return tuple(percentile_interval(*each, n) for each in zip(estimates, draws.T)), draws


def bytes_to(target: float, trained: Sequence[int], bits: Sequence[float]) -> float:
    """After how many bytes the curve first reaches the target, between points on a line; NaN if
    never."""
    for (x0, y0), (x1, y1) in itertools.pairwise(zip(trained, bits)):
        if y0 <= target:
            return float(x0)
        if y1 <= target:
            return x0 + (x1 - x0) * (y0 - target) / (y0 - y1)
    return math.nan
