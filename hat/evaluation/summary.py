"""From stored scores to results: every number of a report, computed without a model.

All numbers but p-values and the calibration error are ratios of sums over items, so that one
bootstrap serves them: an item brings a sum over its seeds and a weight, and items are resampled.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hat.evaluation import metrics
from hat.evaluation.perturbations.core import Perturbation
from hat.evaluation.results import (
    ALL_TASKS,
    COSTS,
    CURVE_METRICS,
    Cell,
    Comparison,
    Curve,
    Model,
    Noise,
    Results,
    Task,
)
from hat.evaluation.scores import Scores, require_same_part
from hat.evaluation.statistics import (
    Interval,
    holm,
    mcnemar,
    percentile_interval,
    ratio_bootstrap,
    resampled_sums,
    sign_flips,
    wilson,
)
from hat.evaluation.table import Block, Table, make_table
from hat.evaluation.tasks import Task as Items
from hat.evaluation.worst import worst_examples

LEVEL = 0.95
# What two models are compared in, by what they have: noised, and on clean text.
COMPARED = ("noise_cost", "noised_text_cost", "accuracy", "likeliest", "exact_match")
COMPARED_CLEAN = ("bits_per_byte", "accuracy", "likeliest", "exact_match")
RATES = ("accuracy", "accuracy_per_byte", "likeliest", "exact_match", "consistency")
# Rates 0 or 1 of single items, for which clean text has an exact test.
RIGHT_OR_WRONG = ("accuracy", "likeliest", "exact_match")


class Ratio(NamedTuple):
    """float64 [n] and [n]: what every item adds to a sum, its seeds added up, and its weight."""

    sums: np.ndarray
    weights: np.ndarray


def summarize(
    tasks: Sequence[Items],
    all_scores: Sequence[Scores],
    perturbations: Sequence[Perturbation],
    rates: Sequence[float],
    seeds: int,
    notes: Sequence[str] = (),
) -> Results:
    """The results of models that were asked the same items, under all perturbations, rates and
    seeds in the same part of the items, without adaptations. UserError: another part."""
    apply_to = all_scores[0].apply_to
    require_same_part(apply_to, {scores.model.name: scores.apply_to for scores in all_scores})
    names = [p.name for p in perturbations]
    tables = {
        (scores.model.name, task.name): make_table(task, scores, names, rates, seeds)
        for scores in all_scores for task in tasks
    }  # fmt: skip
    models = tuple(_model(scores, tasks) for scores in all_scores)
    cells, curves, keyed = [], [], {}
    for model in models:
        its_tables = [tables[model.name, task.name] for task in tasks]
        for task, ratios in _ratios(its_tables, names, rates, COSTS[apply_to]).items():
            intervals = _intervals(ratios)
            for table in its_tables:
                if table.task.name == task and table.task.kind == "choices":
                    intervals.update(_calibration(table, names, rates))
            cells += _cells(model.name, task, names, rates, intervals)
            curves += _curves(model.name, task, names, intervals)
            keyed[model.name, task] = ratios
    return Results(
        rates=tuple(rates),
        seeds=seeds,
        level=LEVEL,
        apply_to=apply_to,
        models=models,
        tasks=tuple(
            Task(t.name, t.kind, len(t.items), t.chance, t.fingerprint,
                 _spared(tables[models[0].name, t.name]))
            for t in tasks
        ),
        perturbations=tuple(
            Noise(p.name, p.family, p.unit, p.summary, p.source, p.keeps_words, p.valid_utf8)
            for p in perturbations
        ),
        cells=tuple(cells),
        curves=tuple(curves),
        comparisons=tuple(_comparisons([m.name for m in models], keyed)),
        examples=tuple(
            example for model in models
            for example in worst_examples(
                model.name, tasks, tables, perturbations, rates, apply_to
            )
        ),
        notes=tuple(notes),
    )  # fmt: skip


def _spared(table: Table) -> int:
    """Of every model the same, as the noise is."""
    return sum(block.spared for blocks in table.noised for block in blocks)


def _model(scores: Scores, tasks: Sequence[Items]) -> Model:
    clean = {task.name: scores.cells[task.name, None, 0.0, 0] for task in tasks}
    return Model(
        scores.model.name, scores.model.kind, scores.model.run, scores.model.parameters,
        truncated={name: cell.truncated for name, cell in clean.items()},
        straddled={name: cell.straddled for name, cell in clean.items()},
    )  # fmt: skip


# --- what every item adds -----------------------------------------------------------------------

Where = tuple[str | None, float | None, str]  # perturbation, rate (None: all of them), metric


def _ratios(
    tables: Sequence[Table], names: Sequence[str], rates: Sequence[float], cost: str
) -> dict[str, dict[Where, Ratio]]:
    """The ratios of one model, by task and by where they belong; those in nats for ALL_TASKS too,
    where there are several tasks. cost: the name of what noise costs."""
    found = {table.task.name: _task_ratios(table, names, rates, cost) for table in tables}
    scored = [found[table.task.name] for table in tables if table.task.kind != "generation"]
    if len(tables) > 1 and scored:
        pooled = ("bits_per_byte", cost, "edit_rate", "position_ratio", f"mean_{cost}",
                  "edit_slope")  # fmt: skip
        found[ALL_TASKS] = {
            where: Ratio(*(np.concatenate(parts) for parts in zip(*(f[where] for f in scored))))
            for where in scored[0] if where[2] in pooled
        }  # fmt: skip
    return found


def _task_ratios(
    table: Table, names: Sequence[str], rates: Sequence[float], cost: str
) -> dict[Where, Ratio]:
    found: dict[Where, Ratio] = {}

    def add(name: str | None, rate: float | None, ratios: dict[str, Ratio]) -> None:
        found.update({(name, rate, metric): ratio for metric, ratio in ratios.items()})

    add(None, 0.0, _rights(table, table.clean))
    if table.scored:
        add(None, 0.0, {"bits_per_byte": _bits(table, table.clean)})
    for name, blocks in zip(names, table.noised):
        for rate, block in zip(rates, blocks):
            add(name, rate, _rights(table, block))
            add(name, rate, _changes(table, block, cost))
            if table.task.kind == "choices":
                add(name, rate, _choice_changes(table, block))
        add(name, None, _over_rates(table, blocks, rates, cost))
    return found


def _rights(table: Table, block: Block) -> dict[str, Ratio]:
    seeds = block.edits.shape[1]
    ones = np.ones(len(table.gold))
    return {name: Ratio(value / seeds, ones) for name, value in _right(table, block).items()}


def _changes(table: Table, block: Block, cost: str) -> dict[str, Ratio]:
    """What the noise is, and what it costs in nats."""
    seeds = float(table.seeds)
    found = {"edit_rate": Ratio(block.edits.sum(axis=1), table.noised_bytes * seeds)}
    if table.scored:
        sizes = table.gold_bytes(block)
        found[cost] = Ratio(table.cost(block).sum(axis=1), sizes.sum(axis=1))
        found["bits_per_byte"] = _bits(table, block)
        found["position_ratio"] = Ratio(
            block.positions.sum(axis=1), table.clean.positions[:, 0] * seeds
        )
    return found


def _right(table: Table, block: Block) -> dict[str, np.ndarray]:
    """float64[n]: over the seeds of a block, how often every item was right, by metric; the Brier
    score likewise."""
    if table.task.kind == "generation":
        return {"exact_match": block.correct.sum(axis=1, dtype=np.float64)}
    if table.task.kind == "continuation":
        return {"likeliest": block.likeliest[:, :, 0].sum(axis=1, dtype=np.float64)}
    gold, (n, seeds, most) = table.gold[:, None], block.nats.shape
    per_byte = block.nats / block.num_bytes
    probabilities = metrics.choice_probabilities(-block.nats.reshape(-1, most))
    one_hot = np.eye(most)[table.gold][:, None]
    return {
        "accuracy": (block.nats.argmin(axis=2) == gold).sum(axis=1, dtype=np.float64),
        "accuracy_per_byte": (per_byte.argmin(axis=2) == gold).sum(axis=1, dtype=np.float64),
        "brier": ((probabilities.reshape(n, seeds, most) - one_hot) ** 2).sum(axis=(1, 2)),
    }


def _bits(table: Table, block: Block) -> Ratio:
    """Bits per byte of the right continuations, over their bytes as they were scored."""
    nats, sizes = table.gold_nats(block), table.gold_bytes(block)
    return Ratio(nats.sum(axis=1) / math.log(2), sizes.sum(axis=1))


def _choice_changes(table: Table, block: Block) -> dict[str, Ratio]:
    """What compares the choices under noise with those on clean text."""
    clean, ones = table.clean.nats[:, 0], np.ones(len(table.gold))
    same = clean.argmin(axis=1)[:, None] == block.nats.argmin(axis=2)
    found = {"consistency": Ratio(same.mean(axis=1), ones)}
    chance = 1 / np.isfinite(clean).sum(axis=1)
    above = _right(table, table.clean)["accuracy"] - chance
    if above.mean() > 0:  # else there is nothing to keep: no robustness score (metrics.py)
        left = _right(table, block)["accuracy"] / table.seeds - chance
        found["robustness"] = Ratio(100 * left, above)
    counts = [len(item.continuations) for item in table.task.items]
    correlation = np.stack([
        metrics.kendall_tau_b(before[None, :count], after[:, :count])
        for before, after, count in zip(clean, block.nats, counts)
    ])  # fmt: skip
    known = np.isfinite(correlation)
    found["rank_correlation"] = Ratio(
        np.where(known, correlation, 0).sum(axis=1), known.sum(axis=1, dtype=np.float64)
    )
    return found


def _over_rates(
    table: Table, blocks: Sequence[Block], rates: Sequence[float], cost: str
) -> dict[str, Ratio]:
    """Means of the severity curve, by trapezoids from rate 0 to the largest, and the cost of an
    edit: the least-squares slope through the origin (`metrics.edit_slope`, of all at once)."""
    grid, ones = np.array([0.0, *rates]), np.ones(len(table.gold))
    found: dict[str, Ratio] = {}

    def mean(clean: np.ndarray, noised: Sequence[np.ndarray]) -> np.ndarray:
        return np.trapezoid(np.stack([clean, *noised]), grid, axis=0) / grid[-1]

    clean = _right(table, table.clean)
    noised = [_right(table, block) for block in blocks]
    for name in RIGHT_OR_WRONG:
        if name in clean:
            area = mean(clean[name], [right[name] / table.seeds for right in noised])
            found[f"mean_{name}"] = Ratio(area, ones)
            if name == "accuracy":
                found["accuracy_area"] = Ratio(area, clean[name])
    if table.scored:
        costs = [table.cost(block) for block in blocks]
        sizes = [table.gold_bytes(block) for block in blocks]
        clean_sizes = np.broadcast_to(table.gold_bytes(table.clean), sizes[0].shape)
        found[f"mean_{cost}"] = Ratio(mean(np.zeros(costs[0].shape), costs).sum(axis=1),
                                      mean(clean_sizes, sizes).sum(axis=1))  # fmt: skip
        change = np.stack(costs) / np.stack(sizes)
        edits = np.stack([block.edits for block in blocks])
        edits = edits / np.maximum(table.noised_bytes, 1)[:, None]
        found["edit_slope"] = Ratio((edits * change).sum(axis=(0, 2)), (edits**2).sum(axis=(0, 2)))
    return found


# --- intervals and tests ------------------------------------------------------------------------


def _intervals(ratios: dict[Where, Ratio]) -> dict[Where, Interval]:
    """Of every ratio; those of the same items resample the same. Rates of clean text have Wilson's
    interval, and so have those that are 0 or 1 in every item: resampled, they would seem sure."""
    sums, weights = (np.stack(parts, axis=1) for parts in zip(*ratios.values()))
    found = dict(zip(ratios, ratio_bootstrap(sums, weights, level=LEVEL)))
    for where, ratio in ratios.items():
        if where[2] in RATES:
            n, right = len(ratio.sums), float(ratio.sums.sum())
            if where[0] is None or right == 0 or (ratio.sums == 1).all():
                found[where] = wilson(round(right), n, LEVEL)
    return found


def _calibration(
    table: Table, names: Sequence[str], rates: Sequence[float]
) -> dict[Where, Interval]:
    """The calibration error of the likeliest choice, on clean text and under every noise. The bins
    are those of all items; resampled items stay in theirs."""
    blocks = {(None, 0.0): table.clean} | {
        (name, rate): block
        for name, its in zip(names, table.noised) for rate, block in zip(rates, its)
    }  # fmt: skip
    n, found = len(table.gold), {}
    for where, block in blocks.items():
        seeds, most = block.nats.shape[1:]
        probabilities = metrics.choice_probabilities(-block.nats.reshape(-1, most))
        right = (block.nats.argmin(axis=2) == table.gold[:, None]).ravel()
        gaps = metrics.calibration_gaps(probabilities.max(axis=1), right)
        gaps = gaps.reshape(n, seeds, -1).sum(axis=1)  # [n, bins]
        draws = np.abs(resampled_sums(gaps)).sum(axis=1) / (n * seeds)
        estimate = float(np.abs(gaps.sum(axis=0)).sum() / (n * seeds))
        found[*where, "calibration_error"] = percentile_interval(estimate, draws, n, LEVEL)
    return found


def _cells(model, task, names, rates, intervals: dict[Where, Interval]) -> list[Cell]:
    places = [(None, 0.0), *itertools.product(names, rates)]
    return [
        Cell(model, task, name, rate,
             {metric: interval for (n, r, metric), interval in intervals.items()
              if (n, r) == (name, rate)})
        for name, rate in places
    ]  # fmt: skip


def _curves(model, task, names, intervals: dict[Where, Interval]) -> list[Curve]:
    return [
        Curve(model, task, name,
              {metric: intervals[name, None, metric] for metric in CURVE_METRICS
               if (name, None, metric) in intervals})
        for name in names
    ]  # fmt: skip


def _comparisons(models: Sequence[str], keyed) -> list[Comparison]:
    """Of every two models, wherever both have the ratio. A family of tests that are adjusted
    together: one pair, one metric, one rate (or clean text, or all rates), all tasks and noises."""
    found: list[Comparison] = []
    for first, second in itertools.combinations(models, 2):
        families: dict[tuple, list[Comparison]] = {}
        for model, task in keyed:
            if model == first and task != ALL_TASKS:
                for comparison in _compare(first, second, task, keyed[first, task],
                                           keyed[second, task]):
                    family = comparison.metric, comparison.rate
                    families.setdefault(family, []).append(comparison)
        for members in families.values():
            adjusted = holm([comparison.p_value for comparison in members]).tolist()
            found += [dataclasses.replace(comparison, p_holm=p)
                      for comparison, p in zip(members, adjusted)]
    return found


def _compare(first, second, task, ones: dict[Where, Ratio], others: dict[Where, Ratio]):
    """Two models on one task, wherever they are compared; p_holm is still to come."""
    places = [where for where in ones if _compared(where) is not None]
    differences = np.stack([others[w].sums - ones[w].sums for w in places], axis=1)
    weights = np.stack([ones[w].weights for w in places], axis=1)
    intervals = ratio_bootstrap(differences, weights, level=LEVEL)
    for where, interval, p in zip(places, intervals, sign_flips(differences).tolist()):
        name, rate, metric = where[0], where[1], _compared(where)
        test = "sign-flip"
        if name is None and metric in RIGHT_OR_WRONG:
            test, p = "mcnemar", mcnemar(ones[where].sums > 0.5, others[where].sums > 0.5)
        yield Comparison(first, second, task, name, rate, metric, interval, test, p, math.nan)


def _compared(where: Where) -> str | None:
    """The metric as a comparison names it, or None where models are not compared in it."""
    name, rate, metric = where
    if rate is None:
        metric = metric.removeprefix("mean_") if metric.startswith("mean_") else ""
    return metric if metric in (COMPARED_CLEAN if name is None else COMPARED) else None
