"""Scores files byte by byte and word by word, and shows where a model is surprised.

Prints bits per byte, as hat evaluate bits-per-byte does. --html writes a page on which every
character has the colour of its surprise and the words are marked. --json also gives the
log-probabilities, natural ones: of every byte, of every word (of a subword model, of every token,
and of none of its bytes) with the bytes it spans, and of the end of the text.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hat.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="the output folder of hat train")
    parser.add_argument("files", metavar="FILE", type=Path, nargs="+", help="files of any bytes")
    parser.add_argument("--html", metavar="PAGE", type=Path, help="write the page here")
    parser.add_argument("--overwrite", action="store_true", help="also where PAGE is there already")


def run(arguments: argparse.Namespace) -> dict:
    if arguments.html is not None and arguments.html.exists() and not arguments.overwrite:
        raise UserError(f"--html {arguments.html} is there already; add --overwrite, or another name")
    if arguments.overwrite and arguments.html is None:
        raise UserError("--overwrite is of --html PAGE: add that, or leave it out")
    from hat.inference.run import load_run
    from hat.inference.scoring import score_files, summary
    from hat.inference.surprise import page, scored, word_starts
    from hat.training.run_folder import write_atomically

    loaded = load_run(arguments.run)
    documents, scores = score_files(loaded, arguments.files)
    unit = "words" if loaded.tokenizer is None else "tokens"
    starts = [word_starts(loaded.rule, data) for data in documents]
    if arguments.html is not None:
        names = map(str, arguments.files)
        text = page(
            f"{loaded.experiment.name}: surprise",
            unit,
            [scored(*document) for document in zip(names, documents, scores, starts)],
        )
        try:
            write_atomically(arguments.html, text)
        except OSError as error:
            raise UserError(f"--html {arguments.html}: {error.strerror}") from None
    files = []
    for path, data, score, begins in zip(arguments.files, documents, scores, starts):
        files.append({"path": str(path)} | summary(len(data), [score]))
        print(f"{files[-1]['bits_per_byte']:8.4f} bits per byte {len(data):>13,} bytes "
              f"{score.words:>11,} {unit}  {path}")
        if arguments.json:
            files[-1] |= logprobs(score.nats, begins, len(data))
    if arguments.html is not None:
        print(arguments.html)
    everything = summary(sum(map(len, documents)), scores)
    return {"unit": unit, "html": arguments.html, "files": files} | everything


def logprobs(nats, starts, count: int) -> dict:
    """What --json says of the bytes and words of a document of `count` bytes. nats: of every id and
    of the end; starts: of its words, or tokens."""
    import numpy as np

    of_ids = -nats[:-1].astype(np.float64)
    of_bytes = {"byte_logprobs": of_ids} if len(of_ids) == count else {}
    words = zip(starts.tolist(), [*starts[1:].tolist(), count])
    return of_bytes | {
        "word_logprobs": np.add.reduceat(of_ids, starts) if of_bytes else of_ids,
        "word_bytes": [list(word) for word in words],
        "end_logprob": -float(nats[-1]),
    }
