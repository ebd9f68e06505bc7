"""Results of two models that were never run, for the tests of reports."""

from __future__ import annotations

import math

from hat.evaluation.results import (
    ALL_TASKS,
    Adaptation,
    Cell,
    Comparison,
    Curve,
    Example,
    Model,
    Noise,
    Results,
    Task,
)
from hat.evaluation.statistics import Interval

BYTES, SUBWORD = "HAT <1>", "BPE|4k"  # names that HTML and Markdown must escape
NOISES = ("keyboard", "drop", "uppercase")
RATES = (0.1, 0.2)
TASK = "copa"


def interval(estimate: float, reach: float = 0.01, n: int = 40) -> Interval:
    return Interval(estimate, estimate - reach, estimate + reach, n)


def cost(model: str, noise: str, rate: float) -> Interval:
    """The subword model loses twice as much; nobody minds capital letters."""
    size = {"keyboard": 1.0, "drop": 0.5, "uppercase": 0.0}[noise]
    return interval(size * rate * (1 if model == BYTES else 2))


def comparison(noise: str | None, difference: float, p_holm: float, **changes) -> Comparison:
    values = dict(
        first=BYTES, second=SUBWORD, task=TASK, perturbation=noise, rate=None,
        metric="noise_cost", difference=interval(difference), test="sign-flip",
        p_value=p_holm / 3, p_holm=p_holm,
    )  # fmt: skip
    return Comparison(**{**values, **changes})


def adaptation(model, new, first, bytes_to_recover: Interval, retention: float) -> Adaptation:
    new, first = (tuple(map(interval, values)) for values in (new, first))
    return Adaptation(model, "German", (0, 1_000_000), new, first, 2.2, bytes_to_recover,
                      interval(retention))


def results() -> Results:
    cells, curves = [], []
    for model in (BYTES, SUBWORD):
        for task in (ALL_TASKS, TASK):
            clean = {"bits_per_byte": interval(1.9 if model == BYTES else 1.85)}
            if task == TASK:
                clean["accuracy"] = interval(0.7, 0.05)
            cells.append(Cell(model, task, None, 0.0, clean))
            for noise in NOISES:
                for rate in RATES:
                    metrics = {"noise_cost": cost(model, noise, rate),
                               "edit_rate": interval(0.8 * rate)}  # fmt: skip
                    if task == TASK:
                        metrics["accuracy"] = interval(0.7 - rate, 0.05)
                        metrics["robustness"] = Interval(math.nan, math.nan, math.nan, 40)
                    cells.append(Cell(model, task, noise, rate, metrics))
                mean = {"mean_noise_cost": cost(model, noise, 0.15)}
                curves.append(Curve(model, task, noise, mean))
    context, edits = b"the cat sat on the mat", ((4, 7, b"cta"), (12, 12, "\u202e".encode()))
    return Results(
        rates=RATES,
        seeds=5,
        level=0.95,
        apply_to="context",
        models=(
            Model(BYTES, "hat", "runs/hat", 1_234_567, {TASK: 2}, {TASK: 0}),
            Model(SUBWORD, "subword", "runs/bpe", 2_345_678, {TASK: 0}, {TASK: 3}),
        ),
        tasks=(Task(TASK, "choices", 40, 0.5, "f" * 8),),
        perturbations=tuple(
            Noise(name, "typos", "character", f"{name} noise", "of these tests", True, True)
            for name in NOISES
        ),
        cells=tuple(cells),
        curves=tuple(curves),
        comparisons=(
            comparison(None, -0.05, 0.004, metric="bits_per_byte", rate=0.0),
            comparison("keyboard", 0.15, 0.003),
            comparison("drop", 0.075, 0.0),
            comparison("uppercase", 0.0, 1.0),
        ),
        examples=(
            Example(SUBWORD, TASK, "copa-7", "keyboard", 0.1, 3, context, edits, b" & ran.", (), 3.0,
                    9.5),
        ),
        adaptations=(
            adaptation(BYTES, (3.0, 2.0), (1.9, 2.1), interval(700_000.0, 90_000.0), 0.905),
            adaptation(SUBWORD, (4.0, 2.5), (1.85, 2.4), Interval(*[math.nan] * 3, 40), 0.771),
        ),
        notes=("Trained on the same bytes.",),
    )  # fmt: skip
