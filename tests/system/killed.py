"""A run that is killed again and again, each time at another instant; see test_faults.

    python killed.py CONFIG FOLDER KILLS SEED

Prints one JSON object: the run that nothing happened to, and every attempt of those that were
killed. The attempts are forks of one process that has imported everything and computed nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import grain  # noqa: F401  so are two more: what a run imports late, imported once
import jax
import matplotlib.pyplot  # noqa: F401
import numpy as np

from hat import config as configs
from hat.training import checkpoints, loop
from hat.training.metrics import summary_writer, read_metrics

summary_writer()  # imports tensorboardX: the third

# What Python does to files: between two of these the C++ code writes, hence also the delays.
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir"}
PHASES = ("prepare", "step", "restore", "save", "step", "restore", "save")  # of one run's deaths
MAX_EVENTS = {"prepare": 60, "restore": 25, "save": 40, "step": 1}
MAX_DELAY_SECONDS = 0.05


class Attempt:
    """In the child: tells the parent what happens, and dies where it is told to."""

    def __init__(self, pipe: int, kill: dict | None):
        self.pipe, self.kill = pipe, kill
        self.calls = dict.fromkeys(PHASES, 0)
        self.armed, self.events = False, 0
        sys.addaudithook(self.audit)

    def tell(self, *words) -> None:
        os.write(self.pipe, (" ".join(map(str, words)) + "\n").encode())

    def enter(self, phase: str) -> None:
        self.calls[phase] += 1
        if self.kill and (phase, self.calls[phase]) == (self.kill["phase"], self.kill["call"]):
            self.armed = True
            self.audit("open", ())

    def audit(self, event: str, args) -> None:
        if not self.armed or event not in EVENTS:
            return
        self.events += 1
        if self.events == self.kill["event"]:
            if not self.kill["delay"]:
                os.kill(os.getpid(), signal.SIGKILL)
            self.tell("kill")  # the parent does, a moment later

    def wrap(self, owner, name: str, phase: str) -> None:
        whole = getattr(owner, name)

        def wrapped(*args, **kwargs):
            self.enter(phase)
            return whole(*args, **kwargs)

        setattr(owner, name, wrapped)


def run(experiment, out: Path, pipe: int, kill: dict | None) -> None:
    attempt = Attempt(pipe, kill)
    attempt.wrap(loop, "prepare_corpus", "prepare")
    attempt.wrap(checkpoints.Checkpoints, "_read_state", "restore")
    attempt.wrap(checkpoints.ocp.CheckpointManager, "save", "save")
    attempt.wrap(loop.Run, "step", "step")
    whole_step, whole_start = loop.Run.step, loop.start

    def step(self, *args):
        attempt.tell("step", self.position.step + 1)
        whole_step(self, *args)

    def start(*args):
        position, state = whole_start(*args)
        attempt.tell("from", position.step)
        return position, state

    loop.Run.step, loop.start = step, start
    save = loop.Run.save

    def last(self, *, force=False):
        save(self, force=force)
        if force:
            leaves = jax.tree.leaves(self._state)
            digest = hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves))
            attempt.tell("digest", digest.hexdigest())

    loop.Run.save = last
    attempt.tell("heldout", loop.train(experiment, out)["heldout_bits_per_byte"])


def attempt(experiment, out: Path, kill: dict | None) -> dict:
    """Forks, watches, kills; what was seen."""
    folder = out / "checkpoints"
    saved = [int(p.name) for p in folder.glob("[0-9]*") if p.name.isdigit()]
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reader)
        status = 1
        try:
            log = os.open(out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 2)
            run(experiment, out, writer, kill)
            status = 0
        except BaseException as error:
            import traceback

            traceback.print_exc()
            os.write(writer, f"error {error!r}\n".encode())
        os._exit(status)
    os.close(writer)
    seen = {"kill": kill, "saved": max(saved, default=0), "from": None, "step": None}
    with os.fdopen(reader) as lines:
        for line in lines:
            word, _, rest = line.strip().partition(" ")
            if word == "kill":
                time.sleep(kill["delay"])
                os.kill(pid, signal.SIGKILL)
            else:
                seen[word] = int(rest) if word in ("from", "step") else rest
    seen["status"] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return seen


def main(config: str, folder: str, kills: str, seed: str) -> None:
    experiment, root = configs.load(config), Path(folder)
    draw = random.Random(int(seed))
    os.environ["HAT_CACHE"] = str(root / "cache-whole")
    whole = attempt(experiment, root / "whole", None)
    runs, killed = [], 0
    while killed < int(kills):
        # A run of its own, its corpus not prepared yet: killed in every phase, then left in peace.
        name = f"run-{len(runs)}"
        os.environ["HAT_CACHE"] = str(root / f"cache-{name}")
        attempts = []
        for phase in (*PHASES, None):
            kill = phase and {
                "phase": phase,
                "call": {"step": draw.randint(3, 5), "save": draw.randint(1, 3)}.get(phase, 1),
                "event": draw.randint(1, MAX_EVENTS[phase]),
                "delay": draw.choice([0, draw.uniform(0, MAX_DELAY_SECONDS)]),
            }
            attempts.append(attempt(experiment, root / name, kill))
            killed += attempts[-1]["status"] == -signal.SIGKILL
            if attempts[-1]["status"] == 0 and phase:
                break  # it came to its end before the instant
        steps = [line["step"] for line in read_metrics(root / name / "metrics.jsonl")]
        runs.append({"attempts": attempts, "steps": steps})
    print(json.dumps({"whole": whole, "runs": runs}))


if __name__ == "__main__":
    main(*sys.argv[1:])
