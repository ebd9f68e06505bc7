"""Training and measuring as parts of an experiment that goes on where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from hat.errors import UserError
from hat.training.experiment import Experiment
from hat.training.loop import train
from hat.training.objectives import Openers
from hat.training.progress import warn
from hat.training.run_folder import RESULT_FILE, write_atomically


def settle(out: Path, settings: dict) -> None:
    """Keeps in `out` what decides the result. UserError: the folder has another experiment."""
    path = out / "settings.json"
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != settings:
        raise UserError(f"{out} holds this experiment with other options; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(settings, indent=2) + "\n")


def finish(experiment: Experiment, folder: Path, openers: Openers = Openers()) -> None:
    """Trains, unless the run has made all its steps. KeyboardInterrupt where it was told to stop
    before: what is half trained is not to be measured."""
    result = folder / RESULT_FILE
    if result.exists():
        done = json.loads(result.read_text(encoding="utf-8"))["step"]
        if done >= experiment.training.steps:
            return
    if not train(experiment, folder, openers=openers)["finished"]:
        raise KeyboardInterrupt


def kept(path: Path, make: Callable[[], dict]) -> dict:
    """What the file at `path` holds; where it is not there, what `make` returns, and it is kept."""
    if not path.exists():
        warn(f"measuring {path.stem}")
        write_atomically(path, json.dumps(make(), indent=2) + "\n")
    return json.loads(path.read_text(encoding="utf-8"))
