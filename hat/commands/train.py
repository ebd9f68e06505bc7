"""Trains the experiment of a config file.

The same command on the same --out resumes from its newest checkpoint. OUT then holds config.json,
metrics.jsonl, TensorBoard events, checkpoints, samples.txt and loss.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hat.commands.arguments import add_experiment, read_experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, help="default: runs/NAME of the config")


def run(arguments: argparse.Namespace) -> dict:
    experiment = read_experiment(arguments)
    from hat.inference.samples import sample_texts
    from hat.training.loop import train

    return train(experiment, arguments.out or Path("runs", experiment.name), sample_texts)
