"""Predicts how the training step of a config runs on a pod or cluster that is not there.

For TPU pods the real step is compiled with libtpu, which needs no TPU: memory per chip, FLOPs,
bytes and collectives are then the compiler's; a minute on a laptop. GPU clusters, and pods with
--formula, are planned by formulas in seconds. Times are predictions; the output says how far to
trust them.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from hat.commands.arguments import add_experiment, positive_int, read_experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment(parser)
    parser.add_argument("--topology", metavar="NAME", required=True,
                        help="chips, as in v5p:8x8x8, v5e:16x16, v6e:16x16 or h100:64")
    parser.add_argument("--formula", action="store_true",
                        help="by formula alone: seconds, and less certain")
    parser.add_argument("--cycles", action="store_true",
                        help="compile to the end, for the compiler's own estimate of time: minutes")
    parser.add_argument("--sweep", action="store_true",
                        help="rank mesh shapes, remat policies and batch sizes by formula, "
                             "then compile the best")
    parser.add_argument("--compile", metavar="N", type=positive_int, default=2,
                        help="with --sweep: go on until N compiled layouts fit (default: 2)")
    parser.add_argument("--top", metavar="N", type=positive_int, default=10,
                        help="with --sweep: rows to print (default: 10)")


def run(arguments: argparse.Namespace) -> dict:
    os.environ["JAX_PLATFORMS"] = "cpu"  # the machine's own accelerators have no part in this
    experiment = read_experiment(arguments)
    from hat.errors import UserError
    from hat.launching.flags import tpu_environment
    from hat.planning import compiled, report
    from hat.planning.formula import plan_by_formula
    from hat.planning.step import outline
    from hat.planning.sweep import REMATS, sweep
    from hat.planning.topology import parse_topology

    topology = parse_topology(arguments.topology)
    by_formula = arguments.formula or not topology.is_pod
    if not by_formula:
        compiled.check_compiler(topology)
        for name, value in tpu_environment(topology.chip.name).items():
            os.environ.setdefault(name, value)  # the compiler flags of a launch
    cache = Path(os.environ.get("HAT_CACHE") or Path.home() / ".cache" / "hat") / "plans"

    def say(line: str) -> None:
        print(f"hat plan: {line}", file=sys.stderr, flush=True)

    def compile_plan(experiment, plan):
        return compiled.plan_by_compiling(experiment, plan, cache, arguments.cycles)

    if arguments.sweep:
        outlines = {remat: outline(_with_remat(experiment, remat), topology) for remat in REMATS}
        count = 0 if by_formula else arguments.compile
        plans = sweep(experiment, topology, outlines, count, compile_plan, say)
        plans = plans[: arguments.top]
        print(f"{experiment.name} on {topology.name}; {report.UNCERTAINTY}\n")
        print(report.table(plans))
        return {"name": experiment.name, "plans": [report.as_dict(plan) for plan in plans]}

    plan = plan_by_formula(experiment, topology, outline(experiment, topology))
    if not by_formula and plan.can_fit:
        say(f"compiling for {topology.num_chips} chips: a minute or two, unless done before")
        plan = compile_plan(experiment, plan)
    if not plan.fits:
        raise UserError(report.shortfall(plan))
    print(report.text(experiment.name, plan))
    return {"name": experiment.name, **report.as_dict(plan)}


def _with_remat(experiment, remat: str):
    import dataclasses

    return dataclasses.replace(
        experiment, model=dataclasses.replace(experiment.model, remat=remat)
    )
