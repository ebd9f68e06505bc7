"""The folder of a run: its config on disk, and whose it is.

    OUT/config.json       every field of the experiment
    OUT/metrics.jsonl     one line per logged step (hat.training.metrics)
    OUT/checkpoints/      the state (hat.training.checkpoints)
    OUT/samples.txt, OUT/loss.png, OUT/tensorboard/, OUT/result.json
    OUT/lock              who trains here now; locked as long as that process lives
    OUT/stall-*.txt       where a run hung, if one did (hat.training.watchdog)
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from hat import config as configs
from hat.errors import UserError
from hat.training.experiment import EXPERIMENT_CLASSES, Experiment
from hat.training.progress import warn

CONFIG_FILE = "config.json"
RESULT_FILE = "result.json"
LOCK_FILE = "lock"

# A file server frees the locks of a host that died when its lease ends: 90 seconds on NFS.
LEASE_SECONDS = 120.0

# What may differ when a run goes on: how it is trained from here, not what it is or has read.
FIXED_TRAINING_FIELDS = ("seed:", "batch_size:", "lora.")


def write_atomically(path: Path, text: str) -> None:
    """The whole text or none of it: a temporary file, synced, renamed."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@contextmanager
def open_run(folder: Path, experiment: Experiment) -> Iterator[list[str]]:
    """Makes the folder, or takes up the run in it, writes its config, and keeps others out.

    For the first process of a run. Gives what differs from the run so far, a line each, where that
    is allowed. UserError: another process trains there; the folder holds a run of another model,
    data, seed or batch size, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("a+", encoding="utf-8")
    except OSError as error:
        raise _cannot_write(folder, error) from None
    with lock:
        _claim(folder, lock)
        try:
            old = read_experiment(folder) if has_run(folder) else experiment
            changed = differing_fields(old, experiment)
            refuse_another_run(folder, changed)
            write_atomically(
                folder / CONFIG_FILE, json.dumps(configs.to_dict(experiment), indent=2) + "\n"
            )
        except OSError as error:
            raise _cannot_write(folder, error) from None
        yield changed


def _claim(folder: Path, lock: TextIO) -> None:
    """Locks the open file until it is closed or its process dies, and signs it.

    A holder on this host is refused at once. One on another host may be dead already, which the
    file server notices when its lease ends, so that one is waited for.
    """
    host, deadline = socket.gethostname(), time.monotonic() + LEASE_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            if holder.endswith(f" on {host}") or time.monotonic() > deadline:
                raise UserError(
                    f"{folder} is being trained by {holder}; wait for it, stop it, or give "
                    "another --out"
                ) from None
            time.sleep(1.0)
        except OSError as error:
            warn(
                f"warning: {folder} is on a file system without locks ({error.strerror}): see to "
                "it that no other run uses it"
            )
            break
    lock.seek(0)
    lock.truncate()
    lock.write(f"process {os.getpid()} on {host}\n")
    lock.flush()


def _cannot_write(folder: Path, error: OSError) -> UserError:
    return UserError(f"cannot write to {folder}: {error.strerror}; choose another --out")


def has_run(folder: Path) -> bool:
    """Whether a run has come to its first save. Before it, as after a mistyped source, nothing
    would be lost: another experiment may have the folder."""
    checkpoints = folder / "checkpoints"
    return checkpoints.is_dir() and any(checkpoints.iterdir())


def read_experiment(folder: Path) -> Experiment:
    """The experiment of the run in `folder`. UserError: there is none, or it is damaged."""
    path = folder / CONFIG_FILE
    try:
        return configs.from_dict(json.loads(path.read_text(encoding="utf-8")), EXPERIMENT_CLASSES)
    except OSError as error:
        raise UserError(
            f"no run in {folder}: {path.name}: {error.strerror}; give the --out of a training run"
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None


def differing_fields(old: Experiment, new: Experiment) -> list[str]:
    """"training.steps: 10 (run) != 20 (config)" for every field that differs, the name aside."""
    return configs.differences(dataclasses.replace(old, name=new.name), new, ("run", "config"))


def refuse_another_run(folder: Path, changed: list[str]) -> None:
    fixed = tuple(f"training.{name}" for name in FIXED_TRAINING_FIELDS)
    refused = [line for line in changed if not line.startswith("training.") or line.startswith(fixed)]
    if refused:
        more = f" and {len(refused) - 6} more" if len(refused) > 6 else ""
        raise UserError(
            f"{folder} holds another run: {'; '.join(refused[:6])}{more}; "
            "give another --out, or the config of that run"
        )
