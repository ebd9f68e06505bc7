"""Trains M1, the small byte model whose probabilities make the windows.

The same as hat train with configs/equal_info_m1.py and its text; OUT is then what hat equal-info
build, hat compress and hat train --set init= take. The same command on the same --out resumes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hat.commands.arguments import add_experiment, read_experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment(parser, default="configs/equal_info_m1.py")
    parser.add_argument("--data", metavar="SOURCE",
                        help='what hat train takes as data.source (default: that of the config)')
    parser.add_argument("--out", metavar="DIR", type=Path, help="default: runs/NAME of the config")


def run(arguments: argparse.Namespace) -> dict:
    if arguments.data is not None:
        arguments.set = [f"data.source={arguments.data}", *arguments.set]
    experiment = read_experiment(arguments)
    from hat.compression.predictor import check_m1
    from hat.training.loop import train

    check_m1(experiment.model)
    return train(experiment, arguments.out or Path("runs", experiment.name))
