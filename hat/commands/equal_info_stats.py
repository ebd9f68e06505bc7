"""What the tokens of tables are worth, beside BPE and SentencePiece trained on the same text.

The text is divided as for hat train: BPE and SentencePiece learn the training part, and all are
measured on the held-out one. With --model, also how full the windows are: the information of their
bytes over their bits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hat.commands.arguments import positive_int

MOST_WINDOWS = 20_000  # whose information is measured
MOST_BYTES = 4_000_000  # of the training part, for BPE and SentencePiece
ROWS = 128


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tables", metavar="TABLE", type=Path, nargs="+",
                        help="of hat equal-info build")
    parser.add_argument("--data", metavar="SOURCE", default="stdlib",
                        help="as of hat train (default: stdlib)")
    parser.add_argument("--model", metavar="M1", type=Path, help="the run that the tables are of")
    parser.add_argument("--vocabulary", metavar="N", type=positive_int, nargs="+", default=[4096],
                        help="tokens of BPE and SentencePiece (default: 4096)")
    parser.add_argument("--heldout", metavar="FRACTION", type=float, default=0.05,
                        help="of the text (default: 0.05)")


def run(arguments: argparse.Namespace) -> dict:
    from hat.compression.analysis import spelling
    from hat.compression.run import load_table
    from hat.errors import UserError
    from hat.text.tokenizers import train_bpe, train_sentencepiece
    from hat.training.progress import warn

    if not 0 < arguments.heldout < 1:
        raise UserError(f"--heldout {arguments.heldout}: give a fraction between 0 and 1")
    tables = [load_table(path) for path in arguments.tables]
    train, heldout = divided(arguments.data, arguments.heldout)
    rows = {}
    for tokenizer in tables:
        name = f"{tokenizer.table.mode} {tokenizer.table.bits}"
        row = rows[name] = spelling(tokenizer, heldout)
        row["name"], row["lossless"] = tokenizer.name, tokenizer.lossless
        if arguments.model is not None:
            row["fill"] = fill(arguments.model, tokenizer, heldout)
    for size in arguments.vocabulary:
        for name, make in (("BPE", train_bpe), ("SentencePiece", train_sentencepiece)):
            warn(f"training {name} of {size}")
            rows[f"{name} {size}"] = spelling(make(train, size), heldout)
    print(f"{'':20}{'vocabulary':>11}{'bytes/token':>12}{'uniform':>9}{'unigram':>9}{'fill':>7}")
    for name, row in rows.items():
        full = f"{row['fill']:7.1%}" if "fill" in row else ""
        note = "" if row.get("lossless", True) else "   not lossless"
        print(f"{name:20}{row['vocabulary']:11,}{row['bytes_per_token']:12.3f}"
              f"{row['uniform_bits_per_byte']:9.3f}{row['unigram_bits_per_byte']:9.3f}{full}{note}")
    return {"heldout_bytes": sum(map(len, heldout)), "spellings": rows}


def divided(source: str, fraction: float) -> tuple[list[bytes], list[bytes]]:
    """The beginning of the training documents, and those held out, of a source."""
    from hat.data.sources import Skipped, Source
    from hat.data.splits import plan_splits

    documents = [document.data for document in Source(source).documents(Skipped())]
    plan = plan_splits([len(data) for data in documents], fraction, 0.0)
    parts: dict[str, list[bytes]] = {"train": [], "validation": [], "heldout": []}
    for number, data in enumerate(documents):
        for split, part in plan.divide(number, data):
            parts[split].append(part)
    size = 0
    for count, part in enumerate(parts["train"]):
        size += len(part)
        if size > MOST_BYTES:
            return parts["train"][: count + 1], parts["heldout"]
    return parts["train"], parts["heldout"]


def fill(model: Path, tokenizer, documents: list[bytes]) -> float:
    """Of the first windows of documents. UserError: the table is another model's."""

    from hat.compression.analysis import information
    from hat.compression.run import load_m1
    from hat.compression.windows import WindowConfig
    from hat.errors import UserError

    its = tokenizer.table
    predictor, _ = load_m1(model, ROWS)
    if predictor.model_hash != its.model:
        raise UserError(f"the table is of model {its.model[:12]}, and {model} is "
                        f"{predictor.model_hash[:12]}: give the run that it was built from")
    windows: list[bytes] = []
    for document in documents:
        if len(windows) < MOST_WINDOWS:
            windows += tokenizer.windows(document)
    windows = windows[:MOST_WINDOWS]
    config = WindowConfig(its.bits, its.mode, its.context)
    return float(information(predictor, config, windows).mean()) / its.bits
