"""Run descriptions of every target, and a shell that knows only the programs of a test."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

from hat.launching.description import Gke, Gpu, Launch, Local, Slurm, Tpu, TpuVm

COMMON = dict(
    name="hat-7b", config="configs/tfree_hat_7b.py", sets=("training.batch_size=512",), restarts=3
)
VM = TpuVm(
    project="my-project",
    zone="us-east5-a",
    repository="https://example.org/hat.git",
    ref="0123456789abcdef",
)
GKE = Gke(project="my-project", zone="us-east5-a", cluster="pods", image="registry.example/hat:1")
SLURM = Slurm(folder="/shared/hat", partition="gpu", account="physics")

# Folder under tests/launching/golden -> (target, description).
LAUNCHES = {
    "tpu_vm": ("tpu-vm", Launch(
        **COMMON, out="gs://my-bucket/runs", tpu=Tpu("v5p:8x8x8"), tpu_vm=VM
    )),
    "tpu_vm_slices": ("tpu-vm", Launch(
        **COMMON, out="gs://my-bucket/runs", tpu=Tpu("v6e:16x16", slices=2),
        tpu_vm=TpuVm("p", "z", "https://example.org/hat.git", "v1", "on-demand", "image", "a@b.c"),
    )),
    "gke_tpu": ("gke", Launch(
        **COMMON, out="gs://my-bucket/runs", tpu=Tpu("v5e:16x16", slices=2), gke=GKE
    )),
    "gke_gpu": ("gke", Launch(
        **COMMON, out="gs://my-bucket/runs", gpu=Gpu(nodes=4, model="h200"),
        gke=Gke("p", "z", "c", "registry.example/hat:1", "team", "hat", queue="q", spot=True),
    )),
    "slurm_node": ("slurm", Launch(
        **COMMON, out="/shared/runs", gpu=Gpu(nodes=4), slurm=SLURM
    )),
    "slurm_gpu": ("slurm", Launch(
        **COMMON, out="/shared/runs", gpu=Gpu(nodes=2, per_node=4, process_per="gpu"),
        slurm=Slurm(folder="/shared/hat", time="7-00:00:00"),
    )),
    "local": ("local", Launch(
        **COMMON, out="runs", local=Local(processes=2, devices_per_process=4)
    )),
}  # fmt: skip

# A program that appends what it was given to $CALLS, and ends with the next status of $STATUSES.
RECORDER = """\
#!{python}
import json, os, pathlib, sys
calls = pathlib.Path(os.environ["CALLS"])
with calls.open("a") as file:
    file.write(json.dumps([sys.argv, dict(os.environ)]) + "\\n")
mine = [c for c in map(json.loads, calls.read_text().splitlines()) if c[0][0] == sys.argv[0]]
statuses = os.environ.get("STATUSES_" + os.path.basename(sys.argv[0]), "0").split()
sys.exit(int(statuses[min(len(mine), len(statuses)) - 1]))
"""


class Shell:
    """Runs scripts with programs of our own, in an empty folder (scripts prefer the `hat` of the
    folder that they are in, as this checkout is one), and reads what these were called with."""

    def __init__(self, folder: Path):
        self.programs, self._calls = folder / "programs", folder / "calls"
        self.programs.mkdir(parents=True)
        self._empty = folder / "empty"
        self._empty.mkdir()

    def program(self, name: str, text: str = RECORDER) -> None:
        """Makes `name` a program; a recorder unless `text` is given. {python} is an interpreter
        that starts quickly, without site-packages."""
        path = self.programs / name
        path.write_text(text.replace("{python}", f"{sys.executable} -IS"))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run(self, *argv: str, **variables: str) -> subprocess.CompletedProcess:
        self._calls.write_text("")
        environment = {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "CALLS": str(self._calls),
            "LANG": "C.UTF-8",
            **variables,
        }
        return subprocess.run(
            argv, env=environment, cwd=self._empty, capture_output=True, text=True, timeout=60
        )

    def calls(self, name: str) -> list[tuple[list[str], dict[str, str]]]:
        """(arguments, environment) of every call of the program `name`, in order."""
        found = map(json.loads, self._calls.read_text().splitlines())
        return [(argv[1:], env) for argv, env in found if os.path.basename(argv[0]) == name]
