"""Bits per byte of files under a trained model.

The score of a file is the total negative log2-likelihood of its bytes and of the end of its text,
over the number of its bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="the output folder of hat train")
    parser.add_argument("files", metavar="FILE", type=Path, nargs="+", help="files of any bytes")


def run(arguments: argparse.Namespace) -> dict:
    from hat.inference.run import load_run
    from hat.inference.scoring import bits_per_byte

    result = bits_per_byte(load_run(arguments.run), arguments.files)
    for score in [*result["files"], {**result, "path": "in all"}]:
        print(f"{score['bits_per_byte']:8.4f} bits per byte {score['bytes']:>13,} bytes  "
              f"{score['path']}")
    return result
