"""How time and memory of a model's parts grow with the row: doubles its length four times.

Every part runs alone, forward and backward, on one row that is one document: random bytes, in as
many words to a byte as the config's rows have. All lengths are timed in turn, again and again, and
the fastest call of each counts: whatever else the machine does can only add to it. Memory is what
the compiler sets aside for the part's intermediate results, beside parameters, inputs and gradients.
A ratio of 2 is linear growth; attention without a window takes up to 4 times the time.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import time
from collections.abc import Callable
from typing import Any

from hat.benchmarks.train import forward_and_backward
from hat.commands.arguments import add_experiment, positive_int, read_experiment

DOUBLINGS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment(parser, default="configs/quickstart.py")
    parser.add_argument("--length", metavar="T", type=positive_int,
                        help="positions of the shortest row (default: the config's row_length)")
    parser.add_argument("--repeats", metavar="N", type=positive_int, default=20,
                        help="timed calls of everything; the fastest counts (default: 20)")


def run(arguments: argparse.Namespace) -> dict:
    experiment = read_experiment(arguments)
    import jax

    model = experiment.model.build()
    params = jax.jit(model.init)(jax.random.key(0))
    shortest = arguments.length or experiment.data.row_length
    lengths = [shortest * 2**i for i in range(DOUBLINGS + 1)]
    calls: dict[str, list[Callable]] = {}
    sizes: dict[str, list[int]] = {}
    for length in lengths:
        batch = one_document(experiment, length)
        for name, (forward, inputs) in model.stages(params, batch).items():
            compiled = jax.jit(forward_and_backward(forward)).lower(params, *inputs).compile()
            calls.setdefault(name, []).append(functools.partial(compiled, params, *inputs))
            sizes.setdefault(name, []).append(compiled.memory_analysis().temp_size_in_bytes)
    rows = {
        name: with_ratios(fastest_seconds(calls[name], arguments.repeats), sizes[name])
        for name in calls
    }

    print(f"{experiment.name} on {jax.devices()[0].device_kind}, one row of "
          f"{', '.join(f'{length:,}' for length in lengths)} positions")
    print(f"{'part':12} {'ms':>34}  {'ratios':23} {'MB':>34}  ratios")
    for name, row in rows.items():
        milliseconds = " ".join(f"{1e3 * value:6.1f}" for value in row["seconds"])
        megabytes = " ".join(f"{value / 1e6:6.1f}" for value in row["temporary_bytes"])
        times, memory = (
            " ".join(f"{ratio:5.2f}" for ratio in row[key])
            for key in ("time_ratios", "memory_ratios")
        )
        print(f"{name:12} {milliseconds:>34}  {times:23} {megabytes:>34}  {memory}")
    return {
        "config": experiment.name,
        "device": jax.devices()[0].device_kind,
        "lengths": lengths,
        "parts": rows,
    }


def one_document(experiment, length: int) -> dict:
    """A batch of one full row [1, T] of random ids, with words as long as in a full row."""
    import numpy as np

    from hat.text.rows import Row, expand_tokens, expand_words

    data, lengths = experiment.data, np.array([length], np.int32)
    if data.tokenizer is None:
        words = max(1, length * data.row_words // data.row_length)
        ids = np.random.default_rng(0).integers(0, 256, length, np.int32)
        word = np.arange(length) * words // length
        starts = np.diff(word, prepend=-1) > 0
        row = expand_words(Row(ids, lengths, starts, np.zeros(length, np.int32)), length, words)
    else:
        ids = np.random.default_rng(0).integers(0, experiment.model.num_tokens, length, np.int32)
        row = expand_tokens(Row(ids, lengths), length, np.ones(experiment.model.num_ids, int), 0)
    return {name: values[None] for name, values in row.items()}


def fastest_seconds(calls: list[Callable[[], Any]], repeats: int) -> list[float]:
    """Seconds of the fastest of some calls of each, in turn; the first, which warms up, is left
    out."""
    import jax

    seconds = []
    for _ in range(repeats + 1):
        seconds.append([])
        for call in calls:
            began = time.perf_counter()
            jax.block_until_ready(call())
            seconds[-1].append(time.perf_counter() - began)
    return [min(times) for times in zip(*seconds[1:], strict=True)]


def with_ratios(seconds: list[float], sizes: list[int]) -> dict:
    """Lists over the lengths, and the ratio of every two neighbours."""

    def ratios(values):
        return [after / max(before, 1e-9) for before, after in itertools.pairwise(values)]

    return {
        "seconds": seconds,
        "temporary_bytes": sizes,
        "time_ratios": ratios(seconds),
        "memory_ratios": ratios(sizes),
    }
