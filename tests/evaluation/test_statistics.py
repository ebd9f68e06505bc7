"""Intervals and tests against scipy, enumeration and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hat.errors import UserError
from hat.evaluation import statistics
from hat.evaluation.streams import Stream

# --- streams ------------------------------------------------------------------------------------


def test_numbers_depend_on_the_address_alone():
    a, b = Stream(1, "name", "item"), Stream(1, "name", "item")
    long = a.uniform(3, 1000)
    np.testing.assert_array_equal(long[:10], b.uniform(3, 10))
    for other in (Stream(2, "name", "item"), Stream(1, "nam", "eitem"), Stream("1", "name", "item")):
        assert not np.isin(other.uniform(3, 1000), long).any()
    assert not np.isin(a.uniform(4, 1000), long).any()
    assert stats.kstest(a.uniform(0, 20_000), "uniform").pvalue > 1e-3
    assert stats.chisquare(np.bincount(a.below(1, 6000, 6), minlength=6)).pvalue > 1e-3


def test_numbers_stay_the_same():
    """Of an address, for good: published results are drawn from them."""
    np.testing.assert_array_equal(Stream(42, "drop", "x").below(0, 6, 1000), GOLDEN_NUMBERS)


GOLDEN_NUMBERS = [258, 133, 443, 941, 442, 510]


# --- intervals ----------------------------------------------------------------------------------


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
       st.sampled_from([0.9, 0.95, 0.99]))
def test_wilson_is_scipys(counts, level):
    k, n = counts
    expected = stats.binomtest(k, n).proportion_ci(level, method="wilson")
    found = statistics.wilson(k, n, level)
    np.testing.assert_allclose(found[1:3], [expected.low, expected.high], atol=1e-12)
    assert (found.estimate, found.n) == (k / n, n)


def test_wilson_of_nothing():
    assert math.isnan(statistics.wilson(0, 0).estimate)
    assert statistics.wilson(0, 0)[1:] == (0.0, 1.0, 0)


def test_bootstrap_width_is_that_of_the_normal_interval():
    differences = np.random.default_rng(0).normal(0.3, 2.0, size=900)
    found = statistics.paired_bootstrap(differences)
    half = 1.96 * differences.std() / 30
    assert found.estimate == pytest.approx(differences.mean())
    # The quantiles of 10,000 draws wander by about 2 % of the half width.
    np.testing.assert_allclose([found.low, found.high],
                               [differences.mean() - half, differences.mean() + half],
                               atol=0.08 * half)
    assert found == statistics.paired_bootstrap(differences)
    assert found != statistics.paired_bootstrap(differences, seed=1)
    narrow = statistics.paired_bootstrap(differences, level=0.5)
    assert found.low < narrow.low < narrow.high < found.high


def coverage(intervals, truth: float) -> float:
    return float(np.mean([interval.low <= truth <= interval.high for interval in intervals]))


def test_the_paired_interval_covers_the_truth():
    """1,000 experiments of 200 items, on which two models with 70 % and 65 % are right together
    more often than by chance. 0.95 would wander by 0.007; the numbers are fixed."""
    generator = np.random.default_rng(1)
    difficulty = generator.uniform(size=(1000, 200))
    first, second = (generator.uniform(size=(1000, 200)) * 0.4 + difficulty * 0.6 < share
                     for share in (0.70, 0.65))
    truth = irwin_hall_share(0.70) - irwin_hall_share(0.65)
    differences = first.astype(float) - second
    intervals = [statistics.paired_bootstrap(d, seed=i, draws=500)
                 for i, d in enumerate(differences)]
    assert 0.93 <= coverage(intervals, truth) <= 0.97


def irwin_hall_share(bound: float) -> float:
    """P(0.4 u + 0.6 v < bound) for uniform u, v, and bound >= 0.6."""
    return 1 - (1 - bound) ** 2 / (2 * 0.4 * 0.6)


def test_clusters_cover_the_truth_where_seeds_alone_do_not():
    """400 experiments of 100 items with 5 seeds, alike within an item."""
    generator = np.random.default_rng(2)
    scores = generator.normal(size=(400, 100, 1)) + 0.3 * generator.normal(size=(400, 100, 5))
    clustered = [statistics.cluster_bootstrap(s, seed=i, draws=400) for i, s in enumerate(scores)]
    alone = [statistics.paired_bootstrap(s.ravel(), seed=i, draws=400)
             for i, s in enumerate(scores[:100])]
    # 0.95 would wander by 0.011 over 400 experiments; seeds alone reach about 0.6.
    assert 0.92 <= coverage(clustered, 0.0) <= 0.98
    assert coverage(alone, 0.0) < 0.8


def test_clusters_weigh_by_bytes():
    nats = np.arange(40.0).reshape(8, 5)
    sizes = np.arange(1, 41).reshape(8, 5)
    found = statistics.cluster_bootstrap(nats, sizes)
    assert found.estimate == nats.sum() / sizes.sum() and found.n == 8
    assert found.low < found.estimate < found.high
    same = statistics.cluster_bootstrap(3 * sizes, sizes)
    assert same[:3] == (3, 3, 3)


def test_columns_are_what_each_is_alone():
    """However many there are, and where weights may be nothing."""
    sums = np.random.default_rng(4).normal(size=(30, 300))
    weights = np.arange(30.0)[:, None] * (np.arange(300) != 7)
    found = statistics.ratio_bootstrap(sums, weights, draws=200)
    flipped = statistics.sign_flips(sums, draws=200)
    for column in (0, 255, 256, 299):
        one = slice(column, column + 1)
        alone = statistics.ratio_bootstrap(sums[:, one], weights[:, one], draws=200)[0]
        # A product of matrices may add in another order.
        np.testing.assert_allclose(found[column], alone, rtol=1e-9)
        assert flipped[column] == statistics.sign_flip(sums[:, column], draws=200)
    assert len(found) == 300 and all(map(math.isnan, found[7][:3])) and found[7].n == 30


@pytest.mark.parametrize("shape", [(10,), (10, 4)])
def test_too_few_seeds(shape):
    with pytest.raises(UserError, match="score every item under at least 5"):
        statistics.cluster_bootstrap(np.zeros(shape))


# --- tests --------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_mcnemar_is_a_binomial_test(pairs):
    first, second = np.array(pairs, bool).reshape(-1, 2).T
    wins, losses = int((first & ~second).sum()), int((second & ~first).sum())
    expected = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert statistics.mcnemar(first, second) == pytest.approx(expected, abs=1e-12)


def test_mcnemar_of_many_items_does_not_overflow():
    first = np.arange(10_000) % 2 == 0
    assert statistics.mcnemar(first, ~first) == 1
    assert 0 <= statistics.mcnemar(np.ones(9000, bool), np.zeros(9000, bool)) < 1e-300


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_sign_flips_of_few_items_are_all_tried(values):
    sums = [abs(sum(s * v for s, v in zip(signs, values)))
            for signs in itertools.product((1, -1), repeat=len(values))]
    expected = sum(total >= abs(sum(values)) for total in sums) / len(sums)
    assert statistics.sign_flip(np.array(values) / 10) == expected


def test_sign_flips_of_many_items_are_drawn():
    differences = np.random.default_rng(3).normal(0.12, 1.0, size=200)
    # For so many items the test is as good as normal.
    z = differences.sum() / math.sqrt((differences**2).sum())
    expected = 2 * stats.norm.sf(abs(z))
    # Four standard deviations of a share of 10,000 draws; the numbers are fixed.
    reach = 4 * math.sqrt(expected * (1 - expected) / 10_000)
    assert abs(statistics.sign_flip(differences) - expected) < reach
    assert statistics.sign_flip(np.ones(100)) == 1 / 10_001


def test_holm_adjusts_and_never_reorders():
    np.testing.assert_allclose(
        statistics.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02], rtol=1e-12
    )
    assert statistics.holm([0.5, 0.9]).tolist() == [1.0, 1.0]
    assert statistics.holm([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_stepping_down_rejects(p_values):
    level, rejected = 0.05, set()
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[i] * (len(p_values) - rank) > level:
            break
        rejected.add(i)
    assert set(np.flatnonzero(statistics.holm(p_values) <= level)) == rejected


def test_bad_input_is_a_bug():
    with pytest.raises(ValueError, match="not paired"):
        statistics.mcnemar(np.zeros(3, bool), np.zeros(4, bool))
    with pytest.raises(ValueError, match="confidence level of 95"):
        statistics.wilson(1, 2, 95)
    for function in (statistics.paired_bootstrap, statistics.sign_flip):
        with pytest.raises(ValueError, match="no "):
            function(np.zeros(0))
