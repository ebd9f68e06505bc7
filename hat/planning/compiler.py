"""The TPU compiler in a process of its own, ended as soon as it has said what a plan asks.

The compiler lays out the program and its memory, which takes seconds to a minute, and then makes
machine code of it, which takes ten times as long and changes neither. It can be told to write down
what it has so far (XLA's `xla_dump_to`), but not to stop there, so the process is stopped.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from hat import config as configs
from hat.planning.topology import Topology, parse_topology
from hat.training.experiment import EXPERIMENT_CLASSES, Experiment
from hat.training.run_folder import write_atomically

POLL_SECONDS = 0.2
EXPERIMENT, TOPOLOGY, RESULT = "experiment.json", "topology", "result.json"


@dataclasses.dataclass(frozen=True)
class Program:
    """text: optimized and scheduled; hbm_bytes: all that it holds at once on a chip."""

    text: str
    hbm_bytes: float


class Overflow(Exception):
    """The program does not fit; the argument is how many bytes it needs, arguments included."""


def compile_step(experiment: Experiment, topology: Topology, to_the_end: bool) -> Program:
    """The training step of the experiment on the chips of the topology.

    to_the_end: with machine code, and so with the compiler's estimate of cycles in the text.
    Overflow: it does not fit. RuntimeError, with the end of its output: the compiler failed.
    """
    with tempfile.TemporaryDirectory(prefix="hat-plan-") as name:
        folder = Path(name)
        (folder / EXPERIMENT).write_text(json.dumps(configs.to_dict(experiment)), encoding="utf-8")
        (folder / TOPOLOGY).write_text(topology.name, encoding="utf-8")
        with (folder / "output").open("w+", encoding="utf-8") as output:
            child = subprocess.Popen(
                [sys.executable, "-m", "hat.planning.compiler", name],
                stdout=output, stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )  # fmt: skip
            try:
                while child.poll() is None:
                    if not to_the_end and (program := _laid_out(folder)):
                        return program
                    time.sleep(POLL_SECONDS)
            finally:
                child.kill()
                child.wait()
            return _result(folder, child.returncode)


def _laid_out(folder: Path) -> Program | None:
    """What the compiler has written down, once it has written what comes after it. None before
    that, and for a compiler that writes other files: it is then waited for to the end."""
    written = {path.name.partition(".after_")[2]: path for path in folder.glob("*.after_*.txt")}
    text = written.get("optimizations.txt")
    report = written.get("optimizations-memory-usage-report.txt")
    if "optimizations_after_buffer_assignment.txt" not in written or not text or not report:
        return None
    found = re.search(
        r"Memory Space: default.*\nTotal bytes: (\d+)", report.read_text(encoding="utf-8")
    )
    return Program(text.read_text(encoding="utf-8"), float(found[1])) if found else None


def _result(folder: Path, status: int) -> Program:
    if not (folder / RESULT).is_file():
        lines = (folder / "output").read_text(encoding="utf-8", errors="replace").splitlines()
        raise RuntimeError("\n".join([f"the TPU compiler ended with {status}", *lines[-20:]]))
    result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    if "needed" in result:
        raise Overflow(result["needed"])
    return Program(**result)


def main(name: str) -> None:
    """Compiles what the folder `name` asks, and leaves the result there."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    folder = Path(name)
    data = json.loads((folder / EXPERIMENT).read_text(encoding="utf-8"))
    experiment = configs.from_dict(data, EXPERIMENT_CLASSES)
    topology = parse_topology((folder / TOPOLOGY).read_text(encoding="utf-8"))
    import jax

    from hat.planning.compiled import lower_step

    lowered = lower_step(experiment, topology)
    try:
        compiled = lowered.compile({"xla_dump_to": name, "xla_dump_hlo_as_text": True})
    except jax.errors.JaxRuntimeError as error:
        found = re.search(r"\(([\d.]+)([KMGT])\) exceeds available", str(error))
        if not found:
            raise
        result = {"needed": float(found[1]) * 2.0 ** (10 * (1 + "KMGT".index(found[2])))}
    else:
        memory = compiled.memory_analysis()
        held = memory.argument_size_in_bytes + memory.output_size_in_bytes
        held += memory.temp_size_in_bytes - memory.alias_size_in_bytes
        result = {"text": compiled.as_text(), "hbm_bytes": held}
    write_atomically(folder / RESULT, json.dumps(result))


def _end_with(parent: int) -> None:
    """Ends this process when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
