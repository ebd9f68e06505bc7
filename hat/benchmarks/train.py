"""Where the time of a training step goes: bytes per second, FLOPs per byte, the parts' shares.

Every part of the model is timed alone, forward and backward, on real rows; so are the optimizer
and the loader. The whole step is timed as training runs it. Shares are of the whole step, so they
need not add up to 1: the compiler fuses across parts, and the loader works beside the step.
FLOPs are the model's by formula (hat.models.flops), forward and backward, over real bytes. MFU is
their rate by the ceiling of the devices: the data sheet's bfloat16 rate of a known accelerator;
elsewhere the rate of a large float32 product, measured here.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hat.commands.arguments import add_experiment, positive_int, read_experiment

PROFILED_STEPS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment(parser)
    parser.add_argument("--repeats", metavar="N", type=positive_int, default=20,
                        help="timed calls of everything; the median counts (default: 20)")
    parser.add_argument("--profile", metavar="DIR", type=Path,
                        help="also write a trace of three steps there, for TensorBoard or Perfetto")


def run(arguments: argparse.Namespace) -> dict:
    experiment = read_experiment(arguments)
    import jax

    from hat.data.loader import Loader
    from hat.models.flops import TRAINING_FACTOR
    from hat.training.loop import prepare_corpus
    from hat.training.optimizer import make_optimizer
    from hat.training.program import Program

    config = experiment.training
    corpus = prepare_corpus(experiment)
    loader = Loader(corpus, config.batch_size, config.seed)
    program = Program(experiment, loader.shapes)
    program.compile()
    state = program.init()
    host_batch = loader.batch(0)
    batch = program.place(host_batch)
    model = program.model

    def timed(function: Callable[[], Any]) -> float:
        return median_seconds(function, arguments.repeats)

    seconds = {}
    for name, (forward, inputs) in model.stages(state.params, batch).items():
        compiled = jax.jit(forward_and_backward(forward))
        seconds[name] = timed(lambda: compiled(state.params, *inputs))
    optimizer = make_optimizer(config.optimizer, model.logical_axes())
    update = jax.jit(optimizer.update)
    seconds["optimizer"] = timed(lambda: update(state.params, state.opt_state, state.params))
    indices = iter(range(1, 10**9))
    seconds["loader"] = timed(lambda: program.place(loader.batch(next(indices))))

    sums, _ = program.evaluate(state.params, [host_batch])

    def step():
        nonlocal state
        state, metrics = program.step(state, batch, 0.0)
        return metrics

    whole = timed(step)
    if arguments.profile:
        with jax.profiler.trace(str(arguments.profile)):
            for _ in range(PROFILED_STEPS):
                jax.block_until_ready(step())
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
    ceiling, source = ceiling_flops_per_second()
    for name, row in rows.items():
        row["mfu"] = row["flops_per_byte"] * sums.bytes / seconds[name] / ceiling
    result = {
        "config": experiment.name,
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "step_milliseconds": 1e3 * whole,
        "bytes_per_second": sums.bytes / whole,
        "flops_per_byte": total,
        "model_flops_per_second": total * sums.bytes / whole,
        "ceiling_flops_per_second": ceiling,
        "ceiling": source,
        "mfu": total * sums.bytes / whole / ceiling,
        "parts": rows,
    }
    print(f"{experiment.name}: {sums.bytes:,.0f} bytes a step, {1e3 * whole:.1f} ms, "
          f"{sums.bytes / whole:,.0f} bytes/s, {total / 1e6:.2f} MFLOP/byte, "
          f"{result['model_flops_per_second'] / 1e9:.1f} GFLOP/s, MFU {result['mfu']:.1%} of "
          f"{ceiling / 1e9:,.0f} GFLOP/s ({source})")
    print(f"{'part':12} {'ms':>8} {'share':>7} {'MFLOP/byte':>11} {'GFLOP/s':>8} {'MFU':>6}")
    for name, row in rows.items():
        per_byte = row["flops_per_byte"]
        rate = per_byte * sums.bytes / seconds[name] / 1e9
        print(f"{name:12} {row['milliseconds']:8.2f} {row['share']:7.1%} {per_byte / 1e6:11.3f} "
              f"{rate:8.1f} {row['mfu']:6.1%}")
    return result


def forward_and_backward(forward: Callable) -> Callable:
    """(params, *inputs) -> the gradients of the sum of forward's output by all of them."""
    import jax

    def both(*arguments):
        out, backward = jax.vjp(forward, *arguments)
        return backward(jax.tree.map(jax.numpy.ones_like, out))

    return both


def median_seconds(function: Callable[[], Any], repeats: int) -> float:
    """Median seconds of a call, its result ready; the first, which may compile, is left out."""
    import jax

    jax.block_until_ready(function())
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def ceiling_flops_per_second() -> tuple[float, str]:
    """What all devices together could do, and where the number is from."""
    import jax

    from hat.training.chips import find_chip

    chip = find_chip(jax.devices()[0].device_kind)
    if chip is not None:
        return jax.device_count() * chip.flops_per_second, f"data sheet of {chip.name}, bfloat16"
    size = 2048
    x = jax.numpy.ones((size, size), "float32")
    product = jax.jit(lambda x: jax.numpy.matmul(x, x, precision="highest"))
    seconds = median_seconds(lambda: product(x), 10)
    return 2 * size**3 / seconds, "measured, float32 product"
