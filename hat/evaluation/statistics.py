"""Whether two models differ, and how sure one can be: intervals and tests for evaluation items.

Comparisons are paired, on the same items. The perturbation seeds of one item are no independent
observations, so that items, not seeds, are resampled. All draws come from `streams`, by seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from hat.errors import UserError
from hat.evaluation.streams import Stream

DRAWS = 10_000
FEWEST_SEEDS = 5
_EXACT_ITEMS = 16  # up to here all 2**n signs are tried
_BLOCK = 1 << 22  # numbers in memory at a time
_COLUMNS = 256  # that are drawn for at a time


class Interval(NamedTuple):
    """An estimate over n items with its confidence interval."""

    estimate: float
    low: float
    high: float
    n: int


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """The score interval of a rate (Wilson, 1927). NaN and [0, 1] for no items."""
    _check_level(level)
    if n == 0:
        return Interval(math.nan, 0.0, 1.0, 0)
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, weight = successes / n, z * z / n
    middle = (share + weight / 2) / (1 + weight)
    reach = z / (1 + weight) * math.sqrt(share * (1 - share) / n + weight / (4 * n))
    low = 0.0 if successes == 0 else middle - reach  # rounding would leave a trace
    high = 1.0 if successes == n else middle + reach
    return Interval(share, low, high, n)


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """The exact two-sided p-value that bool[n] and bool[n], right or wrong on the same items, have
    the same rate: a binomial test of the items on which they differ."""
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"results of shapes {first.shape} and {second.shape} are not paired")
    wins, losses = int((first & ~second).sum()), int((~first & second).sum())
    n = wins + losses
    tail = ways = 1  # strings of n results with at most, and with exactly, k wins (or losses)
    for k in range(min(wins, losses)):
        ways = ways * (n - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**n)


def sign_flip(differences: np.ndarray, seed: int = 0, draws: int = DRAWS) -> float:
    """The two-sided p-value that the mean of float[n] paired differences is 0: the share of sign
    patterns whose mean is at least as far from 0.

    All patterns for few items; else `draws` random ones and that of the data itself, so that the
    test keeps its level and p is never 0 (Phipson and Smyth, 2010).
    """
    return float(sign_flips(np.asarray(differences)[:, None], seed, draws)[0])


def sign_flips(differences: np.ndarray, seed: int = 0, draws: int = DRAWS) -> np.ndarray:
    """float64[k]: `sign_flip` of every column of float[n, k], under the same sign patterns."""
    differences = np.asarray(differences, np.float64)
    n, k = differences.shape
    if n == 0:
        raise ValueError("no differences to test")
    if k > _COLUMNS:
        parts = np.split(differences, range(_COLUMNS, k, _COLUMNS), axis=1)
        return np.concatenate([sign_flips(part, seed, draws) for part in parts])
    # Sums that are equal on paper differ by rounding.
    bar = np.abs(differences.sum(axis=0)) - 1e-12 * np.abs(differences).sum(axis=0)
    if n <= _EXACT_ITEMS:
        bits = np.arange(2**n)[:, None] >> np.arange(n) & 1
        return np.mean(np.abs((1.0 - 2 * bits) @ differences) >= bar, axis=0)
    stream, extreme = Stream(seed, "sign-flip"), np.zeros(k, np.int64)
    for lane, rows in enumerate(_blocks(draws, n)):
        signs = 1.0 - 2 * stream.below(lane, rows * n, 2).reshape(rows, n)
        extreme += np.count_nonzero(np.abs(signs @ differences) >= bar, axis=0)
    return (extreme + 1) / (draws + 1)


def paired_bootstrap(
    differences: np.ndarray, seed: int = 0, level: float = 0.95, draws: int = DRAWS
) -> Interval:
    """The mean of float[n] differences between two models on the same items, with its percentile
    interval from resampled items."""
    differences = np.asarray(differences, np.float64)[:, None]
    return ratio_bootstrap(differences, np.ones(differences.shape), seed, level, draws)[0]


def cluster_bootstrap(
    scores: np.ndarray,
    weights: np.ndarray | None = None,
    seed: int = 0,
    level: float = 0.95,
    draws: int = DRAWS,
) -> Interval:
    """The mean of float[items, seeds] scores, with its percentile interval from resampled items:
    the seeds of an item go in or out together.

    weights: float[items, seeds], for a ratio of sums: nats over bytes, say. UserError: fewer than
    FEWEST_SEEDS seeds, which say too little about the noise.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or scores.shape[1] < FEWEST_SEEDS:
        raise UserError(
            f"scores of shape {scores.shape} have too few perturbation seeds; score every item "
            f"under at least {FEWEST_SEEDS}"
        )
    weights = np.ones(scores.shape) if weights is None else np.asarray(weights, np.float64)
    if weights.shape != scores.shape:
        raise ValueError(f"weights of shape {weights.shape} for scores of {scores.shape}")
    sums, weights = (x.sum(axis=1, keepdims=True) for x in (scores, weights))
    return ratio_bootstrap(sums, weights, seed, level, draws)[0]


def ratio_bootstrap(
    sums: np.ndarray,
    weights: np.ndarray,
    seed: int = 0,
    level: float = 0.95,
    draws: int = DRAWS,
) -> list[Interval]:
    """sum(sums) / sum(weights) over items, with its percentile interval from resampled items, for
    every column of float[n, k] and float[n, k]; all columns resample the same items. An item's
    seeds are summed beforehand, so that they go in or out together. NaN where weights sum to 0: the
    estimate for all items, an end of the interval for draws that decide it."""
    n, k = np.shape(sums)
    if k > _COLUMNS:
        parts = (np.split(x, range(_COLUMNS, k, _COLUMNS), axis=1) for x in (sums, weights))
        return [x for part in zip(*parts) for x in ratio_bootstrap(*part, seed, level, draws)]
    both = np.concatenate([sums, weights], axis=1, dtype=np.float64)
    drawn, whole = resampled_sums(both, seed, draws), both.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios, estimates = drawn[:, :k] / drawn[:, k:], whole[:k] / whole[k:]
    return [percentile_interval(estimate, column, n, level)
            for estimate, column in zip(estimates.tolist(), ratios.T)]


def resampled_sums(columns: np.ndarray, seed: int = 0, draws: int = DRAWS) -> np.ndarray:
    """float64[draws, k]: the sums of the columns of float[n, k] over n items drawn with
    replacement; all columns resample the same items, and so does any other call with this n and
    seed. ValueError without items."""
    columns = np.asarray(columns, np.float64)
    n = len(columns)
    if n == 0:
        raise ValueError("no items to resample")
    stream, drawn = Stream(seed, "bootstrap"), []
    for lane, rows in enumerate(_blocks(draws, n)):
        items = stream.below(lane, rows * n, n).reshape(rows, n) + n * np.arange(rows)[:, None]
        counts = np.bincount(items.ravel(), minlength=rows * n).reshape(rows, n)
        drawn.append(counts.astype(np.float64) @ columns)
    return np.concatenate(drawn)


def percentile_interval(
    estimate: float, draws: np.ndarray, n: int, level: float = 0.95
) -> Interval:
    """The estimate between the percentiles of its draws; NaN for what is not finite, and for an end
    that draws decide which are NaN or infinite."""
    _check_level(level)
    with np.errstate(invalid="ignore"):
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(*(x if math.isfinite(x) else math.nan for x in (estimate, low, high)), n)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """float64[m]: p-values adjusted for being m together (Holm, 1979), in the order given."""
    p_values = np.asarray(p_values, np.float64)
    order = np.argsort(p_values, kind="stable")
    stepped = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted


def _blocks(draws: int, n: int) -> list[int]:
    """`draws` in parts, each of about _BLOCK numbers for n items."""
    rows = max(1, _BLOCK // n)
    return [min(rows, draws - done) for done in range(0, draws, rows)]


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"a confidence level of {level} is not between 0 and 1")

