"""How time and memory of a model's parts grow with the row: doubles its length four times.

Every part runs alone, forward and backward, on one row that is one document: random bytes, in as
many words to a byte as the config's rows have. Memory is what the compiler sets aside for the
part's intermediate results, beside parameters, inputs and gradients. A ratio of 2 is linear
growth; attention without a window takes up to 4 times the time.
"""

from __future__ import annotations

import argparse
import itertools

from hat.benchmarks.train import forward_and_backward, median_seconds
from hat.commands.arguments import add_experiment, positive_int, read_experiment

DOUBLINGS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment(parser, default="configs/quickstart.py")
    parser.add_argument("--length", metavar="T", type=positive_int,
                        help="positions of the shortest row (default: the config's row_length)")
    parser.add_argument("--repeats", metavar="N", type=positive_int, default=5,
                        help="timed calls of everything; the median counts (default: 5)")


def run(arguments: argparse.Namespace) -> dict:
    experiment = read_experiment(arguments)
    import jax

    model = experiment.model.build()
    params = jax.jit(model.init)(jax.random.key(0))
    shortest = arguments.length or experiment.data.row_length
    lengths = [shortest * 2**i for i in range(DOUBLINGS + 1)]
    parts: dict[str, list[dict]] = {}
    for length in lengths:
        batch = one_document(experiment, length)
        for name, (forward, inputs) in model.stages(params, batch).items():
            compiled = jax.jit(forward_and_backward(forward)).lower(params, *inputs).compile()
            seconds = median_seconds(lambda: compiled(params, *inputs), arguments.repeats)
            size = compiled.memory_analysis().temp_size_in_bytes
            parts.setdefault(name, []).append({"seconds": seconds, "temporary_bytes": size})
    rows = {name: with_ratios(runs) for name, runs in parts.items()}

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


def with_ratios(runs: list[dict]) -> dict:
    """Lists over the lengths, and the ratio of every two neighbours."""

    def ratios(values):
        return [after / max(before, 1e-9) for before, after in itertools.pairwise(values)]

    seconds = [run["seconds"] for run in runs]
    sizes = [run["temporary_bytes"] for run in runs]
    return {
        "seconds": seconds,
        "temporary_bytes": sizes,
        "time_ratios": ratios(seconds),
        "memory_ratios": ratios(sizes),
    }
