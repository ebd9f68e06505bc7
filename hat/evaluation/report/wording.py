"""Numbers and verdicts in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from hat.evaluation.results import CURVE_METRICS, METRICS, Comparison, Metric, Results
from hat.evaluation.statistics import Interval

NONE = "–"
SHOWN_NAMES = 6
TESTS = {"sign-flip": "sign-flip permutation test", "mcnemar": "exact McNemar test"}


def metric(name: str) -> Metric:
    """How to read the metric of a cell, curve or comparison."""
    return METRICS.get(name) or CURVE_METRICS[name]


def heading(name: str) -> str:
    """The metric's label with its unit."""
    about = metric(name)
    return f"{about.label} ({about.unit})" if about.unit else about.label


def interval(value: Interval | None, *, n: bool = False, undefined: str = NONE) -> str:
    """"0.123 [0.101, 0.145]": to two digits of the interval's width, at least. undefined: what
    stands for a number, or an end of an interval, that there is none of."""
    if value is None or not math.isfinite(value.estimate):
        return undefined
    decimals = _decimals(value)
    shown = [f"{number:z,.{decimals}f}" if math.isfinite(number) else undefined
             for number in value[:3]]
    count = f", n = {value.n:,}" if n else ""
    return f"{shown[0]} [{shown[1]}, {shown[2]}]{count}"


def p_value(p: float) -> str:
    """"p = 0.013", "p < 0.0001"."""
    if not math.isfinite(p):
        return "p undefined"
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.2g}"


def better(comparison: Comparison, level: float) -> str | None:
    """The model that is better, where Holm's p-value shows one at 1 - level; else None."""
    direction, difference = metric(comparison.metric).better, comparison.difference.estimate
    undecided = math.isnan(difference) or difference == 0
    # A p-value that is NaN is below nothing; 1 - 0.95 is a little more than 0.05.
    if not direction or undecided or not comparison.p_holm < round(1 - level, 9):
        return None
    wins_second = (difference > 0) == (direction == "higher")
    return comparison.second if wins_second else comparison.first


def verdict(comparison: Comparison, level: float) -> str:
    """"HAT is better" or "no difference shown"."""
    winner = better(comparison, level)
    return "no difference shown" if winner is None else f"{winner} is better"


def names(values: Sequence[str], most: int = SHOWN_NAMES) -> str:
    """"a, b and c"; after `most` of them "and 4 more"."""
    if len(values) > most:
        return f"{', '.join(values[:most])} and {len(values) - most} more"
    return " and ".join([", ".join(values[:-1]), values[-1]]) if len(values) > 1 else values[0]


def summary(results: Results) -> list[str]:
    """Who is better where: of every two models, in every metric, on clean text and under noise (all
    rates of a perturbation together)."""
    groups: dict[tuple, list[Comparison]] = {}
    for c in results.comparisons:
        is_clean = c.perturbation is None
        if is_clean or c.rate is None:
            groups.setdefault((c.first, c.second, not is_clean, c.metric), []).append(c)
    pairs = unique(key[:2] for key in groups)
    order = sorted(groups, key=lambda key: (pairs.index(key[:2]), key[2]))
    return [_sentence(groups[key], results.level) for key in order]


def _sentence(group: Sequence[Comparison], level: float) -> str:
    one = group[0]
    when = "on clean text" if one.perturbation is None else "under noise"
    said = f"{one.first} against {one.second}, {when}, in {metric(one.metric).label}:"
    if len(group) == 1:
        unit = metric(one.metric).unit
        return (
            f"{said} {verdict(one, level)} ({one.second} less {one.first}: "
            f"{interval(one.difference)}{' ' + unit if unit else ''}, n = {one.difference.n:,}; "
            f"{p_value(one.p_holm)} after Holm)."
        )
    cases: dict[str | None, list[str]] = {one.first: [], one.second: [], None: []}
    several = len({c.task for c in group}) > 1
    for c in group:
        name = c.perturbation or c.task
        on_task = several and c.perturbation is not None
        cases[better(c, level)].append(f"{name} on {c.task}" if on_task else name)
    parts = [
        f"{'no difference is shown' if name is None else f'{name} is better'} in {len(found)} of "
        f"{len(group)} cases ({names(found)})"
        for name, found in cases.items() if found
    ]  # fmt: skip
    return f"{said} {'; '.join(parts)}."


def _decimals(value: Interval) -> int:
    """Digits after the point that show two digits of the interval's width."""
    width = value.high - value.low
    scale = width if math.isfinite(width) and width > 0 else abs(value.estimate) / 10
    return min(max(1 - math.floor(math.log10(scale)), 0), 6) if scale > 0 else 1


def unique(values: Iterable) -> list:
    """In the order of their first appearance."""
    return list(dict.fromkeys(values))
