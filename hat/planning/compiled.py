"""A plan by compilation: the step that training would run, compiled by libtpu for absent chips."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import os
from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from hat.errors import UserError
from hat.planning.compiler import Overflow, compile_step
from hat.planning.formula import Plan
from hat.planning import hlo
from hat.planning.roofline import Traffic, step_times
from hat.planning.step import trace_step
from hat.planning.topology import Topology
from hat.training.experiment import Experiment
from hat.training.run_folder import write_atomically
from hat.training.sharding import AXES, make_mesh

# libtpu looks for the machine it runs on, and refuses to share it. Here there is none to find.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


def check_compiler(topology: Topology) -> None:
    """UserError if libtpu is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"compiling for {topology.name} needs libtpu, on any machine: pip install "
            "-c constraints.txt -e '.[tpu]'; or plan by formula alone: --formula"
        )


def pod_mesh(experiment: Experiment, topology: Topology) -> Mesh:
    """The mesh of `hat train` on the pod. UserError: sizes that do not divide its devices."""
    from jax.experimental import topologies

    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    devices = topologies.get_topology_desc(topology.name, "tpu").devices
    try:
        return make_mesh(experiment.training.mesh, devices)
    except NotImplementedError:  # no assignment to the torus is known for this shape
        shape = [getattr(experiment.training.mesh, axis) for axis in AXES]
        return Mesh(np.array(devices).reshape(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def lower_step(experiment: Experiment, topology: Topology) -> jax.stages.Lowered:
    """The step that `hat train` would run there, before the TPU compiler sees it."""
    return trace_step(experiment, pod_mesh(experiment, topology)).lower()


def plan_by_compiling(
    experiment: Experiment, formula: Plan, cache: Path, cycles: bool = False
) -> Plan:
    """The plan of `formula`, with what the compiler says in place of what the formulas say.

    cache: a folder; a step that has been compiled before is read from it. cycles: go on to machine
    code, for the compiler's own estimate of time: minutes in place of seconds.
    """
    topology = formula.topology
    lowered = lower_step(experiment, topology)
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "libtpu")]
    flags = os.environ.get("LIBTPU_INIT_ARGS", "")
    reader = Path(hlo.__file__).read_text(encoding="utf-8")  # facts are as good as it is
    program = "\n".join([topology.name, *versions, flags, str(cycles), reader, lowered.as_text()])
    path = cache / f"{hashlib.sha256(program.encode()).hexdigest()[:32]}.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        facts = _facts(experiment, topology, formula.mesh, cycles)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(facts))
    held = sum(formula.state.values())
    memory = formula.state | {"temporaries": facts["memory"] - held}
    if "traffic" not in facts:
        return dataclasses.replace(formula, memory=memory, compiled=True)
    work = dataclasses.replace(
        formula.work,
        hbm_bytes=facts["hbm_bytes"],
        traffic=tuple(Traffic(kind, tuple(axes), *rest) for kind, axes, *rest in facts["traffic"]),
        products=tuple(map(tuple, facts["products"])),
        cycles=facts["cycles"],
    )
    times = step_times(work, topology, formula.mesh)
    return dataclasses.replace(formula, memory=memory, work=work, times=times, compiled=True)


def _facts(experiment, topology, mesh: dict[str, int], cycles: bool) -> dict:
    try:
        program = compile_step(experiment, topology, to_the_end=cycles)
    except Overflow as overflow:
        return {"memory": overflow.args[0]}
    costs = hlo.read_costs(program.text, mesh)
    return {
        "memory": program.hbm_bytes,
        "hbm_bytes": costs.hbm_bytes,
        "products": [(one.flops * one.times, one.bytes * one.times) for one in costs.products],
        "cycles": costs.cycles if cycles else None,
        "traffic": [
            (one.kind, one.axes, one.bytes * one.times, one.hidden) for one in costs.collectives
        ],
    }
