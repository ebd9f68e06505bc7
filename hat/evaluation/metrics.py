"""What a robustness report says about the scores of one model, clean and noised.

Scores are those of items, stored, so that every number here can be computed again without the
model. A number that is not defined is NaN, never a stand-in.
"""

from __future__ import annotations

import math

import numpy as np


def robustness_score(accuracy: float, clean_accuracy: float, chance: float) -> float:
    """The share of the capability above chance that noise leaves, in percent (H-Net, arXiv
    2507.07955, table 3). NaN where the clean model is not above chance: there is nothing to keep.
    """
    if clean_accuracy <= chance:
        return math.nan
    return 100 * (accuracy - chance) / (clean_accuracy - chance)


def consistency(clean: np.ndarray, noised: np.ndarray) -> float:
    """The share of items that keep their answer. float[n, c] scores of the choices each."""
    return float(np.mean(np.argmax(clean, axis=1) == np.argmax(noised, axis=1)))


def kendall_tau_b(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """float64[...]: rank correlation of float[..., c] and float[..., c] along the last axis, with
    ties as in Kendall's tau-b. NaN where one of the two is constant. Takes c * c memory."""
    i, j = np.triu_indices(np.shape(x)[-1], 1)
    signs_x = np.sign(np.asarray(x)[..., i] - np.asarray(x)[..., j])
    signs_y = np.sign(np.asarray(y)[..., i] - np.asarray(y)[..., j])
    agreement = np.sum(signs_x * signs_y, axis=-1)
    untied = np.sum(signs_x**2, axis=-1) * np.sum(signs_y**2, axis=-1)
    return np.divide(
        agreement, np.sqrt(untied), out=np.full(np.shape(agreement), np.nan), where=untied > 0
    )


def choice_probabilities(nats: np.ndarray) -> np.ndarray:
    """float64[n, c]: softmax of log-probabilities float[n, c] over an item's choices."""
    shifted = np.asarray(nats, np.float64) - np.max(nats, axis=1, keepdims=True)
    return np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)


def brier_score(probabilities: np.ndarray, answers: np.ndarray) -> float:
    """Mean squared distance of float[n, c] from the right choices int[n]: 0 is perfect, 2 the
    worst (Brier, 1950)."""
    one_hot = np.eye(probabilities.shape[1])[answers]
    return float(np.mean(np.sum((probabilities - one_hot) ** 2, axis=1)))


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of float[n] confidences and bool[n] outcomes: the distance of
    their means in bins of equal mass, weighted by the items of a bin. NaN without items."""
    if not len(confidence):
        return math.nan
    gaps = calibration_gaps(confidence, correct, bins).sum(axis=0)
    return float(np.abs(gaps).sum() / len(confidence))


def calibration_gaps(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> np.ndarray:
    """float64[n, bins]: confidence less outcome, in the bin of the item: of equal mass, by rising
    confidence; equal confidences in their order. The absolute sums of the columns, over n, make the
    calibration error."""
    n = len(confidence)
    size, larger = divmod(n, bins)
    sizes = np.full(bins, size) + (np.arange(bins) < larger)
    order = np.argsort(confidence, kind="stable")
    gaps = np.zeros((n, bins))
    gap = np.asarray(confidence, np.float64) - np.asarray(correct, np.float64)
    gaps[order, np.repeat(np.arange(bins), sizes)] = gap[order]
    return gaps


def context_noise_cost(
    noised_nats: np.ndarray, clean_nats: np.ndarray, num_bytes: np.ndarray
) -> float:
    """Nats per byte that noise in the context costs the unchanged continuation: float[n] nats of
    the same continuations after noised and clean contexts, int[n] their bytes. A ratio of sums.
    """
    return float((np.sum(noised_nats) - np.sum(clean_nats)) / np.sum(num_bytes))


def severity_area(rates: np.ndarray, values: np.ndarray) -> float:
    """The mean of a metric over severities 0 to the largest, as a share of its clean value.

    rates: float[r], ascending from 0; values: float[r]. By trapezoids. 1: noise changes nothing.
    NaN where the clean value is 0. ValueError where the rates do not ascend from 0.
    """
    rates = np.asarray(rates, np.float64)
    if len(rates) < 2 or rates[0] != 0 or (np.diff(rates) <= 0).any():
        raise ValueError(f"rates must ascend from 0, and they are {rates.tolist()}")
    if values[0] == 0:
        return math.nan
    return float(np.trapezoid(values, rates) / (rates[-1] * values[0]))


def edit_slope(edit_rates: np.ndarray, changes: np.ndarray) -> float:
    """What one edit per byte would cost: the least-squares line through the origin.

    edit_rates: float[n], realised byte edit rates (Damerau); changes: float[n], noised less clean
    metric. Through the origin, because no edit is no change. NaN where nothing was edited.
    """
    square = float(np.dot(edit_rates, edit_rates))
    return float(np.dot(edit_rates, changes)) / square if square > 0 else math.nan
