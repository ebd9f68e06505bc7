"""Continues a prompt with several models as one, whatever their vocabularies; or scores a file.

mean averages the members' probabilities of every next byte, product their log-probabilities;
proxy takes BASE EXPERT ANTIEXPERT and samples from base + alpha * (expert - antiexpert).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hat.commands.arguments import positive_int
from hat.commands.byte_exact_generate import (
    add_prompt,
    add_sampling,
    read_prompt,
    sampling_options,
    show,
)
from hat.commands.byte_exact_score import read_text, score
from hat.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", metavar="MODEL", type=Path, nargs="+", help="folders of runs")
    parser.add_argument("--mode", choices=("mean", "product", "proxy"), default="mean")
    parser.add_argument("--weights", metavar="W", type=float, nargs="+",
                        help="of mean and product, a share for each model (default: equal)")
    parser.add_argument("--alpha", metavar="A", type=float, default=1.0, help="of proxy")
    parser.add_argument("--law", default="canonical", help="of the tokenized members")
    parser.add_argument("--beam", metavar="K", type=positive_int, default=16, help="of --law all")
    add_prompt(parser)
    parser.add_argument("--score", metavar="FILE", type=Path, help="score this text instead")
    add_sampling(parser)


def run(arguments: argparse.Namespace) -> dict:
    if arguments.score is None:
        prompt = read_prompt(arguments)
    elif arguments.prompt is not None or arguments.prompt_file is not None:
        raise UserError("--score FILE takes no prompt")
    else:
        text = read_text(arguments.score, None)
    from hat.byte_exact.ensemble import Ensemble
    from hat.byte_exact.generate import continue_bytes
    from hat.byte_exact.run import load_byte_model

    members = [load_byte_model(path, arguments.law, arguments.beam) for path in arguments.models]
    ensemble = Ensemble(
        members, arguments.mode, weights=arguments.weights, alpha=arguments.alpha
    )
    if arguments.score is None:
        return show(arguments, continue_bytes(ensemble, prompt, **sampling_options(arguments)))
    names = [*map(str, arguments.models), arguments.mode]
    table = {name: score(its, text)[0] for name, its in zip(names, [*members, ensemble])}
    for name, row in table.items():
        print(f"{row['normalised_bits_per_byte']:8.4f} bits per byte  {name}")
    return {"file": str(arguments.score), "bytes": len(text), "models": table}
