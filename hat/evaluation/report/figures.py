"""The drawings of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hat.evaluation.report import svg
from hat.evaluation.report.blocks import Figure
from hat.evaluation.report.tables import curve_values
from hat.evaluation.report.wording import NONE, interval, metric
from hat.evaluation.results import Cell, Results
from hat.evaluation.statistics import Interval

ORIGIN = Interval(0.0, 0.0, 0.0, 0)  # of a metric of change, on clean text


def severity(results: Results, task: str, name: str) -> Figure | None:
    """A panel for each perturbation: the metric over the realised edits, a line for each model."""
    about, panels = metric(name), []
    noised = "text" if results.apply_to == "both" else results.apply_to
    for noise in results.perturbations:
        lines = []
        # Jitter edits nothing: its rate says how severe it is.
        edited = any(_edits(c) for c in results.cells if c.perturbation == noise.name)
        across = f"edits per byte of {noised}" if edited else f"rate, of every {noise.unit}"
        for index, model in enumerate(results.models):
            cells = [c for c in results.cells
                     if (c.model, c.task) == (model.name, task) and name in c.metrics
                     and c.perturbation in (None, noise.name)]  # fmt: skip
            points = sorted({_edits(c) if edited else c.rate: c.metrics[name]
                             for c in cells}.items())
            if all(c.perturbation is None for c in cells):
                continue
            if points[0][0] > 0:
                points.insert(0, (0.0, ORIGIN))
            x, values = zip(*points)
            lines.append(svg.Curve(
                model.name, svg.style(index), x, [v.estimate for v in values],
                [v.low for v in values], [v.high for v in values],
            ))  # fmt: skip
        if lines:
            unit = f"{about.label}, {about.unit}" if about.unit else about.label
            panels.append(svg.curves(noise.name, lines, across, unit))
    if not panels:
        return None
    caption = (
        f"{about.label}: {about.meaning}. Lines: estimates, at the rates "
        f"{', '.join(f'{rate:g}' for rate in results.rates)}; bands: "
        f"{100 * results.level:g} % intervals from resampled items, {results.seeds} perturbation "
        "seeds each. Across: the realised Damerau edits of bytes, by which perturbations can be "
        "compared, unlike by their rates."
    )
    return Figure(panels, caption, legend(results))


def heat_map(results: Results, task: str, name: str) -> Figure | None:
    """Perturbations by models; the deeper, the worse."""
    values, about = curve_values(results, task, name), metric(name)
    rows = [p.name for p in results.perturbations
            if any((p.name, m.name) in values for m in results.models)]  # fmt: skip
    if not rows:
        return None
    columns = [m.name for m in results.models]
    finite = [v.estimate for v in values.values() if math.isfinite(v.estimate)]
    low, high = 0.0, max(finite, default=0.0)  # a gain is as pale as no loss
    if about.better == "higher":
        low, high = max(finite, default=1.0), min([*finite, 1.0])

    def cell(row: str, column: str) -> svg.Cell:
        value = values.get((row, column))
        if value is None or not math.isfinite(value.estimate):
            return svg.Cell(NONE, None, f"{row}, {column}: not defined")
        shade = (value.estimate - low) / (high - low) if high != low else 0.0
        title = f"{row}, {column}: {interval(value, n=True)}"
        return svg.Cell(svg.number(value.estimate), shade, title)

    drawing = svg.heat_map(
        about.label, rows, columns, [[cell(row, column) for column in columns] for row in rows]
    )
    unit = f" ({about.unit})" if about.unit else ""
    caption = f"{about.label}{unit}: {about.meaning}. Deeper is worse; the intervals stand below."
    return Figure([drawing], caption)


def adaptation(results: Results) -> Figure | None:
    """Bits per byte of the new and of the first language over the bytes of continued training."""
    if not results.adaptations:
        return None
    styles = {model.name: svg.style(index) for index, model in enumerate(results.models)}
    extra = (a.model for a in results.adaptations if a.model not in styles)
    for name in dict.fromkeys(extra):
        styles[name] = svg.style(len(styles))
    panels = []
    for title, field in (("the new language", "new"), ("the first language", "first")):
        lines = [
            svg.Curve(a.model, styles[a.model], [b / 1e6 for b in a.bytes],
                      *([getattr(point, part) for point in getattr(a, field)]
                        for part in ("estimate", "low", "high")))
            for a in results.adaptations
        ]  # fmt: skip
        panels.append(svg.curves(title, lines, "MB trained on", "bits per byte"))
    caption = (
        f"Held-out text during continued training on another language. Bands: "
        f"{100 * results.level:g} % intervals from resampled pieces of that text, of one training "
        "run each."
    )
    return Figure(panels, caption, list(styles.items()))


def languages(fairness: Mapping[str, Any], cost: str) -> Figure:
    """A bar for each rule and language: its premium in one kind of cost."""
    rules = fairness["rules"]
    by_language: dict[str, list[svg.Bar]] = {}
    for index, (name, rule) in enumerate(rules.items()):
        for language in rule["languages"]:
            value = Interval(**language["premiums"][cost])
            bar = svg.Bar(name, svg.style(index), value.estimate, f"{value.estimate:.2f}",
                          value.low, value.high)
            by_language.setdefault(language["name"], []).append(bar)
    groups = sorted(by_language.items(), key=lambda item: (item[1][0].value, item[0]))
    caption = (
        f"{cost} premium: the cost of a language over that of {fairness['reference']}, as a ratio "
        f"of sums over the same {fairness['sentences']:,} sentences in every language. Lines: 95 % "
        "intervals from resampled sentences."
    )
    legend = [(name, svg.style(index)) for index, name in enumerate(rules)]
    return Figure([svg.bars(f"{cost} premium", groups)], caption, legend)


def legend(results: Results) -> list[tuple[str, svg.Style]]:
    return [(model.name, svg.style(index)) for index, model in enumerate(results.models)]


def _edits(cell: Cell) -> float:
    """Realised edits per byte; 0 on clean text, and where nothing is edited."""
    edits = cell.metrics.get("edit_rate")
    return 0.0 if edits is None else edits.estimate
