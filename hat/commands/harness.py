"""Runs tasks of lm-evaluation-harness on a trained model.

It needs the extra [eval]: pip install -e '.[eval]'. Tasks are YAML files; three small ones come
with this program and need no download (hat_agreement, hat_prose, hat_spelling), yours are found
with --include. The harness's own tasks name data sets of a hub: nothing is downloaded unless
HF_HUB_OFFLINE=0 is set. A limit of generation in tokens is taken as 4 bytes a token, for every
model, and half the model's context at most.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from hat.commands.arguments import positive_int
from hat.errors import UserError

NO_METRICS = ("alias", "sample_len", "name", "sample_count")  # of a result, and no metric


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="the output folder of hat train")
    parser.add_argument("--tasks", metavar="NAME", nargs="+", action="extend", required=True)
    parser.add_argument("--include", metavar="DIR", type=Path, action="append", default=[],
                        help="a folder of task files; may be given several times")
    parser.add_argument("--limit", metavar="N", type=positive_int, help="items of each task")
    parser.add_argument("--num-fewshot", metavar="N", type=int,
                        help="solved items before each item (default: what the task says)")
    parser.add_argument("--batch-size", metavar="N", type=positive_int, default=8,
                        help="rows at a time (default: 8)")
    parser.add_argument("--out", metavar="FILE", type=Path,
                        help="a new file for the harness's results and the answers to every item")


def run(arguments: argparse.Namespace) -> dict:
    out = arguments.out
    if out is not None and out.exists():
        raise UserError(f"{out} is there already; choose another --out or remove it")
    for folder in arguments.include:
        if not folder.is_dir():
            raise UserError(f"--include {folder}: no such folder")
    try:
        from hat.evaluation.harness import evaluate
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("lm_eval"):
            raise
        raise UserError("lm-evaluation-harness is not installed; pip install -e '.[eval]'") from None
    from hat.cli import plain
    from hat.data.records import write_file
    from hat.evaluation.scoring import Scorer
    from hat.inference.run import load_run

    loaded = load_run(arguments.run)
    found = evaluate(
        Scorer.of_run(loaded, batch_size=arguments.batch_size),
        arguments.tasks,
        max_bytes=loaded.experiment.data.row_length // 2,
        include=arguments.include,
        limit=arguments.limit,
        num_fewshot=arguments.num_fewshot,
    )
    counts = found["n-samples"]
    results = {task: {"n": counts[task]["effective"], **metrics(values)}
               for task, values in found["results"].items() if task in counts}  # fmt: skip
    for task, values in results.items():
        for name in (name for name in values if "_stderr" not in name and name != "n"):
            error = values.get(name.replace(",", "_stderr,"))
            spread = f" ± {error:.4f}" if isinstance(error, float) else ""
            print(f"{task:<24} {name:<24} {values[name]:.4f}{spread}   n = {values['n']:,}")
    if out is not None:
        kept = {key: found[key] for key in ("results", "versions", "n-shot", "n-samples", "samples")}
        write_file(out, (json.dumps(plain(kept), indent=1, default=str) + "\n").encode())
        print(out)
    return {"run": str(arguments.run), "tasks": results, "out": out}


def metrics(values: dict) -> dict:
    """The numbers of a task, by the harness's names such as "acc,none"."""
    return {name: value for name, value in values.items()
            if name not in NO_METRICS and isinstance(value, (int, float))}  # fmt: skip
