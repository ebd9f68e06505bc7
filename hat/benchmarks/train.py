"""Where the time of a training step goes: bytes per second, FLOPs per byte, the parts' shares.

Every part of the model is timed alone, forward and backward, on real rows; so are the optimizer
and the loader. The whole step is timed as training runs it. Shares are of the whole step, so they
need not add up to 1: the compiler fuses across parts, and the loader works beside the step.
FLOPs are the model's by formula (hat.models.flops), forward and backward, over real bytes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from hat.commands.arguments import add_experiment, positive_int, read_experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment(parser)
    parser.add_argument("--repeats", metavar="N", type=positive_int, default=20,
                        help="timed calls of everything; the median counts (default: 20)")


def run(arguments: argparse.Namespace) -> dict:
    experiment = read_experiment(arguments)
    import jax
    import numpy as np

    from hat.data.loader import Loader
    from hat.models.flops import TRAINING_FACTOR
    from hat.training.loop import global_shapes, prepare_corpus
    from hat.training.optimizer import make_optimizer
    from hat.training.program import Program

    config = experiment.training
    corpus = prepare_corpus(experiment)
    loader = Loader(corpus, config.batch_size, config.seed)
    program = Program(experiment, global_shapes(loader, config.batch_size))
    program.compile()
    state = program.init()
    host_batch = loader.batch(0)
    batch = program.place(host_batch)
    model = program.model

    def timed(function: Callable[[], Any]) -> float:
        """Median seconds of a call, its result ready."""
        jax.block_until_ready(function())
        seconds = []
        for _ in range(arguments.repeats):
            began = time.perf_counter()
            jax.block_until_ready(function())
            seconds.append(time.perf_counter() - began)
        return float(np.median(seconds))

    seconds = {}
    for name, (forward, inputs) in model.stages(state.params, batch).items():
        def both(part, *inputs, forward=forward):
            out, backward = jax.vjp(forward, part, *inputs)
            return backward(jax.tree.map(jax.numpy.ones_like, out))

        compiled = jax.jit(both)
        seconds[name] = timed(lambda: compiled(state.params, *inputs))
    optimizer = make_optimizer(config.optimizer, model.logical_axes())
    update = jax.jit(optimizer.update)
    seconds["optimizer"] = timed(lambda: update(state.params, state.opt_state, state.params))
    indices = iter(range(1, 10**9))
    seconds["loader"] = timed(lambda: program.place(loader.batch(next(indices))))

    sums = program.evaluate(state.params, [host_batch])

    def step():
        nonlocal state
        state, metrics = program.step(state, batch, 0.0)
        return metrics

    whole = timed(step)
    flops = {k: TRAINING_FACTOR * v / sums.bytes for k, v in model.batch_flops(host_batch).items()}
    rows = {
        name: {
            "milliseconds": 1e3 * value,
            "share": value / whole,
            "flops_per_byte": flops.get(name, 0.0),
        }
        for name, value in seconds.items()
    }
    total = sum(flops.values())
    result = {
        "config": experiment.name,
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "step_milliseconds": 1e3 * whole,
        "bytes_per_second": sums.bytes / whole,
        "flops_per_byte": total,
        "model_flops_per_second": total * sums.bytes / whole,
        "parts": rows,
    }
    print(f"{experiment.name}: {sums.bytes:,.0f} bytes a step, {1e3 * whole:.1f} ms, "
          f"{sums.bytes / whole:,.0f} bytes/s, {total / 1e6:.2f} MFLOP/byte, "
          f"{result['model_flops_per_second'] / 1e9:.1f} GFLOP/s")
    print(f"{'part':12} {'ms':>8} {'share':>7} {'MFLOP/byte':>11} {'GFLOP/s':>8}")
    for name, row in rows.items():
        per_byte = row["flops_per_byte"]
        rate = per_byte * sums.bytes / seconds[name] / 1e9
        print(f"{name:12} {row['milliseconds']:8.2f} {row['share']:7.1%} {per_byte / 1e6:11.3f} "
              f"{rate:8.1f}")
    return result
