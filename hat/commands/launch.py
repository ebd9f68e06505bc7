"""Starts the run that a run description names: on this machine, or by scripts for a cluster.

TARGET is local, tpu-vm, gke or slurm. `local` runs N processes here and starts them again when
one dies. The others are rendered: --print shows the scripts and manifests, --write DIR writes
them, and launch/README.md says what to do with them. Nothing here talks to a cloud.

The same command again goes on with the same run: its name is its identity.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from hat.config import load, override
from hat.errors import UserError

TARGETS = ("local", "tpu-vm", "gke", "slurm")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET", choices=TARGETS, help=", ".join(TARGETS))
    parser.add_argument("run", metavar="RUN", type=Path,
                        help="a run description, .toml or .py, such as launch/example.toml")
    parser.add_argument("--set", metavar="A.B=C", nargs="+", action="extend", default=[],
                        help="change fields of the description, such as local.processes=2")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--print", action="store_true", help="show the files on standard output")
    output.add_argument("--write", metavar="DIR", type=Path, help="write the files into DIR")


def run(arguments: argparse.Namespace) -> dict:
    from hat.launching import gke, local, slurm, tpu_vm
    from hat.launching.description import read

    launch = read(arguments.run, tuple(arguments.set))
    targets = {"local": local, "tpu-vm": tpu_vm, "gke": gke, "slurm": slurm}
    files = targets[arguments.target].render(launch)
    hardware = launch.local if arguments.target == "local" else launch.tpu or launch.gpu
    check_experiment(launch, hardware.processes, hardware.devices)
    result = {
        "name": launch.name,
        "out": launch.folder,
        "processes": hardware.processes,
        "devices": hardware.devices,
    }
    if arguments.print:
        for name, text in files.items():
            print(f"# ---- {name}\n{text}")
        return result | {"files": files}
    if arguments.write:
        for name, text in files.items():
            write(arguments.write / name, text)
            print(arguments.write / name)
        return result | {"written": [str(arguments.write / name) for name in files]}
    if arguments.target != "local":
        raise UserError(
            f"hat launch {arguments.target} writes scripts for you to run; give --write DIR, or "
            "--print to see them"
        )
    if status := local.run(launch):
        raise SystemExit(status)
    return result


def check_experiment(launch, processes: int, devices: int) -> None:
    """UserError: the config does not load, or is none for so many processes, or its mesh or batch
    does not fit the devices; better now than on every host of a pod."""
    experiment = override(load(launch.config), launch.sets)
    from hat.training.experiment import Experiment
    from hat.training.sharding import check_rows, make_abstract_mesh

    if not isinstance(experiment, Experiment):
        raise UserError(
            f"{launch.config}: config() returned {type(experiment).__name__}, which hat train "
            "does not take; return an Experiment"
        )
    training = experiment.training
    if training.seconds is not None and processes > 1:
        raise UserError(
            f"training.seconds={training.seconds:g}: the clocks of {processes} processes differ; "
            'put "training.steps=N" and "training.seconds=none" into sets'
        )
    mesh = make_abstract_mesh(training.mesh, devices)
    check_rows(mesh, training.batch_size, training.accumulation_steps)


def write(path: Path, text: str) -> None:
    """The whole file or none of it; a script is executable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.chmod(0o755 if path.suffix == ".sh" else 0o644)
    temporary.replace(path)
