"""Reads and writes checkpoints of other formats, and puts a HAT around a Llama.

FROM is a Hugging Face folder (Llama, Mistral, Qwen2, Qwen3: config.json and safetensors), a
llama2.c .bin file, a folder in the released TFree-HAT layout, or a run of `hat train`.

  --to native   a run, which generate, evaluate and train --set init=DIR take
  --to hat      the HAT of --config with the blocks of a Llama as its backbone, as a run
  --to hf       a Llama in the Hugging Face layout
  --to hf-hat   a HAT in the released TFree-HAT layout

Numbers and dtypes stay as they are, bit for bit. DIR appears whole or not at all.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from hat.errors import UserError

TARGETS = ("native", "hat", "hf", "hf-hat")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FROM", type=Path, help="what to convert")
    parser.add_argument("--to", required=True, choices=TARGETS, help="the format to write")
    parser.add_argument("--out", required=True, metavar="DIR", type=Path, help="a new folder")
    parser.add_argument("--config", metavar="CONFIG", type=Path,
                        help="with --to hat: the config file of the HAT")
    parser.add_argument("--fit", action="store_true",
                        help="with --to hat: give the config the backbone that the Llama has")
    parser.add_argument("--tokenizer", metavar="FILE", type=Path,
                        help="of a Llama whose folder has none: tokenizer.json or a .model file")
    parser.add_argument("--set", metavar="A.B=C", nargs="+", action="extend", default=[],
                        help="with --to native or hat: change fields of the run's config")


def run(arguments: argparse.Namespace) -> dict:
    check_arguments(arguments)
    from hat.commands.conversions import convert

    began = time.perf_counter()
    config = None
    if arguments.to == "hat":
        from hat.commands.arguments import read_experiment

        config = read_experiment(arguments)
    result = convert(
        arguments.source,
        arguments.to,
        arguments.out.expanduser().absolute(),
        tokenizer=arguments.tokenizer,
        config=config,
        fit=arguments.fit,
        changes=arguments.set if config is None else [],
    )
    result |= {"out": str(arguments.out), "seconds": time.perf_counter() - began}
    print(f"{arguments.out}: {result['model']}, {result['parameters']:,} parameters, "
          f"{result['bytes'] / 1e9:.3f} GB in {result['seconds']:.1f} s")
    return result


def check_arguments(arguments: argparse.Namespace) -> None:
    """UserError for options that do not belong together, and for an --out that is taken."""
    if (arguments.to == "hat") != (arguments.config is not None):
        raise UserError("--config CONFIG goes with --to hat, and --to hat needs it")
    if arguments.fit and arguments.to != "hat":
        raise UserError("--fit goes with --to hat")
    if arguments.set and arguments.to not in ("native", "hat"):
        raise UserError(f"--set changes a run's config, and --to {arguments.to} writes no run")
    out = arguments.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already; choose another --out or remove it")
