"""What a robustness evaluation found: `results.json`, and what its fields mean.

The file is computed from stored scores (`hat.evaluation.scores`), and reports are rendered from it
alone. Every number is an Interval: estimate, low, high (95 % from resampled items, all seeds of an
item together) and n, the number of items. A number that is not defined is NaN, null in the file.

    Results
      models          what was compared, in the order given
      tasks           the items they were asked
      apply_to        the part of the items that was noised: context, continuation or both
      perturbations   what was done to it
      cells           model x task x perturbation x rate; perturbation None, rate 0: the clean text
      curves          model x task x perturbation, over all rates
      comparisons     two models, on the same items
      examples        items that suffered most
      adaptations     continued training on another language, where that was done

A task of cells, curves and comparisons may be ALL_TASKS: the items of all tasks in one, for metrics
in nats. Continuations are the same bytes for every model, and, unless they were noised themselves,
under every noise.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from pathlib import Path
from typing import Any, NamedTuple

from hat.errors import UserError
from hat.evaluation.statistics import Interval

SCHEMA, VERSION = "hat-robustness", 3
ALL_TASKS = "all tasks"
# What noise costs in nats per byte, by apply_to: over bytes that stay, or over other ones.
COSTS = {"context": "noise_cost", "continuation": "noised_text_cost", "both": "noised_text_cost"}


class Metric(NamedTuple):
    """How to read a number. better: "lower", "higher" or "" (neither)."""

    label: str
    unit: str
    better: str
    meaning: str


# Of cells. Those of items with a right choice: accuracy to calibration_error; `likeliest` and
# `exact_match` are of other kinds of task. A cell has the metrics of its task's kind.
METRICS = {
    "noise_cost": Metric(
        "context noise cost", "nats/byte", "lower",
        "what noise in the context adds to the unchanged continuation (the right choice)",
    ),
    "noised_text_cost": Metric(
        "noised text cost", "nats/byte", "lower",
        "nats per byte of the noised continuation (the right choice), over its noised bytes, less "
        "those of the clean one, over its clean bytes; items count by their noised bytes",
    ),
    "bits_per_byte": Metric(
        "bits per byte", "bits/byte", "lower",
        "of the continuation (the right choice), over its bytes as scored",
    ),
    "accuracy": Metric("accuracy", "", "higher", "share of items whose likeliest choice is right"),
    "accuracy_per_byte": Metric(
        "accuracy per byte", "", "higher", "the same by log-likelihood over the choice's bytes"
    ),
    "robustness": Metric(
        "robustness score", "%", "higher",
        "accuracy above chance that is left, of that on clean text (H-Net, arXiv 2507.07955)",
    ),
    "consistency": Metric("consistency", "", "higher", "share of items with the same choice"),
    "rank_correlation": Metric(
        "rank correlation", "tau-b", "higher", "of the choices' scores, clean and noised"
    ),
    "brier": Metric("Brier score", "", "lower", "squared error of the choices' probabilities"),
    "calibration_error": Metric(
        "calibration error", "", "lower",
        "distance of confidence from accuracy, over 15 bins of equal mass (ECE)",
    ),
    "likeliest": Metric(
        "cloze accuracy", "", "higher", "share of continuations likeliest id by id"
    ),
    "exact_match": Metric("exact match", "", "higher", "share of answers generated as given"),
    "edit_rate": Metric(
        "realised edits", "edits/byte", "",
        "Damerau edits of bytes per byte of the part that was noised",
    ),
    "position_ratio": Metric(
        "positions", "x clean", "", "backbone steps (words or tokens) over those of the clean text"
    ),
}  # fmt: skip

# Of curves: over all rates of one perturbation.
CURVE_METRICS = {
    "mean_noise_cost": Metric(
        "mean noise cost", "nats/byte", "lower", "noise cost over rates 0 to the largest, averaged"
    ),
    "mean_noised_text_cost": Metric(
        "mean noised text cost", "nats/byte", "lower",
        "noised text cost over rates 0 to the largest, nats and noised bytes averaged",
    ),
    "accuracy_area": Metric(
        "area under accuracy", "x clean", "higher",
        "accuracy over rates 0 to the largest, averaged, over clean accuracy",
    ),
    "edit_slope": Metric(
        "cost per edit", "nats/edit", "lower",
        "least-squares slope of noise cost over the realised edit rate, through the origin",
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Model:
    """kind: "hat", "subword" or "bytes" (a flat byte-level Llama). truncated: of the clean texts,
    how many were longer than the context and lost their beginning, by task. straddled: of the clean
    texts, how many have a token that holds both context and continuation (it counts as the
    latter), by task."""

    name: str
    kind: str
    run: str
    parameters: int
    truncated: dict[str, int]
    straddled: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Task:
    """kind: "choices", "continuation" or "generation". chance: accuracy of guessing, NaN without
    choices. fingerprint: of all items. spared: continuations, over all noises, rates and seeds, that
    were left clean, as noise would have left nothing of them."""

    name: str
    kind: str
    items: int
    chance: float
    fingerprint: str
    spared: int = 0


@dataclasses.dataclass(frozen=True)
class Noise:
    """A perturbation, as `hat perturb --list` describes it."""

    name: str
    family: str
    unit: str
    summary: str
    source: str
    keeps_words: bool
    valid_utf8: bool


@dataclasses.dataclass(frozen=True)
class Cell:
    """metrics: by the names of METRICS. perturbation None, rate 0: the clean text, which has no
    metric of change."""

    model: str
    task: str
    perturbation: str | None
    rate: float
    metrics: dict[str, Interval]


@dataclasses.dataclass(frozen=True)
class Curve:
    """metrics: by the names of CURVE_METRICS."""

    model: str
    task: str
    perturbation: str
    metrics: dict[str, Interval]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """difference: `second` less `first` in the metric, on the same items.

    perturbation None: clean text (rate 0). rate None: the mean over all rates of the perturbation.
    test: "sign-flip" or "mcnemar". p_value: that there is no difference; p_holm: adjusted for all
    comparisons of these two models in this metric that have the same `rate`.
    """

    first: str
    second: str
    task: str
    perturbation: str | None
    rate: float | None
    metric: str
    difference: Interval
    test: str
    p_value: float
    p_holm: float


@dataclasses.dataclass(frozen=True)
class Example:
    """An item under noise. edits, continuation_edits: (start, end, replacement) of bytes of the
    context and of the continuation, both clean, ascending. nats of the continuation in clean and in
    noised text."""

    model: str
    task: str
    item: str
    perturbation: str
    rate: float
    seed: int
    context: bytes
    edits: tuple[tuple[int, int, bytes], ...]
    continuation: bytes
    continuation_edits: tuple[tuple[int, int, bytes], ...]
    clean_nats: float
    noised_nats: float


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """Continued training of a model on another language.

    bytes: trained on in the new language, ascending from 0; new and first: bits per byte of
    held-out text in the new language and in the first, after so many. target: bits per byte in the
    new language that counts as recovered; bytes_to_recover: NaN where it was not reached, at an end
    of the interval where resampled text does not reach it. retention: bits per byte in the first
    language before, over those after. n of an interval: pieces of held-out text, which are
    resampled (`hat.evaluation.adaptation`).
    """

    model: str
    language: str
    bytes: tuple[int, ...]
    new: tuple[Interval, ...]
    first: tuple[Interval, ...]
    target: float
    bytes_to_recover: Interval
    retention: Interval


@dataclasses.dataclass(frozen=True)
class Results:
    """All of it. rates: without the 0 of clean text. seeds: of the perturbations, 0 to seeds - 1.
    level: of the intervals. apply_to: the part of the items that was noised. notes: sentences about
    how it was done, for the report."""

    rates: tuple[float, ...]
    seeds: int
    level: float
    apply_to: str
    models: tuple[Model, ...]
    tasks: tuple[Task, ...]
    perturbations: tuple[Noise, ...]
    cells: tuple[Cell, ...]
    curves: tuple[Curve, ...]
    comparisons: tuple[Comparison, ...]
    examples: tuple[Example, ...]
    adaptations: tuple[Adaptation, ...] = ()
    notes: tuple[str, ...] = ()


def to_json(results: Results) -> str:
    """The text of results.json: the same results, the same bytes."""
    data = {"schema": SCHEMA, "version": VERSION, **plain(results)}
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str, name: str = "results.json") -> Results:
    """The results of `to_json`. UserError, with the name of the file: other JSON, another schema
    or version, a field missing."""
    try:
        data = json.loads(text)
        schema, version = data.pop("schema"), data.pop("version")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{name} holds no robustness results; give a results.json") from None
    if (schema, version) != (SCHEMA, VERSION):
        raise UserError(
            f"{name} is {schema} version {version}, and this is {SCHEMA} version {VERSION}; "
            "compute it again from its scores"
        )
    try:
        return _build(Results, data)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{name} is damaged ({error}); compute it again from its scores") from None


def read(path: Path) -> Results:
    """The results of a file. UserError: it cannot be read, or holds something else."""
    try:
        return from_json(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"cannot read {path}: {reason}; give a results.json") from None


def plain(value: Any) -> Any:
    """As JSON has it: bytes in hexadecimal, NaN and infinities as null."""
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Interval):
        return {name: plain(item) for name, item in value._asdict().items()}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _build(kind: Any, value: Any) -> Any:
    """The value of that type that `plain` wrote."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:  # str | None, float | None
        return None if value is None else _build(arguments[0], value)
    if origin is tuple:
        each = [arguments[0]] * len(value) if arguments[-1] is ... else arguments
        return tuple(_build(item_kind, item) for item_kind, item in zip(each, value, strict=True))
    if origin is dict:
        return {key: _build(arguments[1], item) for key, item in value.items()}
    if dataclasses.is_dataclass(kind) or kind is Interval:
        hints = typing.get_type_hints(kind)
        unknown = set(value) ^ set(hints)
        if unknown:
            raise ValueError(f"{kind.__name__}: {', '.join(sorted(unknown))}")
        return kind(**{name: _build(hints[name], value[name]) for name in hints})
    if kind is bytes:
        return bytes.fromhex(value)
    if kind is float:
        return math.nan if value is None else float(value)
    if type(value) is not kind:
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value
