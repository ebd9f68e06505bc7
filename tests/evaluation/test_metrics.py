"""Metrics against scipy, closed forms and definitions written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from hat.evaluation import metrics

EXACT = 1e-12  # both sides are a few float64 operations


def test_robustness_is_the_share_kept_above_chance():
    assert metrics.robustness_score(0.45, 0.65, 0.25) == pytest.approx(50)
    assert metrics.robustness_score(0.2, 0.65, 0.25) == pytest.approx(-12.5)
    for clean in (0.25, 0.2):
        assert math.isnan(metrics.robustness_score(0.25, clean, 0.25))


def test_consistency_is_of_answers_not_of_scores():
    clean = np.array([[1.0, 2.0], [2.0, 1.0], [0.0, 3.0], [5.0, 4.0]])
    noised = np.array([[0.0, 9.0], [2.0, 3.0], [0.0, 1.0], [2.0, 1.0]])
    assert metrics.consistency(clean, noised) == 0.75


few_values = st.lists(st.integers(0, 4), min_size=2, max_size=8)


@given(st.data())
def test_rank_correlation_is_scipys(data):
    x = data.draw(few_values)
    y = data.draw(st.lists(st.integers(0, 4), min_size=len(x), max_size=len(x)))
    expected = stats.kendalltau(x, y).statistic
    np.testing.assert_allclose(metrics.kendall_tau_b(np.array(x), np.array(y)), expected, atol=EXACT)


def test_rank_correlation_of_many_items_at_once():
    x, y = np.random.default_rng(0).integers(0, 5, (2, 6, 3, 4))
    together = metrics.kendall_tau_b(x, y)
    assert together.shape == (6, 3)
    for i, j in np.ndindex(6, 3):
        np.testing.assert_array_equal(together[i, j], metrics.kendall_tau_b(x[i, j], y[i, j]))


def test_choice_probabilities_are_a_softmax():
    nats = np.random.default_rng(1).normal(size=(5, 4)) * 300
    np.testing.assert_allclose(
        metrics.choice_probabilities(nats), special.softmax(nats, axis=1), atol=EXACT
    )


def test_brier_score():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.0, 0.0, 1.0]])
    # (0.3^2 + 0.2^2 + 0.1^2 + 2) / 2
    assert metrics.brier_score(probabilities, np.array([0, 1])) == pytest.approx(1.07, abs=EXACT)
    assert metrics.brier_score(probabilities[1:], np.array([2])) == 0


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40),
       st.integers(1, 15))
def test_calibration_error_from_its_definition(pairs, bins):
    pairs = sorted(pairs, key=lambda pair: pair[0])
    size, large = divmod(len(pairs), bins)  # the first bins hold one more
    total, start = 0.0, 0
    for number in range(bins):
        members = pairs[start : start + size + (number < large)]
        start += len(members)
        if members:
            confidence = sum(c for c, _ in members) / len(members)
            accuracy = sum(right for _, right in members) / len(members)
            total += len(members) / len(pairs) * abs(confidence - accuracy)
    given_confidence = np.array([c for c, _ in pairs])
    correct = np.array([right for _, right in pairs])
    found = metrics.calibration_error(given_confidence, correct, bins)
    assert found == pytest.approx(total, abs=EXACT)


def test_calibration_of_the_calibrated_and_of_the_sure():
    generator = np.random.default_rng(2)
    confidence = generator.uniform(size=20_000)
    right = generator.uniform(size=20_000) < confidence
    # 15 bins of 1,333 outcomes: the mean of |error| is below sqrt(0.25 / 1333) = 0.014.
    assert metrics.calibration_error(confidence, right) < 0.014
    assert metrics.calibration_error(np.ones(10), np.arange(10) < 4) == pytest.approx(0.6)
    assert math.isnan(metrics.calibration_error(np.zeros(0), np.zeros(0, bool)))


def test_noise_cost_is_a_ratio_of_sums():
    cost = metrics.context_noise_cost(np.array([3.0, 8.0]), np.array([2.0, 5.0]), np.array([1, 7]))
    assert cost == 0.5


def test_severity_area():
    rates = np.array([0, 0.02, 0.05, 0.1, 0.2, 0.4])
    assert metrics.severity_area(rates, np.full(6, 0.7)) == pytest.approx(1, abs=EXACT)
    assert metrics.severity_area(rates, 0.8 - rates) == pytest.approx(0.75, abs=EXACT)
    assert math.isnan(metrics.severity_area(rates, rates))
    for wrong in ([0.1, 0.2], [0, 0], [0]):
        with pytest.raises(ValueError, match="ascend from 0"):
            metrics.severity_area(np.array(wrong), np.ones(len(wrong)))


def test_edit_slope_is_least_squares_through_the_origin():
    generator = np.random.default_rng(3)
    rates, changes = generator.uniform(size=30), generator.normal(size=30)
    expected = np.linalg.lstsq(rates[:, None], changes, rcond=None)[0][0]
    assert metrics.edit_slope(rates, changes) == pytest.approx(expected, abs=EXACT)
    assert metrics.edit_slope(rates, -3 * rates) == pytest.approx(-3)
    assert math.isnan(metrics.edit_slope(np.zeros(3), np.ones(3)))
