"""Every sensible way to lay a step out on a pod, ranked: by formula first, the best by compiling."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

from hat.errors import UserError
from hat.planning.formula import Plan, plan_by_formula
from hat.planning.step import Outline
from hat.planning.topology import Topology
from hat.training.config import MeshConfig
from hat.training.experiment import Experiment

REMATS = ("full", "attention", "dots", "none")
LARGEST_TENSOR = 16
LARGEST_MICROBATCH = 8  # rows of a chip
BATCH_FACTORS = (0.5, 1, 2)  # of the experiment's batch


def sweep(
    experiment: Experiment,
    topology: Topology,
    outlines: dict[str, Outline],
    compile_best: int,
    compile_plan: Callable[[Experiment, Plan], Plan],
    say: Callable[[str], None],
) -> list[Plan]:
    """Plans that fit, the fastest first; those that were compiled and then did not fit, last.

    outlines: by remat policy. compile_plan turns the plan of an experiment by formula into a
    compiled one; it is given the best by formula until `compile_best` of them have fit, three
    times as many at most. UserError: nothing fits, by formula.
    """
    found = []
    for candidate in candidates(experiment, topology):
        try:
            plan = plan_by_formula(candidate, topology, outlines[candidate.model.remat])
        except UserError:
            continue  # this mesh does not divide the model
        found.append((candidate, plan))
    say(f"{len(found)} layouts by formula, {sum(plan.fits for _, plan in found)} fit")
    if not any(plan.fits for _, plan in found):
        least = min((plan for _, plan in found), key=lambda plan: plan.memory_bytes, default=None)
        needs = f"; the smallest needs {least.memory_bytes / 1e9:.1f} GB" if least else ""
        raise UserError(
            f"no layout of {experiment.name} fits {topology.name} with "
            f"{topology.usable_bytes / 1e9:.1f} GB a chip{needs}; take more chips, or shorter rows "
            "(data.row_length, data.row_words)"
        )
    plans, fit, tried = [], 0, 0
    for candidate, plan in best_of_each_mesh(found):
        if fit < compile_best and tried < 3 * compile_best:
            tried += 1
            say(f"compiling {tried}: {describe(plan)}")
            plan = compile_plan(candidate, plan)
            fit += plan.fits
        plans.append(plan)
    return sorted(plans, key=lambda plan: (not plan.fits, -plan.positions_per_second))


def best_of_each_mesh(found: list[tuple[Experiment, Plan]]) -> list[tuple[Experiment, Plan]]:
    """Of every mesh and remat policy the fastest batch that fits, the fastest mesh first. Of two
    within half a percent, the smaller batch, and then the one that needs less memory."""
    best: dict[tuple, tuple[Experiment, Plan]] = {}
    for candidate, plan in sorted(
        (pair for pair in found if pair[1].fits),
        key=lambda pair: (
            -round(math.log(pair[1].positions_per_second) / 0.005),
            pair[1].batch_size,
            pair[1].memory_bytes,
        ),
    ):
        best.setdefault((*plan.mesh.values(), plan.remat), (candidate, plan))
    return list(best.values())


def describe(plan: Plan) -> str:
    mesh = " ".join(f"{axis}={size}" for axis, size in plan.mesh.items())
    return (
        f"{mesh} remat={plan.remat} batch_size={plan.batch_size} "
        f"accumulation_steps={plan.accumulation_steps}"
    )


def candidates(experiment: Experiment, topology: Topology) -> Iterator[Experiment]:
    """The experiment with every mesh, remat policy, batch size and micro-batch worth a look."""
    chips, training = topology.num_chips, experiment.training
    for tensor in _divisors(chips, LARGEST_TENSOR):
        for fsdp in _divisors(chips // tensor, chips):
            mesh = MeshConfig(chips // tensor // fsdp, fsdp, tensor)
            for factor in BATCH_FACTORS:
                batch = int(training.batch_size * factor)
                if batch % (chips // tensor):
                    continue
                rows = batch * tensor // chips
                for micro in _divisors(rows, LARGEST_MICROBATCH):
                    for remat in REMATS:
                        yield dataclasses.replace(
                            experiment,
                            model=dataclasses.replace(experiment.model, remat=remat),
                            training=dataclasses.replace(
                                training, mesh=mesh, batch_size=batch,
                                accumulation_steps=rows // micro,
                            ),
                        )  # fmt: skip


def _divisors(number: int, largest: int) -> list[int]:
    return [n for n in range(1, min(number, largest) + 1) if number % n == 0]
