"""Makes the static table of an M1: every window of W bits, and the bytes that it spells.

--out is a folder that then holds tokenizer.table: hat equal-info encode and decode take it, and
hat prepare --tokenizer and data.tokenizer of a config as well.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hat.commands.arguments import positive_int
from hat.commands.files import check_new_folder

ROWS = 128  # of the model's step; others would round otherwise, and make another table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="M1", type=Path, help="a run of hat equal-info train-m1")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="a new folder")
    parser.add_argument("--window-bits", metavar="W", type=positive_int, default=16,
                        help="of a window, 8 to 20 (default: 16)")
    parser.add_argument("--mode", default="stop-cell",
                        help="stop-cell (default), delay, or paper, which is not lossless")


def run(arguments: argparse.Namespace) -> dict:
    from hat.data.records import appearing

    out = arguments.out
    check_new_folder(out)
    from hat.compression.build import build_table
    from hat.compression.run import load_m1, window_config
    from hat.text.window_table import TableTokenizer
    from hat.training.progress import Progress, warn

    predictor, context = load_m1(arguments.model, ROWS)
    config = window_config(arguments.window_bits, arguments.mode, context)
    with Progress("table", unit="windows") as progress:
        table = build_table(predictor, config, progress.update)
    tokenizer = TableTokenizer(table)
    if not tokenizer.lossless:
        warn("mode paper is not lossless: some texts have their codes in common with others")
    with appearing(out) as folder:
        tokenizer.save(folder)
    lengths = sorted(map(len, table.strings))
    result = {
        "table": str(out), "name": tokenizer.name, "model": table.model, "mode": table.mode,
        "window_bits": table.bits, "strings": len(lengths), "mean_bytes": sum(lengths) / len(lengths),
        "longest_bytes": lengths[-1], "vocab_size": tokenizer.vocab_size, "bos": tokenizer.bos,
        "eot": tokenizer.eot, "pad": tokenizer.pad, "sha256": tokenizer.digest.hex(),
    }  # fmt: skip
    print(f"{out}: {len(lengths):,} strings, {result['mean_bytes']:.2f} bytes on average, at most "
          f"{lengths[-1]}\n{tokenizer.name}\nto train on its tokens: model.num_tokens="
          f"{tokenizer.vocab_size} model.eot_id={tokenizer.eot} data.tokenizer={out}")
    return result
