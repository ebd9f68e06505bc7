"""Numbers and verdicts in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from hat.evaluation.results import (
    ALL_TASKS,
    CURVE_METRICS,
    METRICS,
    Comparison,
    Metric,
    Results,
)
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


def interval(value: Interval | None, *, n: bool = False) -> str:
    """"0.123 [0.101, 0.145]": to two digits of the interval's width, at least."""
    if value is None or not math.isfinite(value.estimate):
        return NONE
    decimals = _decimals(value)
    shown = [f"{number:z,.{decimals}f}" for number in value[:3]]
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
    if not direction or not difference or not comparison.p_holm < 1 - level:  # NaN is not below
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
    """Who is better where: a sentence for clean text and one for noise, pair by pair.

    Those over the items of all tasks together, if there are any.
    """
    wide = [c for c in results.comparisons if c.task == ALL_TASKS] or results.comparisons
    clean = [_clean_sentence(c, results.level) for c in wide if c.perturbation is None]
    noised: dict[tuple[str, ...], list[Comparison]] = {}
    for c in wide:
        if c.perturbation is not None and c.rate is None:
            noised.setdefault((c.first, c.second, c.task, c.metric), []).append(c)
    return clean + [_noise_sentence(group, results.level) for group in noised.values()]


def _clean_sentence(c: Comparison, level: float) -> str:
    about, winner = metric(c.metric), better(c, level)
    facts = (
        f"{c.second} less {c.first}: {interval(c.difference)}"
        f"{' ' + about.unit if about.unit else ''}, n = {c.difference.n:,}; "
        f"{p_value(c.p_holm)} after Holm"
    )
    if winner is None:
        said = f"no difference between {c.first} and {c.second} is shown"
    else:
        said = f"{winner} is better than {c.first if winner == c.second else c.second}"
    return f"On clean text, {_where(c.task)}in {about.label}, {said} ({facts})."


def _noise_sentence(group: Sequence[Comparison], level: float) -> str:
    first, second, about = group[0].first, group[0].second, metric(group[0].metric)
    won: dict[str | None, list[str]] = {first: [], second: [], None: []}
    for c in group:
        won[better(c, level)].append(c.perturbation)
    said = [
        f"{name} is better under {len(won[name])} ({names(won[name])})"
        for name in (first, second) if won[name]
    ]  # fmt: skip
    if won[None]:
        said.append(f"under {len(won[None])} no difference is shown ({names(won[None])})")
    return (
        f"Under noise, {_where(group[0].task)}in {about.label}, of {len(group)} perturbations: "
        f"{'; '.join(said)}. {first} against {second}, the same {group[0].difference.n:,} items, "
        f"{100 * level:g} % after Holm."
    )


def _where(task: str) -> str:
    return "" if task == ALL_TASKS else f"on {task}, "


def _decimals(value: Interval) -> int:
    """Digits after the point that show two digits of the interval's width."""
    width = value.high - value.low
    scale = width if math.isfinite(width) and width > 0 else abs(value.estimate) / 10
    return min(max(1 - math.floor(math.log10(scale)), 0), 6) if scale > 0 else 1


def unique(values: Iterable) -> list:
    """In the order of their first appearance."""
    return list(dict.fromkeys(values))
