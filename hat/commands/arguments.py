"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from hat.config import load, override


def add_experiment(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """CONFIG and --set, for `read_experiment`; with a default, CONFIG may be left out."""
    said = "" if default is None else f" (default: {default})"
    parser.add_argument("config", metavar="CONFIG", nargs=None if default is None else "?",
                        default=default,
                        help="a Python file that defines config(), such as configs/quickstart.py, "
                        "or the folder of a run" + said)
    parser.add_argument("--set", metavar="A.B=C", nargs="+", action="extend", default=[],
                        help="change fields of the config, such as training.seed=1")


def read_experiment(arguments: argparse.Namespace) -> Any:
    """The experiment of CONFIG with --set applied, and with what `base` decides."""
    if Path(arguments.config).is_dir():
        from hat.training import run_folder

        experiment = run_folder.read_experiment(Path(arguments.config))
    else:
        experiment = load(arguments.config)
    experiment = override(experiment, arguments.set)
    if getattr(experiment, "base", None) is None:
        return experiment
    from hat.dynamic_tokenization.base import fit_to_base

    return fit_to_base(experiment)


def raw(text: str) -> bytes:
    """What the shell passed, UTF-8 or not."""
    return text.encode(sys.getfilesystemencoding(), "surrogateescape")


def positive_int(text: str) -> int:
    """An int above 0."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return value
