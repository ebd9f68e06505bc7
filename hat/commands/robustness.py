"""How much noise in their contexts costs models, side by side on the same items.

Every item is asked on clean text and under every perturbation, rate and seed; its continuation, or
its choices, stay as they are. What counts first is the nats per byte that noise adds to the right
continuation: it is the same bytes for every model, and moves where accuracy does not. With
--apply-to continuation or both, continuations are noised as well: other texts, still the same for
every model, whose nats are over their noised bytes.

OUT holds items.jsonl and scores/NAME.jsonl (every score of every item; the same command goes on
where it was stopped) and, computed from them, results.json, report.html and report.md.
--from-scores computes these again, without a model, and puts models of several folders side by
side.

TASKS are JSONL files: {"context", "choices", "gold"}, {"context", "continuation"},
{"context_options", "continuation", "gold"} or {"prompt", "answers"}; hat/evaluation/tasks.py says
more. Perturbations: hat perturb --list.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hat.commands.arguments import positive_int
from hat.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="*",
                        help="the output folder of hat train or hat convert")
    parser.add_argument("--tasks", metavar="FILE", type=Path, nargs="+", action="extend",
                        default=[], help="JSONL files of test items")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True,
                        help="scores and results; the same folder resumes")
    parser.add_argument("--names", metavar="NAME", nargs="+", action="extend", default=[],
                        help='perturbations, families of them, or "all" (default: a choice of 15)')
    parser.add_argument("--rates", metavar="R", type=float, nargs="+",
                        help="rising shares of units to disturb (default: 0.02 0.05 0.1 0.2 0.4)")
    parser.add_argument("--seeds", metavar="N", type=positive_int,
                        help="perturbation seeds of every item, at least 5 (default: 5)")
    parser.add_argument("--apply-to", metavar="PART", choices=("context", "continuation", "both"),
                        help="what is noised: context, continuation or both (default: context)")
    parser.add_argument("--limit", metavar="N", type=positive_int,
                        help="only the first N items of every file")
    parser.add_argument("--misspellings", metavar="FILE", type=Path,
                        help="for the perturbation misspelling: lines such as 'recieve->receive'")
    parser.add_argument("--batch-size", metavar="N", type=positive_int, default=8,
                        help="rows that go through a model at a time (default: 8)")
    parser.add_argument("--from-scores", metavar="DIR", type=Path, nargs="+",
                        help="compute results from the scores of such folders, without a model")


def run(arguments: argparse.Namespace) -> dict:
    from hat.commands.report import write_report
    from hat.evaluation.report import render

    results = (recompute if arguments.from_scores else evaluate)(arguments)
    paths = write_report(render(results), arguments.out, overwrite=True)
    print(table(results))
    print("\n".join(map(str, paths)))
    return {
        "files": [str(path) for path in paths],
        "models": [model.name for model in results.models],
        "items": {task.name: task.items for task in results.tasks},
        "curves": [
            {"model": curve.model, "task": curve.task, "perturbation": curve.perturbation,
             **{name: interval._asdict() for name, interval in curve.metrics.items()}}
            for curve in results.curves
        ],
    }  # fmt: skip


def evaluate(arguments: argparse.Namespace):
    """Scores what is not scored yet, and gives the results of all."""
    from hat.data.records import write_file
    from hat.evaluation import robustness
    from hat.evaluation.scores import (
        ITEMS_FILE,
        ScoreFile,
        Scores,
        items_text,
        read_items,
        require_same_items,
        require_same_part,
        score_path,
        started_scores,
    )
    from hat.evaluation.summary import summarize
    from hat.evaluation.tasks import read_tasks

    if not arguments.runs or not arguments.tasks:
        raise UserError("give a RUN and --tasks FILE, or --from-scores DIR")
    tasks = read_tasks(arguments.tasks, arguments.limit)
    rates, seeds = arguments.rates or robustness.RATES, arguments.seeds or 5
    apply_to = arguments.apply_to or "context"
    robustness.check_plan(tasks, rates, seeds, apply_to)
    misspelling, fingerprint = read_misspelling(arguments.misspellings)
    names = arguments.names or robustness.NAMES
    perturbations = robustness.choose_perturbations(names, misspelling)
    items = arguments.out / ITEMS_FILE
    if items.exists():
        require_same_items(read_items(items), {
            "this command": {task.name: task.fingerprint for task in tasks}
        })  # fmt: skip
    started = started_scores(arguments.out)
    require_same_part(apply_to, {str(path): its.apply_to for path, its in started.items()})
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_file(items, items_text(tasks).encode())
    all_scores = []
    for path, name in zip(arguments.runs, model_names(arguments.runs)):
        scorer, model = load(path, name, arguments.batch_size)
        head = Scores(model, {task.name: task.fingerprint for task in tasks}, fingerprint, {},
                      apply_to)
        with ScoreFile(score_path(arguments.out, name), head) as file:
            score(scorer, file, tasks, perturbations, rates, seeds)
            all_scores.append(file.scores)
        del scorer  # one model in memory at a time
    return summarize(tasks, all_scores, perturbations, rates, seeds)


def score(scorer, file, tasks, perturbations, rates, seeds: int) -> None:
    """`score_cells`, with progress on standard error."""
    from hat.evaluation.robustness import cell_keys, score_cells
    from hat.training.progress import Progress

    keys = cell_keys(tasks, perturbations, rates, seeds)
    done = sum(key in file.scores.cells for key in keys)
    with Progress(file.scores.model.name, total=len(keys), unit="cells", done=done) as progress:
        score_cells(scorer, file, tasks, perturbations, rates, seeds, progress.update)


def recompute(arguments: argparse.Namespace):
    """The results of stored scores."""
    from hat.evaluation.robustness import check_plan, choose_perturbations
    from hat.evaluation.scores import ITEMS_FILE, complete_plan, read_folder, read_items
    from hat.evaluation.scores import require_same_items, require_same_part
    from hat.evaluation.summary import summarize
    from hat.training.progress import warn

    if arguments.runs or arguments.tasks or arguments.limit or arguments.apply_to:
        raise UserError("--from-scores takes no RUN, --tasks, --limit or --apply-to; leave them out")
    tasks = read_items(arguments.from_scores[0] / ITEMS_FILE)
    found = {path: s for folder in arguments.from_scores for path, s in read_folder(folder).items()}
    require_same_items(tasks, {str(path): scores.tasks for path, scores in found.items()})
    all_scores = list(found.values())
    apply_to = all_scores[0].apply_to
    require_same_part(apply_to, {str(path): scores.apply_to for path, scores in found.items()})
    twice = [s.model.name for s in all_scores]
    twice = {name for name in twice if twice.count(name) > 1}
    if twice:
        raise UserError(f"two models are called {twice.pop()}; rename the file of one")
    names, rates, seeds, left = complete_plan(tasks, all_scores)
    if left and not arguments.names:
        warn(f"left out, as not every model has all its scores: {', '.join(left)}")
    rates, seeds = arguments.rates or rates, arguments.seeds or seeds
    check_plan(tasks, rates, seeds, apply_to)
    misspelling, _ = read_misspelling(arguments.misspellings)
    perturbations = choose_perturbations(arguments.names or names, misspelling)
    arguments.out.mkdir(parents=True, exist_ok=True)
    return summarize(tasks, all_scores, perturbations, rates, seeds)


def load(path: Path, name: str, batch_size: int):
    """The scorer of a run, and what is written down about it."""
    from hat.evaluation.scores import ScoredModel
    from hat.evaluation.scoring import Scorer
    from hat.inference.run import load_run
    from hat.training.checkpoints import Checkpoints

    run = load_run(path)
    scorer = Scorer.of_run(run, batch_size=batch_size)
    checkpoints = Checkpoints(path, read_only=True)
    try:
        step = checkpoints.latest_step()
    finally:
        checkpoints.close()
    parameters = sum(run.model.parameter_counts().values())
    return scorer, ScoredModel(name, scorer.kind, str(path), step, parameters)


def model_names(runs: list[Path]) -> list[str]:
    """A name for each run: that of its folder, or as much of its path as tells them apart."""
    parts = [run.resolve().parts for run in runs]
    if len(set(parts)) < len(parts):
        raise UserError("a RUN is given twice; give each once")
    size = next(n for n in range(1, max(map(len, parts)) + 1)
                if len({p[-n:] for p in parts}) == len(parts))
    return ["-".join(part.strip("/") for part in p[-size:]) for p in parts]


def read_misspelling(path: Path | None):
    """The perturbation made of a list, and the list's fingerprint; None and None without one."""
    if path is None:
        return None, None
    import hashlib

    from hat.evaluation.perturbations import misspellings

    words = misspellings.read_misspellings(path)
    digest = hashlib.blake2b(repr(sorted(words.items())).encode(), digest_size=16)
    return misspellings.misspell(words), digest.hexdigest()


def table(results) -> str:
    """What noise costs, a line for each perturbation and a column for each model."""
    from hat.evaluation.results import ALL_TASKS, COSTS, CURVE_METRICS

    tasks = [task.name for task in results.tasks]
    task = ALL_TASKS if len(tasks) > 1 else tasks[0]
    metric = f"mean_{COSTS[results.apply_to]}"
    curves = {(c.perturbation, c.model): c.metrics[metric] for c in results.curves
              if c.task == task and metric in c.metrics}
    names = [model.name for model in results.models]
    width = max(26, *map(len, names))
    label = CURVE_METRICS[metric]
    lines = [f"{label.label}, {label.unit}, {task} [95 % interval]",
             f"{'':20}" + "".join(f"{name:>{width + 2}}" for name in names)]
    for perturbation in (p.name for p in results.perturbations):
        found = [curves.get((perturbation, name)) for name in names]
        lines.append(f"{perturbation:20}" + "".join(
            f"{'-' if x is None else f'{x.estimate:.4f} [{x.low:.4f}, {x.high:.4f}]':>{width + 2}}"
            for x in found))  # fmt: skip
    return "\n".join(lines)
