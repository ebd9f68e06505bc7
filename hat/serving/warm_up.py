"""Compiles what requests will need, before the first one waits for it."""

from __future__ import annotations

from collections.abc import Callable

from hat.inference.burst import BURST
from hat.inference.engine import Engine
from hat.inference.requests import Request
from hat.inference.sampling import Sampling

ROOM = 256  # slots that a server's buffers begin with: a text of more words or tokens waits once


def warm_up(engine: Engine, say: Callable[[str], None] = lambda text: None) -> None:
    """Every size of a chunk and number of rows that the engine uses, with its smallest buffers: a
    text that outgrows them waits once more."""
    bos, letter = engine.tokenizer.bos, int(engine.tokenizer.encode(b"a")[0])
    for size in engine.chunks:
        say(f"compiling prompts of {size} tokens")
        for scores in (False, True) if engine.scores else (False,):
            engine.submit(Request([bos] + [letter] * (size - 1), 0, scores=scores))
            engine.run()
    for size in engine.sizes:
        say(f"compiling {size} rows")
        for number in range(size):
            # As many bursts as there are sizes for the rows from this one on: rows leave while
            # others go on, and what is left takes every smaller size in turn.
            length = BURST * sum(size - number <= fewer <= size for fewer in engine.sizes)
            engine.submit(Request([bos], length, Sampling(temperature=1.0), sample=number))
        engine.run()
