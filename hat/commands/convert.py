"""Reads and writes checkpoints of other formats, and puts a HAT around a Llama.

FROM is a Hugging Face folder (Llama, Mistral, Qwen2, Qwen3: config.json and safetensors), a
llama2.c .bin file, a folder in the released TFree-HAT layout, or a run of `hat train`.

  --to native   a run, which generate, evaluate and train --set init=DIR take
  --to hat      the HAT of --config with the blocks of a Llama as its backbone, as a run
  --to hf       a Llama in the Hugging Face layout
  --to hf-hat   a HAT in the released TFree-HAT layout

Numbers and dtypes stay as they are, bit for bit. DIR appears whole or not at all.

  --method omp|mean|last|suffix|hypernetwork   the run of a Llama with the tokenizer of --tokenizer,
                                               not trained

There the rows of tokens that both tokenizers spell alike stay, and the others are made: from those of
their parts (mean; hypernetwork; last and suffix: mean heads, and the embedding of the last part, or of
the longest token that the new one ends with), or as in a donor, which --tokenizer then is (omp).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from hat.commands.arguments import positive_int
from hat.errors import UserError
from hat.training.config import ROWS

TARGETS = ("native", "hat", "hf", "hf-hat")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FROM", type=Path, help="what to convert")
    parser.add_argument("--to", choices=TARGETS, help="the format to write")
    parser.add_argument("--out", required=True, metavar="DIR", type=Path, help="a new folder")
    parser.add_argument("--config", metavar="CONFIG", type=Path,
                        help="with --to hat: the config file of the HAT")
    parser.add_argument("--fit", action="store_true",
                        help="with --to hat: give the config the backbone that the Llama has, and "
                        "room for its longest token where its tokens are the words")
    parser.add_argument("--word-steps", metavar="N", type=positive_int,
                        help="with --to hat, where words are the Llama's tokens: steps in which the "
                        "encoder learns their embeddings from their spelling, 256 tokens at most in "
                        "each; 600 do for 512 tokens")
    parser.add_argument("--tokenizer", metavar="FILE", type=Path,
                        help="of a Llama whose folder has none: tokenizer.json or a .model file; "
                        "with --method: the other tokenizer, or the donor")
    parser.add_argument("--method", choices=("omp", *ROWS, "hypernetwork"),
                        help="how the rows of new tokens are made")
    parser.add_argument("--hypernetwork", metavar="RUN", type=Path,
                        help="with --method hypernetwork: a trained one")
    parser.add_argument("--sparsity", metavar="K", type=positive_int, default=64,
                        help="with --method omp: shared tokens that make a new one (default: 64)")
    parser.add_argument("--set", metavar="A.B=C", nargs="+", action="extend", default=[],
                        help="with --to native or hat: change fields of the run's config")


def run(arguments: argparse.Namespace) -> dict:
    check_arguments(arguments)
    if arguments.method is not None:
        return move(arguments)
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
        word_steps=arguments.word_steps or 0,
        changes=arguments.set if config is None else [],
    )
    result |= {"out": str(arguments.out), "seconds": time.perf_counter() - began}
    print(f"{arguments.out}: {result['model']}, {result['parameters']:,} parameters, "
          f"{result['bytes'] / 1e9:.3f} GB in {result['seconds']:.1f} s")
    if "word_distance" in result:
        print(f"words: {result['word_distance']:.2g} of the squared length of the Llama's embeddings "
              "away from them")
    return result


def move(arguments: argparse.Namespace) -> dict:
    """To another tokenizer."""
    from hat.commands.transfers import transfer

    result = transfer(
        arguments.source, arguments.tokenizer, arguments.method,
        arguments.out.expanduser().absolute(), hypernetwork=arguments.hypernetwork,
        sparsity=arguments.sparsity,
    )  # fmt: skip
    print(f"{arguments.out}: {result['tokens']:,} tokens, {result['shared']:,} with their own rows, "
          f"{result['new']:,} new")
    return result | {"out": str(arguments.out)}


def check_arguments(arguments: argparse.Namespace) -> None:
    """UserError for options that do not belong together, and for an --out that is taken."""
    if arguments.method is None and arguments.to is None:
        raise UserError("--to FORMAT is missing (or --method, for another tokenizer)")
    if arguments.method is not None:
        if arguments.to is not None or arguments.tokenizer is None or arguments.set:
            raise UserError("--method goes with --tokenizer, and with neither --to nor --set")
        if (arguments.method == "hypernetwork") != (arguments.hypernetwork is not None):
            raise UserError("--hypernetwork RUN goes with --method hypernetwork, which needs it")
    if (arguments.to == "hat") != (arguments.config is not None):
        raise UserError("--config CONFIG goes with --to hat, and --to hat needs it")
    for option in ("fit", "word_steps"):
        if getattr(arguments, option) and arguments.to != "hat":
            raise UserError(f"--{option.replace('_', '-')} goes with --to hat")
    if arguments.set and arguments.to not in ("native", "hat"):
        raise UserError(f"--set changes a run's config, and --to {arguments.to} writes no run")
    out = arguments.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already; choose another --out or remove it")
