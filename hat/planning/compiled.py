"""A plan by compilation: the step that training would run, compiled by libtpu for absent chips."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from hat.errors import UserError
from hat.planning.formula import Plan
from hat.planning.hlo import read_costs
from hat.planning.roofline import Traffic, step_times
from hat.planning.step import trace_step
from hat.planning.topology import Topology
from hat.training.experiment import Experiment
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


def plan_by_compiling(experiment: Experiment, formula: Plan, cache: Path) -> Plan:
    """The plan of `formula`, with what the compiler says in place of what the formulas say.

    cache: a folder; a step that has been compiled before is read from it. Minutes otherwise.
    """
    topology = formula.topology
    lowered = trace_step(experiment, pod_mesh(experiment, topology)).lower()
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "libtpu")]
    program = "\n".join([topology.name, *versions, lowered.as_text()])
    path = cache / f"{hashlib.sha256(program.encode()).hexdigest()[:32]}.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        facts = _compile(lowered, formula.mesh)
        _write(path, facts)
    if "needed" in facts:
        return dataclasses.replace(
            formula, memory=formula.state | {"temporaries": facts["needed"]}, compiled=True
        )
    memory = facts["memory"]
    work = dataclasses.replace(
        formula.work,
        hbm_bytes=facts["hbm_bytes"],
        traffic=tuple(Traffic(kind, tuple(axes), *rest) for kind, axes, *rest in facts["traffic"]),
        cycles=facts["cycles"],
    )
    return dataclasses.replace(
        formula,
        memory=formula.state | {
            "other arguments": memory["arguments"] - sum(formula.state.values()),
            "temporaries": memory["temporaries"],
        },
        work=work,
        times=step_times(work, topology, formula.mesh),
        compiled=True,
    )


def _compile(lowered: jax.stages.Lowered, mesh: dict[str, int]) -> dict:
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        found = re.search(r"\(([\d.]+)([KMGT])\) exceeds available", str(error))
        if not found:
            raise
        return {"needed": float(found[1]) * 2.0 ** (10 * (1 + "KMGT".index(found[2])))}
    analysis, costs = compiled.memory_analysis(), read_costs(compiled.as_text(), mesh)
    return {
        "memory": {
            "arguments": analysis.argument_size_in_bytes,
            "temporaries": analysis.temp_size_in_bytes,
        },
        "hbm_bytes": costs.hbm_bytes,
        "cycles": costs.cycles,
        "traffic": [
            (one.kind, one.axes, one.bytes * one.times, one.hidden) for one in costs.collectives
        ],
    }


def _write(path: Path, facts: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(facts, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
