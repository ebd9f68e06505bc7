"""Processes on this machine, joined over its loopback interface: gloo on CPU, NCCL on GPUs."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Mapping

from hat.errors import UserError
from hat.launching import flags, shell
from hat.launching.description import Launch
from hat.launching.supervisor import Process, supervise


def run(launch: Launch) -> int:
    """Runs to the end, restarts included; returns an exit status (see `supervise`)."""
    return supervise(
        lambda: processes(launch, _free_port(), os.environ),
        launch.restarts,
        launch.local.grace_seconds,
    )


def render(launch: Launch) -> dict[str, str]:
    """The same as a shell script, for people to read; it has no restarts."""
    lines = ["#!/usr/bin/env bash\n# Rendered by `hat launch local --print`.\n"]
    for process in processes(launch, 12345, {}):
        assignments = " ".join(f"{k}={shlex.quote(v)}" for k, v in process.environment.items())
        lines.append(f"{assignments} \\\n  {shlex.join(process.argv)} &\n")
    return {"local.sh": "".join([*lines, "wait\n"])}


def processes(launch: Launch, port: int, inherited: Mapping[str, str]) -> list[Process]:
    """The processes of a launch. inherited: the environment that theirs is made from.

    UserError: OUT is in a bucket.
    """
    local = launch.local
    if launch.out.startswith("gs://"):
        raise UserError(
            f"out={launch.out!r}: hat launch local writes to a folder; --set out=runs"
        )
    argv = shell.train_words(launch, launch.folder, local.processes, local.devices)
    argv[:1] = [sys.executable, "-m", "hat"]
    found = []
    for index in range(local.processes):
        if local.platform == "cpu":
            table = flags.cpu_environment(local.devices_per_process)
        else:
            table = flags.gpu_environment() | {"JAX_LOCAL_DEVICE_IDS": _share(launch, index)}
        contract = {
            "HAT_COORDINATOR": f"localhost:{port}",
            "HAT_NUM_PROCESSES": str(local.processes),
            "HAT_PROCESS_ID": str(index),
        }
        environment = {**inherited, **shell.environment(launch, table), **contract}
        environment.pop("HAT_DISTRIBUTED", None)
        found.append(Process(argv, environment))
    return found


def _share(launch: Launch, index: int) -> str:
    count = launch.local.devices_per_process
    return ",".join(map(str, range(index * count, (index + 1) * count)))


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]
