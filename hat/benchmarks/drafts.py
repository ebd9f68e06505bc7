"""Whether drafts from n-grams would make generation faster: what is accepted, and what it costs.

A draft continues the latest match of the last bytes anywhere before. Verified in one pass, its bytes
are accepted while they are what would have been drawn anyway, so the text does not change. How many
that are follows from a text alone: here from real code and prose, as if a model had written them.
What a pass costs is measured: a chunk of so many bytes through a HAT of random weights at batch 1,
beside the same bytes one by one. Gain: all bytes of the text, over the steps of a byte that passes
and bytes without a match take together.
"""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path

import jax
import numpy as np

from hat.benchmarks.generate import SIZES, hat_config, rate, with_letters, word_lengths
from hat.commands.arguments import positive_int
from hat.commands.files import read_input
from hat.data.sources import Skipped, Source
from hat.errors import UserError
from hat.inference.hat_rows import Chunk, hat_rows
from hat.text.ids import BOS
from hat.text.splitters import make_splitter

SHORTEST, LONGEST = 4, 16  # bytes of a match


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text", metavar="FILE", type=Path, nargs="*", default=[],
                        help="more texts; the standard library of Python is always one")
    parser.add_argument("--size", choices=SIZES, default="25m", help="of the HAT (default: 25m)")
    parser.add_argument("--drafts", metavar="N", type=positive_int, nargs="+", default=[4, 8, 16],
                        help="bytes of a draft (default: 4 8 16)")
    parser.add_argument("--bytes", metavar="N", type=positive_int, default=20_000,
                        help="of every text (default: 20000)")
    parser.add_argument("--repeats", metavar="N", type=positive_int, default=10,
                        help="(default: 10)")


def run(arguments: argparse.Namespace) -> dict:
    code = b"".join(d.data for d in Source("stdlib", "text").documents(Skipped()))
    texts = {"standard library": code[: arguments.bytes]}
    texts |= {path.name: read_input(path)[: arguments.bytes] for path in arguments.text}
    for name, text in texts.items():
        if len(text) <= LONGEST + max(arguments.drafts):
            raise UserError(
                f"{name}: {len(text)} bytes are too few for drafts of {max(arguments.drafts)}; "
                "give a longer text, or more --bytes"
            )
    splitter = make_splitter("words")
    stride = make_splitter(f"stride:{round(word_lengths(splitter, code[:100_000]).mean())}")
    model = hat_config(arguments.size).build()
    params = with_letters(jax.jit(model.init)(jax.random.key(0)))
    step = 1 / rate(model, params, stride, 1, num_bytes=64, repeats=3)
    result: dict = {"step_milliseconds": 1e3 * step, "drafts": {}}
    print(f"a byte: {1e3 * step:.2f} ms")
    for size in arguments.drafts:
        cost = pass_seconds(model, params, stride, size, arguments.repeats) / step
        row = {"cost_in_steps": cost}
        for name, text in texts.items():
            given, passes, alone = count_passes(text, size)
            row[name] = {"bytes_per_pass": given / max(passes, 1),
                         "gain": (given + alone) / (passes * cost + alone)}  # fmt: skip
        result["drafts"][size] = row
        print(f"drafts of {size}: a pass costs {cost:.2f} steps; " + "; ".join(
            f"{name} {row[name]['bytes_per_pass']:.2f} bytes a pass, gain "
            f"{row[name]['gain']:.2f}" for name in texts))  # fmt: skip
    return result


def count_passes(text: bytes, size: int) -> tuple[int, int, int]:
    """Bytes that passes over drafts of `size` give (those accepted, and the one that is drawn after
    them), how many passes that takes, and how many bytes have no match and come one by one."""
    place, given, passes, alone = LONGEST, 0, 0, 0
    while place + size < len(text):
        found = draft_from(text[:place], size)
        if not found:
            place, alone = place + 1, alone + 1
            continue
        agree = next((n for n, byte in enumerate(found) if text[place + n] != byte), len(found))
        place, passes, given = place + agree + 1, passes + 1, given + agree + 1
    return given, passes, alone


def draft_from(context: bytes, size: int) -> bytes:
    """What followed the latest match of the longest suffix; nothing without one."""
    for length in range(LONGEST, SHORTEST - 1, -1):
        place = context.rfind(context[-length:], 0, len(context) - 1)
        if place >= 0:
            return context[place + length : place + length + size]
    return b""


def pass_seconds(model, params, splitter, size: int, repeats: int) -> float:
    """Seconds of one pass over a draft of `size` bytes: the encoder, the words that it completes,
    the decoder, and logits of every byte."""
    kind = hat_rows(model)
    prepared = kind.prepare(params, splitter)
    ids = np.array([BOS, *b"a" * 63], np.int32)
    state, _, _ = kind.read_chunk(
        prepared, kind.empty(prepared, 1), kind.read(splitter, ids), 0, len(ids)
    )
    words = max(size // splitter.stride, 1)
    room = max(size // 2, 1)
    ends = np.minimum(np.arange(size) // splitter.stride + 1, words)
    word = np.concatenate([np.zeros(state.connector.size, np.int32), ends])
    chunk = Chunk(
        ids=np.full((1, size), 97, np.int32), start=np.int32(64), count=np.int32(size),
        word=word[None].astype(np.int32), guide=np.maximum(ends - 1, 0)[None].astype(np.int32),
        before=np.int32(64 // splitter.stride), words=np.int32(min(words, room)),
    )  # fmt: skip
    run_pass = jax.jit(functools.partial(kind.chunk, scores=True))
    jax.block_until_ready(run_pass(prepared, state, chunk))
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(run_pass(prepared, state, chunk))
        seconds.append(time.perf_counter() - began)
    return min(seconds)
