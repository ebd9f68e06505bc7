"""Items a second of `hat evaluate`, packed into rows, against scoring one choice at a time.

A model of the config with fresh parameters scores the same choices after the same contexts, taken
from the standard library of Python, both ways in one run. One at a time, a batch is one row, which
holds one text and is the shortest power of two that does. All shapes are compiled beforehand.
Nothing else should run beside it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import jax
import numpy as np

from hat.commands.arguments import add_experiment, positive_int, read_experiment
from hat.data.sources import Skipped, Source
from hat.errors import UserError
from hat.evaluation.scoring import Scorer
from hat.evaluation.streams import Stream
from hat.text.splitters import make_splitter
from hat.text.tokenizers import ByteTokenizer

CONTEXT_BYTES, CHOICE_BYTES, CHOICES = 160, 40, 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment(parser, default="configs/quickstart.py")
    parser.add_argument("--items", metavar="N", type=positive_int, default=200,
                        help=f"of {CHOICES} choices each (default: 200)")
    parser.add_argument("--batch-size", metavar="N", type=positive_int, default=8,
                        help="rows of a batch (default: 8)")  # fmt: skip


def run(arguments: argparse.Namespace) -> dict:
    """Prints both rates and their ratio."""
    experiment = read_experiment(arguments)
    data, model = experiment.data, experiment.model.build()
    if data.tokenizer not in (None, "bytes"):
        raise UserError(f"data.tokenizer {data.tokenizer!r}: this benchmark reads bytes; set it to "
                        "none or bytes")
    rule = ByteTokenizer() if data.tokenizer else make_splitter(data.splitter)
    params = jax.jit(model.init)(jax.random.key(0))
    packed = Scorer(model, params, rule, row_length=data.row_length, row_words=data.row_words,
                    batch_size=arguments.batch_size)  # fmt: skip
    alone = OneAtATime(model, params, rule, data.row_length, data.row_words)
    items = make_items(arguments.items)
    pairs = [pair for item in items for pair in item]
    size = sum(len(context) + len(choice) for context, choice in pairs)

    ways: dict[str, Callable] = {
        "packed": lambda pairs: packed.continuations(pairs),
        "one at a time": lambda pairs: [alone.score(pair) for pair in pairs],
    }
    scores, rates = {}, {}
    print(f"{len(items)} items of {CHOICES} choices, {size / len(pairs):.0f} bytes a text, rows of "
          f"{data.row_length} ids, batches of {arguments.batch_size}")
    for name, score in ways.items():
        score(pairs)  # compiles
        began = time.perf_counter()
        scores[name] = score(pairs)
        rates[name] = len(items) / (time.perf_counter() - began)
        kilobytes = rates[name] * size / len(items) / 1e3
        print(f"{name:14} {rates[name]:8.2f} items/s {kilobytes:8.1f} kB/s")
    ratio = rates["packed"] / rates["one at a time"]
    apart = max(abs(a.nats - b.nats) for a, b in zip(*scores.values()))
    print(f"{ratio:.1f} times as many; scores are at most {apart:.1e} nats apart")
    return {"items": len(items), "items_per_second": rates, "ratio": ratio,
            "largest_difference": apart}  # fmt: skip


class OneAtATime:
    """What a first version of an evaluation does: a pass for every text, at its own length up to
    the model's context, `row_length` ids and `row_words` words."""

    def __init__(self, model, params, rule, row_length: int, row_words: int):
        self._parts, self._most = (model, params, rule), (row_length, row_words)
        self._scorers: dict[int, Scorer] = {}

    def score(self, pair: tuple[bytes, bytes]):
        size = len(pair[0]) + len(pair[1]) + 2  # BOS and EOT
        length, words = min((max(64, 1 << (size - 1).bit_length()),) * 2, self._most)
        if length not in self._scorers:
            self._scorers[length] = Scorer(
                *self._parts, row_length=length, row_words=words, batch_size=1
            )
        (score,) = self._scorers[length].continuations([pair])
        return score


def make_items(count: int) -> list[list[tuple[bytes, bytes]]]:
    """Contexts with CHOICES choices each, of half to one and a half of the usual lengths."""
    text = b"".join(d.data for d in Source("stdlib", "text").documents(Skipped()))
    stream = Stream(0, "bench evaluate")
    sizes = stream.uniform(0, count * (1 + CHOICES)).reshape(count, -1) + 0.5
    sizes = (sizes * np.array([CONTEXT_BYTES] + [CHOICE_BYTES] * CHOICES)).astype(int)
    places = stream.below(1, sizes.size, len(text) - sizes.max()).reshape(sizes.shape)
    items = []
    for its_places, its_sizes in zip(places.tolist(), sizes.tolist()):
        context, *choices = [text[p : p + n] for p, n in zip(its_places, its_sizes)]
        items.append([(context, choice) for choice in choices])
    return items
