"""Merges the tokens of a trained subword model further, in the texts that it reads.

Each FILE is one text (give a file a language). Prints the merged tokens that it makes most of, the
positions that are saved, and bits per byte at several reductions: with rows of merged tokens that are
means of their parts ("mean"); with the embedding of the last part ("last"), or of the longest token
that the text of the merged one ends with ("suffix"), where heads stay means; and with those of a
trained --hypernetwork.

--scope example (the default) counts the pairs of a text in that text; its table of merges is then
part of what the text costs ("of it the table"). --scope corpus learns the table from --merges-from,
which is owed nothing. --scope batch counts in all FILEs together: tokens are shown, but there are no
likelihoods, as a text's tokens depend on the others.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path

from hat.commands.arguments import positive_int
from hat.errors import UserError

EXCERPT = 24  # symbols of a text that are shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", type=Path, help="the run of a subword Llama")
    parser.add_argument("--text", metavar="FILE", type=Path, nargs="+", required=True)
    parser.add_argument("--reduction", metavar="R", type=share, default=0.3,
                        help="positions to save, 30%% or 0.3 (default: 30%%)")
    parser.add_argument("--boundary", default="word",
                        help="what merges never cross: pretoken, word (default), word-hyphen, sentence")
    parser.add_argument("--scope", default="example", help="example (default), batch or corpus")
    parser.add_argument("--merges-from", metavar="FILE", type=Path, nargs="+", default=[],
                        help="with --scope corpus: the texts that the merges are learned from")
    parser.add_argument("--hypernetwork", metavar="RUN", type=Path, help="a trained one")
    parser.add_argument("--points", metavar="N", type=positive_int, default=3,
                        help="reductions up to R at which bits per byte are measured (default: 3)")
    parser.add_argument("--most-parts", metavar="N", type=positive_int,
                        help="base tokens of a merged one (default: those of the hypernetwork, else 8)")


def share(text: str) -> float:
    """"30%" and "0.3" are the same."""
    match = re.fullmatch(r"\s*(-?[0-9]*\.?[0-9]+)\s*(%?)\s*", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no share: write 30% or 0.3")
    return float(match[1]) / (100 if match[2] else 1)


def run(arguments: argparse.Namespace) -> dict:
    check(arguments)
    from hat.commands.byte_exact_score import read_text
    from hat.dynamic_tokenization.base import load_base, load_hypernetwork
    from hat.dynamic_tokenization.boundaries import check_boundary, encode
    from hat.dynamic_tokenization.embeddings import (
        PREDICTORS,
        KnownSpellings,
        RowCache,
        source_of,
        untrained,
    )
    from hat.dynamic_tokenization.measure import Reader
    from hat.dynamic_tokenization.merging import learn

    check_boundary(arguments.boundary)
    texts = [read_text(path, None) for path in arguments.text]
    loaded = load_base(arguments.model)
    model, params, tokenizer = loaded.model, loaded.params, loaded.tokenizer
    ways = {way: untrained(way, tokenizer) for way in PREDICTORS}
    most_parts = arguments.most_parts or 8
    if arguments.hypernetwork is not None:
        predictor, its_parts = load_hypernetwork(arguments.hypernetwork, model, tokenizer)
        ways["hypernetwork"] = predictor, KnownSpellings(tokenizer)
        most_parts = arguments.most_parts or its_parts
    source = source_of(model, params)
    caches = {way: RowCache(predictor, source, known) for way, (predictor, known) in ways.items()}

    base, table = model.config.num_ids, None
    if arguments.scope == "corpus":
        others = [read_text(path, None) for path in arguments.merges_from]
        for path, text in zip(arguments.merges_from, others):
            if text in texts:
                raise UserError(
                    f"--merges-from {path} is scored too: its table would tell of it; give another "
                    "text, or use --scope example"
                )
        encoded = [encode(text, tokenizer, arguments.boundary) for text in others]
        table = learn(encoded, base, most_parts=most_parts)
    names = [str(path) for path in arguments.text]
    reader = Reader(
        texts, tokenizer, base, boundary=arguments.boundary, scope=arguments.scope,
        most_parts=most_parts, table=table, names=names,
    )  # fmt: skip
    merged = reader.at(arguments.reduction)
    shown = {name: show(name, its, tokenizer) for name, its in zip(names, merged)}
    result = {"model": str(arguments.model), "boundary": arguments.boundary,
              "scope": arguments.scope, "reduction": arguments.reduction, "files": shown}  # fmt: skip
    if arguments.scope == "batch":
        print("no bits per byte: under --scope batch the tokens of a text depend on the other texts")
        return result | {"curve": []}
    return result | {"curve": curve(arguments, loaded, reader, caches)}


def check(arguments: argparse.Namespace) -> None:
    """UserError for options that do not belong together; before anything is loaded."""
    scopes = ("example", "batch", "corpus")
    if arguments.scope not in scopes:
        raise UserError(f"--scope {arguments.scope} is not known; choose one of {', '.join(scopes)}")
    if (arguments.scope == "corpus") != bool(arguments.merges_from):
        raise UserError("--merges-from FILE goes with --scope corpus, which needs it")
    if not 0 <= arguments.reduction < 1:
        raise UserError(f"--reduction {arguments.reduction:.0%} cannot be; give 0% to below 100%")


def show(name: str, its, tokenizer) -> dict:
    """Prints a text's positions, its commonest merged tokens and its beginning; the numbers."""
    table, symbols = its.table, its.symbols
    parts = table.parts()

    def spell(symbol: int) -> str:
        ids = parts[symbol - table.base] if symbol >= table.base else (symbol,)
        text = tokenizer.decode(ids).decode("utf-8", "backslashreplace")
        return text.replace("\n", "\\n").replace("\t", "\\t").replace(" ", "\u2423")

    saved = 1 - len(symbols) / max(its.base_length, 1)
    counts = Counter(symbols[symbols >= table.base].tolist())
    common = [(spell(symbol), count) for symbol, count in counts.most_common(12)]
    print(f"{name}: {its.base_length:,} tokens -> {len(symbols):,} ({saved:.1%} saved), "
          f"{len(table):,} merges")
    print("  " + "  ".join(f"{text} {count}" for text, count in common))
    print("  " + "|".join(map(spell, symbols[:EXCERPT].tolist())))
    return {"base_positions": its.base_length, "positions": len(symbols), "saved": saved,
            "merges": len(table), "tokens": dict(common)}  # fmt: skip


def curve(arguments: argparse.Namespace, loaded, reader, caches) -> list[dict]:
    """Bits per byte of all texts at rising reductions, printed line by line."""
    from hat.dynamic_tokenization.measure import costs, together

    print(f"{'reduction':>9} {'saved':>7} {'rows':12} {'bits/byte':>9} {'of it the table':>15}")
    found = []
    for point in range(arguments.points + 1):
        wanted = arguments.reduction * point / arguments.points
        merged = reader.at(wanted)
        saved = 1 - sum(len(m.symbols) for m in merged) / sum(m.base_length for m in merged)
        for way, cache in caches.items():
            each = costs(
                loaded.model, loaded.params, loaded.tokenizer, reader.texts, merged, cache,
                scope=arguments.scope, row_length=loaded.experiment.data.row_length,
            )  # fmt: skip
            cost = together(each)
            owed = cost.bits_per_byte - cost.given_table
            print(f"{wanted:9.1%} {saved:7.1%} {way:12} {cost.bits_per_byte:9.4f} {owed:15.4f}")
            found.append({
                "reduction": wanted, "saved": saved, "rows": way,
                "bits_per_byte": cost.bits_per_byte, "table_bits_per_byte": owed,
                "files": {str(path): its.bits_per_byte for path, its in zip(arguments.text, each)},
            })  # fmt: skip
    return found
