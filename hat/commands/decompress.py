"""Turns a file of hat compress back into the bytes that it was made of.

Needs the model that compressed it. Refuses, leaving nothing behind, a file of another model or
arithmetic, one that is damaged or cut short, and one of a later version.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hat.commands.compress import SUFFIX, chosen_model
from hat.commands.files import check_output, read_input, write_output
from hat.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="a file of hat compress")
    parser.add_argument("--model", metavar="RUN", type=Path,
                        help="the run that it was compressed with (default: $HAT_COMPRESS_MODEL)")
    parser.add_argument("--out", metavar="FILE", type=Path, help=f"default: FILE without {SUFFIX}")
    parser.add_argument("--force", action="store_true", help="replace --out where it is there")


def run(arguments: argparse.Namespace) -> dict:
    out = arguments.out
    if out is None:
        if arguments.file.suffix != SUFFIX:
            raise UserError(f"{arguments.file} does not end in {SUFFIX}; say where to, with --out")
        out = arguments.file.with_suffix("")
    check_output(out, arguments.force, arguments.file)
    content = read_input(arguments.file)
    from hat.compression.codec import decompress
    from hat.compression.container import unpack
    from hat.compression.sessions import load_predictor
    from hat.training.progress import Progress

    try:
        header, chunks = unpack(content)
    except UserError as error:
        raise UserError(f"{arguments.file}: {error}") from None
    make, _ = load_predictor(chosen_model(arguments.model), header.portable)
    with Progress("decompressing", total=header.length, unit="B") as progress:
        try:
            data = decompress(header, chunks, make, progress.update)
        except UserError as error:
            raise UserError(f"{arguments.file}: {error}") from None
    write_output(out, data)
    print(f"{out}: {len(data):,} bytes")
    return {"out": str(out), "bytes": len(data)}
