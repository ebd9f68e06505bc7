"""Runs of several real processes on this machine, joined by gloo, as a launcher starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

DEVICES = "--xla_force_host_platform_device_count"

CONFIG = """
from pathlib import Path
from tests.training import tiny
def config():
    return tiny.one_layer(Path({folder!r}), "training.samples.prompts=()", *{changes!r})
"""


def write_config(folder: Path, *changes: str) -> Path:
    """The smallest experiment of tests/training/tiny.py as a config file, its text beside it. No
    samples are drawn, as each process would compile the loop for them."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.py"
    path.write_text(CONFIG.format(folder=str(folder), changes=changes), encoding="utf-8")
    return path


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def environment(cache: Path, devices: int = 1, **more: str) -> dict[str, str]:
    """That of a process with so many virtual devices, and nothing of the tests' own cluster. It
    compiles quickly, as the tests do."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("HAT_")}
    flags = inherited.get("XLA_FLAGS", "").split()
    others = [flag for flag in flags if not flag.startswith(DEVICES)]
    return inherited | {
        "PYTHONPATH": str(ROOT),
        "HAT_CACHE": str(cache),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join([*others, f"{DEVICES}={devices}"]),
    } | more


def start(
    count: int, words: list[str], cache: Path, *, devices: int = 1, program: str | None = None,
    **more: str,
) -> list[subprocess.Popen]:
    """Starts `hat WORDS`, or the Python text `program` with WORDS, in `count` processes."""
    port = free_port()
    entry = ["-m", "hat"] if program is None else ["-c", program]
    found = []
    for index in range(count):
        cluster = {
            "HAT_COORDINATOR": f"localhost:{port}",
            "HAT_NUM_PROCESSES": str(count),
            "HAT_PROCESS_ID": str(index),
        } if count > 1 else {}
        found.append(subprocess.Popen(
            [sys.executable, *entry, *words],
            env=environment(cache, devices, **cluster, **more),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        ))  # fmt: skip
    return found


def finish(processes: list[subprocess.Popen], seconds: float = 240) -> list[tuple[int, str, str]]:
    """(exit status, standard output, standard error) of each; none is left behind."""
    try:
        outputs = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(processes, outputs)]
