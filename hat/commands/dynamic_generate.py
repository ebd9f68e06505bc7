"""Continues a prompt with a very large vocabulary, grown from a model's own by byte-pair merging.

The merges are those of --text (one text a file, or "stdlib"), their rows those of a trained
--hypernetwork or made of their parts as --rows says. Every step scores the whole vocabulary, in
blocks, exactly; --approximate takes the best of each block as TPUs do it fast. Recall of that
search is printed for what was written. A drawn token is one of the 20 likeliest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hat.commands.arguments import positive_int, raw
from hat.errors import UserError
from hat.training.config import ROWS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", type=Path, help="the run of a subword Llama")
    parser.add_argument("--vocabulary", metavar="N", type=positive_int, required=True,
                        help="tokens in all, those of the model among them")
    parser.add_argument("--prompt", metavar="TEXT", default="", help="(default: none)")
    parser.add_argument("--tokens", metavar="N", type=positive_int, default=64,
                        help="at most (default: 64)")
    parser.add_argument("--text", metavar="SOURCE", default="stdlib",
                        help="what the vocabulary is grown on, as of hat train (default: stdlib)")
    parser.add_argument("--boundary", default="word",
                        help="what tokens never cross: pretoken, word (default), word-hyphen, sentence")
    parser.add_argument("--hypernetwork", metavar="RUN", type=Path, help="a trained one")
    parser.add_argument("--rows", choices=ROWS,
                        help="without --hypernetwork: means of parts (mean, the default), or with "
                        "embeddings of last parts (last) or of longest suffixes (suffix)")
    parser.add_argument("--temperature", metavar="T", type=float, default=0.0,
                        help="0 (default): the likeliest token")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="(default: 0)")
    parser.add_argument("--approximate", action="store_true", help="search approximately")


def run(arguments: argparse.Namespace) -> dict:
    if not 0 <= arguments.temperature < float("inf"):
        raise UserError(f"--temperature {arguments.temperature} must be 0 (greedy) or more")
    if arguments.rows is not None and arguments.hypernetwork is not None:
        raise UserError("--rows and --hypernetwork are two ways to make rows; give one")
    from hat.data.sources import Skipped, Source
    from hat.dynamic_tokenization.base import load_base, load_hypernetwork
    from hat.dynamic_tokenization.boundaries import check_boundary
    from hat.dynamic_tokenization.embeddings import (
        KnownSpellings,
        RowCache,
        source_of,
        untrained,
    )
    from hat.dynamic_tokenization.large_vocabulary import CANDIDATES, LargeModel, grow

    check_boundary(arguments.boundary)
    loaded = load_base(arguments.model)
    model, params, tokenizer = loaded.model, loaded.params, loaded.tokenizer
    (predictor, known), most_parts = untrained(arguments.rows or "mean", tokenizer), None
    if arguments.hypernetwork is not None:
        predictor, most_parts = load_hypernetwork(arguments.hypernetwork, model, tokenizer)
        known = KnownSpellings(tokenizer)
    texts = [document.data for document in Source(arguments.text).documents(Skipped())]
    table = grow(
        tokenizer, model.config.num_ids, texts, arguments.vocabulary, arguments.boundary, most_parts
    )
    rows = RowCache(predictor, source_of(model, params), known, len(table))
    large = LargeModel(model, params, tokenizer, table, rows, arguments.boundary)
    made = large.write(
        raw(arguments.prompt), arguments.tokens, temperature=arguments.temperature,
        seed=arguments.seed, approximate=arguments.approximate,
    )  # fmt: skip
    found = large.recall(made.hidden)
    prompt = raw(arguments.prompt)
    base_tokens = len(tokenizer.encode(made.text))
    print((prompt + made.text).decode("utf-8", "replace"))
    steps = max(len(made.symbols), 1)
    print(f"\n{len(made.symbols)} tokens for {base_tokens} of the model's own, "
          f"{len(made.text) / steps:.2f} bytes a token; recall@{CANDIDATES} of the approximate "
          f"search {found:.3f}")
    return {
        "prompt": prompt.decode("utf-8", "replace"), "text": made.text.decode("utf-8", "replace"),
        "tokens": len(made.symbols), "base_tokens": base_tokens, "ended": made.ended,
        "vocabulary": arguments.vocabulary, "recall": found,
        "seconds_per_token": made.seconds / max(len(made.symbols) - 2, 1),
    }  # fmt: skip
