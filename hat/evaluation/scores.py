"""Scores of every item, stored as they are made, so that reports are computed without the model.

    OUT/items.jsonl         the items: a head, then a line for each
    OUT/scores/NAME.jsonl   what model NAME made of them: a head, then a line for each cell

A cell is one task under one perturbation at one rate and seed (clean text: none, 0 and 0). Its
line appears whole or not at all, and work that was stopped goes on with the cells that are missing.

The head of items.jsonl is {"schema": "hat-robustness-items", "version": 2}; its lines are
{"task", "kind", "id", "contexts", "continuations", "gold", "stop", "protect"}, as `tasks.Item` has
them, with texts as strings. The head of scores is {"schema": "hat-robustness-scores", "version": 3,
"model", "tasks", "misspellings", "apply_to"}: `ScoredModel`, the fingerprint of each task, that of
the list of misspellings, if there is one, and which part of the items is noised. The lines are
`Cell`s, field by field.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hat.errors import UserError
from hat.evaluation.tasks import Item, Task

ITEMS_SCHEMA, SCORES_SCHEMA = "hat-robustness-items", "hat-robustness-scores"
VERSIONS = {ITEMS_SCHEMA: 2, SCORES_SCHEMA: 3}
ITEMS_FILE, SCORES_FOLDER = "items.jsonl", "scores"


@dataclasses.dataclass(frozen=True)
class ScoredModel:
    """kind: `scoring.Scorer.kind`. run: the folder, as given; step: of its checkpoint."""

    name: str
    kind: str
    run: str
    step: int
    parameters: int


@dataclasses.dataclass(frozen=True)
class Cell:
    """What one model made of the n items of a task. Lists of n, in the order of the items.

    nats, likeliest, positions: of every choice, as in `scoring.Score`; empty lists for generation.
    num_bytes: of every choice as it was scored, noise and all; empty lists likewise. edit_distance:
    byte edits of everything that noise was put into: all contexts, all choices, or both. correct:
    of generation, whether an answer came; empty otherwise. truncated, straddled: how many texts
    were. spared: how many continuations stayed clean, as noise would have left nothing of them.
    """

    task: str
    perturbation: str | None
    rate: float
    seed: int
    nats: list[list[float]]
    likeliest: list[list[bool]]
    positions: list[list[int]]
    num_bytes: list[list[int]]
    edit_distance: list[int]
    correct: list[bool]
    truncated: int
    straddled: int
    spared: int

    @property
    def key(self) -> Key:
        return self.task, self.perturbation, self.rate, self.seed


Key = tuple[str, str | None, float, int]


@dataclasses.dataclass(frozen=True)
class Scores:
    """All that is stored of one model. tasks: fingerprints by name. apply_to: one of APPLY_TO
    (`perturbations`), the part of every item that is noised."""

    model: ScoredModel
    tasks: dict[str, str]
    misspellings: str | None
    cells: dict[Key, Cell]
    apply_to: str = "context"


class ScoreFile:
    """OUT/scores/NAME.jsonl, open to add cells. Closes as a context manager."""

    def __init__(self, path: Path, head: Scores):
        """Makes the file, or takes it up. UserError: it is of other items, another checkpoint,
        another list of misspellings or another part noised; it cannot be written."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and (whole := _whole_lines(path)):
            self.scores = read_scores(path)
            _refuse_other(path, self.scores, head)
            mode = "r+b"
        else:
            self.scores, whole, mode = head, 0, "wb"
        self._file = path.open(mode)
        self._file.truncate(whole)
        self._file.seek(whole)
        if not whole:
            self._write({
                "schema": SCORES_SCHEMA, "version": VERSIONS[SCORES_SCHEMA],
                "model": dataclasses.asdict(head.model), "tasks": head.tasks,
                "misspellings": head.misspellings, "apply_to": head.apply_to,
            })  # fmt: skip

    def add(self, cells: Sequence[Cell]) -> None:
        """Writes cells, and has them on disk when it returns."""
        for cell in cells:
            self._write(dataclasses.asdict(cell))
            self.scores.cells[cell.key] = cell
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> ScoreFile:
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()

    def _write(self, data: dict[str, Any]) -> None:
        self._file.write(json.dumps(data, separators=(",", ":")).encode() + b"\n")


def read_scores(path: Path) -> Scores:
    """The scores of a file; a line cut off by a kill is left out. UserError: it cannot be read or
    is no such file."""
    head, *lines = _read_lines(path, SCORES_SCHEMA)
    try:
        model = ScoredModel(**head["model"])
        cells = [Cell(**line) for line in lines]
        by_key = {cell.key: cell for cell in cells}
        return Scores(model, head["tasks"], head["misspellings"], by_key, head["apply_to"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and score again") from None


def items_text(tasks: Sequence[Task]) -> str:
    """What items.jsonl holds."""
    lines: list[dict[str, Any]] = [{"schema": ITEMS_SCHEMA, "version": VERSIONS[ITEMS_SCHEMA]}
    ]
    for task in tasks:
        for item in task.items:
            lines.append({
                "task": task.name, "kind": task.kind, "id": item.id,
                "contexts": [text.decode() for text in item.contexts],
                "continuations": [text.decode() for text in item.continuations],
                "gold": item.gold, "stop": item.stop.decode(), "protect": item.protect,
            })  # fmt: skip
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def read_items(path: Path) -> list[Task]:
    """The tasks of an items.jsonl. UserError: it cannot be read or is no such file."""
    found: dict[tuple[str, str], list[Item]] = {}
    try:
        for line in _read_lines(path, ITEMS_SCHEMA)[1:]:
            contexts, continuations = (tuple(text.encode() for text in line[name])
                                       for name in ("contexts", "continuations"))
            item = Item(line["id"], contexts, continuations, line["gold"], line["stop"].encode(),
                        tuple(line["protect"]))
            found.setdefault((line["task"], line["kind"]), []).append(item)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}); score again") from None
    return [Task(name, kind, tuple(items)) for (name, kind), items in found.items()]


def score_path(folder: Path, model: str) -> Path:
    """Where an evaluation in `folder` keeps the scores of a model."""
    return folder / SCORES_FOLDER / f"{model}.jsonl"


def read_folder(folder: Path) -> dict[Path, Scores]:
    """The scores of every model in an evaluation's folder. UserError: there are none."""
    found = started_scores(folder)
    if not found:
        raise UserError(f"no scores in {folder}; give the --out of an evaluation")
    return found


def started_scores(folder: Path) -> dict[Path, Scores]:
    """As `read_folder`, of a folder that may have none yet."""
    paths = sorted((folder / SCORES_FOLDER).glob("*.jsonl"))
    return {path: read_scores(path) for path in paths if _whole_lines(path)}


def complete_plan(
    tasks: Sequence[Task], all_scores: Sequence[Scores]
) -> tuple[list[str], list[float], int, list[str]]:
    """What can be compared: perturbations of which every model has all rates and seeds on all
    tasks, the rates, the number of seeds; and the perturbations left out."""
    keys = [set(scores.cells) for scores in all_scores]
    noised = [key for scores in all_scores for key in scores.cells if key[1] is not None]
    names = list(dict.fromkeys(key[1] for key in noised))
    rates = sorted({key[2] for key in noised})
    seeds = 1 + max((key[3] for key in noised), default=-1)
    complete = [
        name for name in names
        if all((task.name, name, rate, seed) in its_keys
               for its_keys in keys for task in tasks for rate in rates for seed in range(seeds))
    ]  # fmt: skip
    return complete, rates, seeds, [name for name in names if name not in complete]


def require_same_items(
    tasks: Sequence[Task], fingerprints: Mapping[str, Mapping[str, str]]
) -> None:
    """UserError unless everything in `fingerprints` (of tasks, by who was asked them) is of exactly
    these items: what is paired must be the same."""
    wanted = {task.name: task.fingerprint for task in tasks}
    for who, its in fingerprints.items():
        differing = sorted(name for name in wanted.keys() | its.keys()
                           if wanted.get(name) != its.get(name))
        if differing:
            raise UserError(
                f"{who} has other test items (task {', '.join(differing)}), and only the same "
                "items can be compared; score all models on the same files, or give another --out"
            )


def require_same_part(apply_to: str, others: Mapping[str, str]) -> None:
    """UserError unless everything in `others` (`apply_to` by who was asked) is of noise in the same
    part of the items: a continuation that is noised too is another text to score."""
    for who, its in others.items():
        if its != apply_to:
            raise UserError(
                f"{who} has noise in {_shown_part(its)}, not in {_shown_part(apply_to)}, and only "
                "the same can be compared; score all models with one --apply-to, or give another "
                "--out"
            )


def _shown_part(apply_to: str) -> str:
    return "context and continuation" if apply_to == "both" else f"the {apply_to}"


def _refuse_other(path: Path, old: Scores, new: Scores) -> None:
    if old.tasks != new.tasks:
        what = "other test items"
    elif old.misspellings != new.misspellings:
        what = "another list of misspellings"
    elif old.apply_to != new.apply_to:
        what = f"noise in {_shown_part(old.apply_to)}, not in {_shown_part(new.apply_to)}"
    elif (old.model.run, old.model.step) != (new.model.run, new.model.step):
        what = f"step {old.model.step} of {old.model.run}, not step {new.model.step} of " \
               f"{new.model.run}"
    else:
        return
    raise UserError(f"{path} scores {what}; give another --out")


def _whole_lines(path: Path) -> int:
    """The bytes of a file up to the end of its last whole line."""
    return path.read_bytes().rfind(b"\n") + 1


def _read_lines(path: Path, schema: str) -> list[dict[str, Any]]:
    try:
        data = path.read_bytes()
        lines = [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]
        head = (lines[0]["schema"], lines[0]["version"])
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give the --out of an evaluation")\
            from None
    except (ValueError, LookupError, TypeError):
        raise UserError(f"{path} holds no {schema}; remove it and score again") from None
    if head != (schema, VERSIONS[schema]):
        raise UserError(f"{path} is {head[0]} version {head[1]}, and this is {schema} version "
                        f"{VERSIONS[schema]}; score again")
    return lines
