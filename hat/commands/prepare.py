"""`hat prepare SOURCE --out DIR`: text to packed rows."""

from __future__ import annotations

import argparse
import dataclasses


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from hat.data.config import DataConfig

    default = {field.name: field.default for field in dataclasses.fields(DataConfig)}
    parser.add_argument(
        "source", help='a text, .jsonl or .parquet file (.gz, .zst), a folder, or "stdlib"'
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder of the corpus")
    parser.add_argument(
        "--splitter", default=default["splitter"], help='"words", "whitespace" or "stride:8"'
    )
    parser.add_argument(
        "--tokenizer", help='rows of tokens: "bytes", "bpe:4096" or a tokenizer file'
    )
    parser.add_argument(
        "--row-length", type=int, default=default["row_length"], metavar="T", help="ids in a row"
    )
    parser.add_argument(
        "--row-words", type=int, default=default["row_words"], metavar="N", help="words in a row"
    )
    parser.add_argument(
        "--heldout", type=float, default=default["heldout_fraction"], metavar="F",
        help="share of the bytes, the last ones, that are held out",
    )  # fmt: skip
    parser.add_argument(
        "--validation", type=float, default=default["validation_fraction"], metavar="F",
        help="share of the bytes before them that validate",
    )  # fmt: skip
    parser.add_argument(
        "--text-field", default=default["text_field"], metavar="NAME",
        help="the JSONL field or Parquet column that holds the text",
    )  # fmt: skip
    parser.add_argument("--strict", action="store_true", help="stop at the first bad line")


def run(arguments: argparse.Namespace) -> dict:
    """Prepares the corpus, prints its table, and returns the content of corpus.json."""
    from hat.data.config import DataConfig
    from hat.data.prepare import prepare
    from hat.training.progress import Stages, warn

    config = DataConfig(
        source=arguments.source,
        splitter=arguments.splitter,
        tokenizer=arguments.tokenizer,
        row_length=arguments.row_length,
        row_words=arguments.row_words,
        heldout_fraction=arguments.heldout,
        validation_fraction=arguments.validation,
        text_field=arguments.text_field,
        strict=arguments.strict,
    )
    with Stages("B") as progress:
        corpus = prepare(config, arguments.out, progress, warn)
    print(f"{corpus.folder}\n{table(corpus.info)}")
    return dataclasses.asdict(corpus.info)


def table(info) -> str:
    """One line for each split, and one for each reason to skip."""
    lines = [
        f"{'split':<11}{'documents':>10}{'MB':>10}{'rows':>9}{'mean piece':>12}"
        f"{'ids used':>10}{'words used':>12}"
    ]
    for name, split in info.splits.items():
        words = "-" if split.word_fill is None else f"{split.word_fill:.1%}"
        lines.append(
            f"{name:<11}{split.documents:>10,}{split.bytes / 1e6:>10.2f}{split.rows:>9,}"
            f"{split.mean_piece_bytes:>10.0f} B{split.position_fill:>10.1%}{words:>12}"
        )
    lines += [f"skipped: {count} {reason}" for reason, count in info.skipped.items()]
    return "\n".join(lines)
