"""Log-probability of every byte of a text under a tokenized model, or any model of bytes.

A tokenized model gives no probability to bytes by itself: a law says which sequences of tokens
count (canonical, all, last-free). Bits per byte are those of the law as it is, its losses charged;
"normalised" are those of its rows made to sum to 1. --law all goes byte by byte with a beam: its
bits per byte are between "at least" and what is printed.

The probability is of the bytes of FILE as they stand: no space is put before them, and nothing is
normalised. A model trained with a space before every text wants --given " ".
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from hat.commands.arguments import positive_int, raw
from hat.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", type=Path, help="a folder of hat train or convert")
    parser.add_argument("file", metavar="FILE", type=Path, help="the text, any bytes")
    parser.add_argument("--law", default="canonical",
                        help="canonical (default), all, last-free, or table: the three side by side")
    parser.add_argument("--beam", metavar="K", type=positive_int, default=16,
                        help="covers that law all follows beside the canonical ones (default: 16)")
    parser.add_argument("--bytes", metavar="N", type=positive_int,
                        help="score the first N bytes only")
    parser.add_argument("--given", metavar="TEXT", default="",
                        help="stands before the text and is not scored (default: nothing)")
    parser.add_argument("--out", metavar="FILE", type=Path,
                        help="write a line for every byte: byte, nats, share lost")


def run(arguments: argparse.Namespace) -> dict:
    if arguments.out is not None and arguments.out.exists():
        raise UserError(f"--out {arguments.out} is there already; choose another")
    if arguments.law == "table" and arguments.out is not None:
        raise UserError("--out goes with one law, not with --law table")
    text = read_text(arguments.file, arguments.bytes)
    from hat.byte_exact.laws import LAWS, check_law
    from hat.byte_exact.run import load_byte_model
    from hat.byte_exact.tokenized import TokenizedModel

    laws = list(LAWS) if arguments.law == "table" else [arguments.law]
    for law in laws:
        check_law(law)
    model = load_byte_model(arguments.model, laws[0], arguments.beam)
    tokenized = isinstance(model, TokenizedModel)
    if not tokenized:
        laws = ["none"]
    table = {}
    print(f"{'law':10} {'bits/byte':>9} {'at least':>9} {'normalised':>10} {'lost':>9} {'most':>9}")
    for law in laws:
        its = model.with_law(law, arguments.beam) if tokenized else model
        table[law], nats, missing = score(its, text, raw(arguments.given))
        row = table[law]
        print(f"{law:10} {row['bits_per_byte']:9.4f} {row['least_bits_per_byte']:9.4f} "
              f"{row['normalised_bits_per_byte']:10.4f} "
              f"{row['mean_lost']:9.2e} {row['most_lost']:9.2e}")
    if arguments.out is not None:
        write_lines(arguments.out, text, nats, missing)
    return {"model": str(arguments.model), "file": str(arguments.file), "bytes": len(text),
            "laws": table}


def score(model, text: bytes, given: bytes = b"") -> tuple[dict, object, object]:
    """A row of the table, and of every byte and the end the nats and the share that is lost."""
    from hat.byte_exact.model import chosen, lost, normalized
    from hat.byte_exact.tokenized import TokenizedModel

    if isinstance(model, TokenizedModel):
        ((rows, least),) = model.bounded([given + text])
    else:
        rows, least = model.logprobs(given + text), None
    before = float(chosen(rows, given + text)[: len(given)].sum())
    rows = rows[len(given) :]
    nats, missing = -chosen(rows, text), lost(rows)
    normalised = -chosen(normalized(rows), text)
    bits = 1 / math.log(2) / len(text)
    return {
        "nats": float(nats.sum()),
        "bits_per_byte": float(nats.sum()) * bits,
        "least_bits_per_byte": (float(nats.sum()) if least is None else least + before) * bits,
        "normalised_bits_per_byte": float(normalised.sum()) * bits,
        "mean_lost": float(missing.mean()),
        "most_lost": float(missing.max()),
    }, nats, missing


def read_text(path: Path, most: int | None) -> bytes:
    try:
        text = path.read_bytes()[:most]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a readable file") from None
    if not text:
        raise UserError(f"{path} is empty: it has no bytes to score; give another file")
    return text


def write_lines(path: Path, text: bytes, nats, missing) -> None:
    from hat.data.records import sync

    partial = path.with_name(f".{path.name}.partial")
    symbols = [f"{byte:02x}" for byte in text] + ["end"]
    lines = (f"{s}\t{n:.6f}\t{m:.3e}\n" for s, n, m in zip(symbols, nats, missing))
    partial.write_text("byte\tnats\tlost\n" + "".join(lines), encoding="utf-8")
    sync(partial)
    partial.rename(path)
