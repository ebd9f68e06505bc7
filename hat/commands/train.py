"""Trains the experiment of a config file.

The same command on the same --out resumes from its newest checkpoint. OUT then holds config.json,
metrics.jsonl, TensorBoard events, checkpoints, samples.txt and loss.png.

A run of several processes starts this command once in each, with HAT_COORDINATOR=HOST:PORT,
HAT_NUM_PROCESSES and HAT_PROCESS_ID in the environment, or HAT_DISTRIBUTED=auto on TPU pods and
under SLURM. SIGTERM, to any of them, saves and ends them all with status 0. Status 75: the run
hung, or its processes did not find each other; start the same command again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hat.commands.arguments import add_experiment, positive_int, read_experiment
from hat.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, help="default: runs/NAME of the config")
    parser.add_argument("--expect-processes", metavar="N", type=positive_int,
                        help="end at once, unless the run has so many processes")
    parser.add_argument("--expect-devices", metavar="N", type=positive_int,
                        help="end at once, unless they have so many devices together")


def run(arguments: argparse.Namespace) -> dict:
    experiment = read_experiment(arguments)
    out = arguments.out or Path("runs", experiment.name)
    if ":/" in str(out):  # what a Path makes of gs://bucket/run
        raise UserError(f"--out {out}: no folder but an address; mount the bucket, give its path")
    from hat.commands.byte_teachers import ExactTeacher
    from hat.dynamic_tokenization.objective import Dynamic
    from hat.inference.samples import sample_texts
    from hat.training.distributed import expect, join
    from hat.training.loop import train
    from hat.training.objectives import Openers

    join()  # before anything asks JAX for a device
    expect(arguments.expect_processes, arguments.expect_devices)
    return train(experiment, out, sample_texts, Openers(ExactTeacher, Dynamic.open))
