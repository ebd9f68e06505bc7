"""Indices dealt out in shares: exact at every prefix, found without history."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.data.schedule import LONGEST_PERIOD, Schedule, whole_shares
from hat.errors import UserError

LENGTH = 150

weights_strategy = st.lists(
    st.one_of(st.integers(0, 12), st.decimals(0, 3, places=2).map(float)), min_size=1, max_size=6
).filter(any)


@settings(max_examples=100, deadline=None)
@given(weights=weights_strategy)
def test_counts_stay_within_one_of_their_share(weights):
    """In exact arithmetic, against the definition: n w_k for every prefix n."""
    schedule = Schedule([(0, weights)])
    exact = [Fraction(str(weight)) for weight in weights]
    counts = [0] * len(weights)
    for n in range(LENGTH):
        assert schedule.counts(n).tolist() == counts
        for count, weight in zip(counts, exact):
            assert abs(count - n * weight / sum(exact)) < 1
        part, own = schedule.locate(n)
        assert own == counts[part]  # nothing is dealt twice, nothing left out
        counts[part] += 1


@settings(max_examples=100, deadline=None)
@given(
    first=st.lists(st.integers(0, 5), min_size=3, max_size=3).filter(any),
    second=st.lists(st.integers(0, 5), min_size=3, max_size=3).filter(any),
    change=st.integers(1, 60),
)
def test_a_change_leaves_what_was_before_and_holds_from_then_on(first, second, change):
    constant, changing = Schedule([(0, first)]), Schedule([(0, first), (change, second)])
    for n in range(change):
        assert changing.locate(n) == constant.locate(n)
    before = changing.counts(change)
    counts = before.copy()
    for n in range(change, change + LENGTH):
        part, own = changing.locate(n)
        assert own == counts[part]
        counts[part] += 1
        since = n + 1 - change
        for count, weight in zip(counts - before, second):
            assert abs(count - Fraction(since * weight, sum(second))) < 1


def test_far_away_is_as_near_as_the_beginning():
    """10**15 indices on: what a sum over the history could not find."""
    schedule = Schedule([(0, (3, 2, 2))])
    assert schedule.counts(7 * 10**15).tolist() == [3 * 10**15, 2 * 10**15, 2 * 10**15]
    near, far = schedule.locate(5), schedule.locate(7 * 10**15 + 5)
    assert far == (near[0], near[1] + (3, 2, 2)[near[0]] * 10**15)


def test_two_equal_shares_alternate():
    schedule = Schedule([(0, (1, 1))])
    assert [schedule.locate(n) for n in range(6)] == [(n % 2, n // 2) for n in range(6)]


@pytest.mark.parametrize(
    ("weights", "shares"),
    [((0.7, 0.2, 0.1), (7, 2, 1)), ((4, 2), (2, 1)), ((0.0, 5.0), (0, 1)), ((1e-3, 1), (1, 1000))],
)
def test_weights_are_the_decimals_that_they_print_as(weights, shares):
    assert whole_shares(weights) == shares


def test_weights_without_a_short_period_are_refused():
    with pytest.raises(UserError, match=f"more than {LONGEST_PERIOD:,}; round them") as error:
        whole_shares((1 / 3, 0.5))
    assert "\n" not in str(error.value)
