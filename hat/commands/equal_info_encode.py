"""Turns the bytes of a file into the tokens of a static table, a header before them.

hat equal-info decode turns them back. The tokens are 16-bit numbers for windows of up to 16 bits,
else 32-bit ones. What is written has been decoded again first.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hat.commands.files import check_output, read_input, write_output
from hat.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", metavar="TABLE", type=Path, help="of hat equal-info build")
    parser.add_argument("file", metavar="FILE", type=Path, help="any bytes")
    parser.add_argument("--out", metavar="FILE", type=Path, help="default: FILE.codes")
    parser.add_argument("--force", action="store_true", help="replace --out where it is there")


def run(arguments: argparse.Namespace) -> dict:
    out = arguments.out or arguments.file.with_name(arguments.file.name + ".codes")
    check_output(out, arguments.force, arguments.file)
    data = read_input(arguments.file)
    from hat.compression.run import load_table
    from hat.compression.token_file import read_codes, write_codes

    tokenizer = load_table(arguments.table)
    if not tokenizer.lossless:
        raise UserError(f"{arguments.table} is of mode paper, which loses texts: build another")
    content = write_codes(tokenizer, data)
    if read_codes(tokenizer, content) != data:
        raise AssertionError("the codes do not decode to the text")
    write_output(out, content)
    tokens = len(tokenizer.encode(data))
    print(f"{out}: {len(data):,} bytes, {tokens:,} tokens"
          + (f", {len(data) / tokens:.3f} bytes a token" if tokens else ""))
    return {"out": str(out), "bytes": len(data), "tokens": tokens, "table": tokenizer.name}
