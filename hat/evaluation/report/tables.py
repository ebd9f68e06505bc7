"""The numbers of a report, each with its interval and its n."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hat.evaluation.report.blocks import Table
from hat.evaluation.report.wording import (
    NONE,
    TESTS,
    heading,
    interval,
    metric,
    p_value,
    unique,
    verdict,
)
from hat.evaluation.results import CURVE_METRICS, METRICS, Comparison, Results
from hat.evaluation.statistics import Interval

KINDS = {"hat": "HAT", "subword": "subword Llama", "bytes": "flat byte-level Llama"}


def models(results: Results) -> Table:
    rows = [(m.name, KINDS.get(m.kind, m.kind), f"{m.parameters:,}", m.run) for m in results.models]
    return Table(("model", "kind", "parameters", "run"), rows)


def tasks(results: Results) -> Table:
    rows = [(t.name, t.kind, f"{t.items:,}", f"{t.chance:.3f}" if t.chance == t.chance else NONE)
            for t in results.tasks]  # fmt: skip
    return Table(("task", "kind", "items", "accuracy of guessing"), rows)


def noises(results: Results) -> Table:
    rows = [
        (p.name, p.family, p.unit, p.summary, "no" if p.keeps_words else "yes",
         "yes" if p.valid_utf8 else "no", p.source)
        for p in results.perturbations
    ]  # fmt: skip
    header = ("perturbation", "family", "a rate counts", "what it does", "changes words",
              "valid UTF-8", "source")  # fmt: skip
    return Table(header, rows)


def clean(results: Results) -> Table:
    """Every metric of clean text: a row for each task and metric, a column for each model."""
    cells = [cell for cell in results.cells if cell.perturbation is None]
    rows = []
    for task in unique(cell.task for cell in cells):
        here = {cell.model: cell.metrics for cell in cells if cell.task == task}
        for name in METRICS:
            values = [here.get(m.name, {}).get(name) for m in results.models]
            if any(values):
                rows.append((task, heading(name), *(interval(v, n=True) for v in values)))
    return Table(("task", "on clean text", *(m.name for m in results.models)), rows)


def curve_tables(results: Results, task: str) -> list[tuple[str, Table]]:
    """(metric, table) for each metric of the curves of a task: a row for each perturbation."""
    found = []
    for name in CURVE_METRICS:
        values = curve_values(results, task, name)
        rows = [
            (p.name, *(interval(values.get((p.name, m.name)), n=True) for m in results.models))
            for p in results.perturbations
            if any((p.name, m.name) in values for m in results.models)
        ]
        if rows:
            found.append((name, Table(("perturbation", *(m.name for m in results.models)), rows)))
    return found


def curve_values(results: Results, task: str, name: str) -> dict[tuple[str, str], Interval]:
    """The metric of a task's curves by (perturbation, model)."""
    return {(c.perturbation, c.model): c.metrics[name]
            for c in results.curves if c.task == task and name in c.metrics}  # fmt: skip


def comparisons(found: Sequence[Comparison], level: float) -> Table:
    """Of two models in one metric."""
    rows = [
        (
            c.perturbation or "clean text",
            c.task,
            "all rates" if c.rate is None else f"{c.rate:g}",
            interval(c.difference, n=True),
            p_value(c.p_value),
            p_value(c.p_holm),
            verdict(c, level),
            TESTS.get(c.test, c.test),
        )
        for c in found
    ]
    about = metric(found[0].metric)
    difference = f"difference{f' ({about.unit})' if about.unit else ''}"
    header = ("perturbation", "task", "rate", difference, "alone", "after Holm", "verdict", "test")
    return Table(header, rows)


def cells(results: Results, perturbation: str) -> Table:
    """Every number under one perturbation, by task, model and rate."""
    found = [cell for cell in results.cells if cell.perturbation == perturbation]
    shown = [name for name in METRICS if any(name in cell.metrics for cell in found)]
    rows = [
        (f"{cell.rate:g}", cell.task, cell.model,
         *(interval(cell.metrics.get(name), n=True) for name in shown))
        for cell in found
    ]  # fmt: skip
    return Table(("rate", "task", "model", *map(heading, shown)), rows)


def adaptations(results: Results) -> Table:
    """Bits per byte at every point of continued training."""
    rows = [
        (a.model, a.language, f"{size:,}", interval(new, n=True), interval(first, n=True))
        for a in results.adaptations for size, new, first in zip(a.bytes, a.new, a.first)
    ]  # fmt: skip
    header = ("model", "new language", "bytes trained on", "bits per byte of the new language",
              "of the first language")  # fmt: skip
    return Table(header, rows)


def recovery(results: Results) -> Table:
    """What the new language took, and what it left of the first."""
    rows = [
        (a.model, a.language, f"{a.target:.3f}",
         interval(a.bytes_to_recover, n=True, undefined="not reached"),
         interval(a.retention, n=True))
        for a in results.adaptations
    ]  # fmt: skip
    header = ("model", "new language", "target (bits per byte)", "bytes to reach it", "retention")
    return Table(header, rows)


def fairness(rule: Mapping[str, Any]) -> Table:
    """The languages of a rule, as `hat evaluate fairness --json` gives them, the cheapest first."""
    languages = sorted(
        rule["languages"], key=lambda x: (x["premiums"]["position"]["estimate"], x["name"])
    )
    rows = [
        (x["name"], f"{x['bytes']:,}", f"{x['words']:,}", f"{x['positions']:,}",
         *(said(x["premiums"][cost]) for cost in ("byte", "word", "position")),
         said(x["bytes_per_position"]), f"{x['longest']:,}")
        for x in languages
    ]  # fmt: skip
    header = ("language", "bytes", "words", "positions", "byte premium", "word premium",
              "position premium", "bytes per position", "longest position (bytes)")  # fmt: skip
    return Table(header, rows)


def dispersion(rules: Mapping[str, Mapping[str, Any]]) -> Table:
    """How unequal the languages are under every rule."""
    rows = [
        (name, cost, *(said(rule["dispersion"][cost][field])
                       for field in ("max_over_min", "log_deviation", "gini")))
        for name, rule in rules.items() for cost in rule["dispersion"]
    ]  # fmt: skip
    header = ("rule", "cost", "largest over smallest", "deviation of the logarithm", "Gini")
    return Table(header, rows)


def scripts(rule: Mapping[str, Any]) -> Table:
    """The geometric means of the premiums of every script's languages."""
    rows = [(script, *(said(premiums[cost]) for cost in ("byte", "word", "position")))
            for script, premiums in rule["scripts"].items()]  # fmt: skip
    return Table(("script", "byte premium", "word premium", "position premium"), rows)


def said(value: Mapping[str, Any]) -> str:
    """An interval of `hat evaluate fairness --json`."""
    return interval(Interval(**value))
