"""Turns a file of hat equal-info encode back into the bytes that it was made of."""

from __future__ import annotations

import argparse
from pathlib import Path

from hat.commands.files import check_output, read_input, write_output
from hat.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", metavar="TABLE", type=Path, help="the table that it was encoded with")
    parser.add_argument("file", metavar="FILE", type=Path, help="a file of hat equal-info encode")
    parser.add_argument("--out", metavar="FILE", type=Path, help="default: FILE without .codes")
    parser.add_argument("--force", action="store_true", help="replace --out where it is there")


def run(arguments: argparse.Namespace) -> dict:
    out = arguments.out
    if out is None:
        if arguments.file.suffix != ".codes":
            raise UserError(f"{arguments.file} does not end in .codes; say where to, with --out")
        out = arguments.file.with_suffix("")
    check_output(out, arguments.force, arguments.file)
    content = read_input(arguments.file)
    from hat.compression.run import load_table
    from hat.compression.token_file import read_codes

    try:
        data = read_codes(load_table(arguments.table), content)
    except UserError as error:
        raise UserError(f"{arguments.file}: {error}") from None
    write_output(out, data)
    print(f"{out}: {len(data):,} bytes")
    return {"out": str(out), "bytes": len(data)}
