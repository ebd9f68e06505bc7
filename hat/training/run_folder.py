"""The folder of a run: its config on disk, and whose it is.

    OUT/config.json       every field of the experiment
    OUT/metrics.jsonl     one line per logged step (hat.training.metrics)
    OUT/checkpoints/      the state (hat.training.checkpoints)
    OUT/samples.txt, OUT/loss.png, OUT/tensorboard/, OUT/result.json
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from hat import config as configs
from hat.errors import UserError
from hat.training.experiment import EXPERIMENT_CLASSES, Experiment

CONFIG_FILE = "config.json"
RESULT_FILE = "result.json"

# What may differ when a run goes on: how it is trained from here, not what it is or has read.
FIXED_TRAINING_FIELDS = ("seed", "batch_size")


def write_atomically(path: Path, text: str) -> None:
    """The whole text or none of it: a temporary file, synced, renamed."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def open_run(folder: Path, experiment: Experiment) -> list[str]:
    """Makes the folder, or takes up the run in it, and writes its config.

    Returns what differs from the run so far, a line each, where that is allowed. UserError: the
    folder holds a run of another model, data, seed or batch size, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        changed = differing_fields(read_experiment(folder), experiment) if has_run(folder) else []
        refuse_another_run(folder, changed)
        write_atomically(
            folder / CONFIG_FILE, json.dumps(configs.to_dict(experiment), indent=2) + "\n"
        )
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another --out") from None
    return changed


def has_run(folder: Path) -> bool:
    return (folder / CONFIG_FILE).exists()


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
    fixed = tuple(f"training.{name}:" for name in FIXED_TRAINING_FIELDS)
    refused = [line for line in changed if not line.startswith("training.") or line.startswith(fixed)]
    if refused:
        more = f" and {len(refused) - 6} more" if len(refused) > 6 else ""
        raise UserError(
            f"{folder} holds another run: {'; '.join(refused[:6])}{more}; "
            "give another --out, or the config of that run"
        )
