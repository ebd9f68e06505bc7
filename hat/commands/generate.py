"""Continues prompts with a trained model.

Each continuation ends after --bytes bytes or at the end of text that the model predicts. Bytes
that are no UTF-8 appear as U+FFFD; --json gives the exact bytes too, in hexadecimal.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hat.commands.arguments import positive_int
from hat.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="the output folder of hat train")
    parser.add_argument("--prompt", metavar="TEXT", action="append", default=[],
                        help="text to continue; may be given several times, and may be empty")
    parser.add_argument("--prompts", metavar="FILE", type=Path, help="a file with a prompt a line")
    parser.add_argument("--bytes", metavar="N", type=positive_int, default=200,
                        help="the longest continuation (default: 200)")
    parser.add_argument("-n", metavar="N", type=positive_int, default=1,
                        help="continuations of each prompt (default: 1)")
    parser.add_argument("--temperature", metavar="T", type=float, default=0.8,
                        help="0 takes the likeliest byte every time (default: 0.8)")
    parser.add_argument("--top-k", metavar="K", type=positive_int,
                        help="sample from the K likeliest bytes only")
    parser.add_argument("--top-p", metavar="P", type=float,
                        help="sample from the likeliest bytes that hold P of the probability")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="(default: 0)")


def run(arguments: argparse.Namespace) -> dict:
    if arguments.temperature < 0:
        raise UserError(f"--temperature {arguments.temperature} is negative; give 0 or more")
    if arguments.top_p is not None and not 0 < arguments.top_p <= 1:
        raise UserError(f"--top-p {arguments.top_p} is no share; give a number above 0, at most 1")
    prompts = read_prompts(arguments)
    from hat.inference.generation import generate
    from hat.inference.run import load_run

    results = generate(
        load_run(arguments.run),
        prompts,
        num_bytes=arguments.bytes,
        samples=arguments.n,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        seed=arguments.seed,
    )
    for result in results:
        print(_readable(result.prompt + result.text))
        print("-" * 80)
    return {
        "run": str(arguments.run),
        "samples": [
            {
                "prompt": _readable(result.prompt),
                "text": _readable(result.text),
                "prompt_hex": result.prompt.hex(),
                "text_hex": result.text.hex(),
                "nats": -result.logprob,
                "ended": result.stopped,
            }
            for result in results
        ],
    }


def read_prompts(arguments: argparse.Namespace) -> list[bytes]:
    """The prompts of --prompt, then those of --prompts: every line without its newline."""
    # What the shell passed that is no UTF-8 arrives as surrogate escapes; bytes are what we model.
    prompts = [prompt.encode(sys.getfilesystemencoding(), "surrogateescape")
               for prompt in arguments.prompt]
    if arguments.prompts is not None:
        try:
            prompts += arguments.prompts.read_bytes().splitlines()
        except OSError as error:
            raise UserError(f"--prompts {arguments.prompts}: {error.strerror}") from None
    if not prompts:
        raise UserError("no prompt; give --prompt TEXT (--prompt '' starts from nothing)")
    return prompts


def _readable(data: bytes) -> str:
    return data.decode("utf-8", "replace")
