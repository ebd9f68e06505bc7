"""`hat bench prepare`: MB/s per core of reading, splitting, packing, writing, and of all of it.

Every stage is timed alone on the same documents, in processor time of all threads, so that a
machine with n free cores makes at most n times as much. "whole" is `hat prepare` itself: it reads
the source three times (for its hash, for the splits, for the rows), and writes what the others
leave in memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hat.commands.arguments import positive_int
from hat.data.config import DataConfig
from hat.data.cutting import make_cutter
from hat.data.prepare import prepare
from hat.data.records import ShardWriter
from hat.data.sources import Skipped, Source
from hat.text.rows import Packer, Row, Units

MEGABYTE = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = DataConfig()
    parser.add_argument("--source", default=default.source, help="as of hat prepare")
    parser.add_argument("--splitter", default=default.splitter, help="as of hat prepare")
    parser.add_argument("--row-length", metavar="T", type=int, default=default.row_length)
    parser.add_argument("--row-words", metavar="N", type=int, default=default.row_words)
    parser.add_argument("--repeats", metavar="N", type=positive_int, default=3,
                        help="of each stage; the fastest counts (default: 3)")  # fmt: skip


def run(arguments: argparse.Namespace) -> dict:
    """Prints one line a stage and returns the table."""
    config = DataConfig(
        source=arguments.source,
        splitter=arguments.splitter,
        row_length=arguments.row_length,
        row_words=arguments.row_words,
    )
    cutter = make_cutter(config)
    source = Source(config.source, config.text_field)
    texts = [np.frombuffer(document.data, np.uint8) for document in source.documents(Skipped())]
    splits = [cutter.splitter.split(text) for text in texts]
    units = [cutter.cut(text.tobytes(), True, "") for text in texts]
    rows = pack(config, cutter.specials, units)

    with tempfile.TemporaryDirectory(prefix="hat-bench-") as folder:
        numbers = iter(range(10**9))

        def write() -> None:
            name = f"rows-{next(numbers)}"
            writer = ShardWriter(Path(folder), name, config.row_length)
            for row in rows:
                writer.write(row)
            writer.finish()

        stages = {
            "reading": lambda: sum(len(d.data) for d in source.documents(Skipped())),
            "splitting": lambda: [cutter.splitter.split(text) for text in texts],
            "packing": lambda: pack(config, cutter.specials, units),
            "writing": write,
            "whole": lambda: prepare(config, Path(folder, f"whole-{next(numbers)}")),
        }
        size = sum(map(len, texts))
        words = sum(int(np.count_nonzero(split.starts)) for split in splits)
        print(
            f"{len(texts):,} documents, {size / MEGABYTE:.1f} MB, {words:,} words, {len(rows):,} "
            f"rows of {config.row_length} bytes and {config.row_words} words"
        )
        rates = {}
        for stage, call in stages.items():
            rates[stage] = size / fastest(call, arguments.repeats) / MEGABYTE
            print(f"{stage:10} {rates[stage]:8.1f} MB/s per core")
    return {
        "config": dataclasses.asdict(config),
        "documents": len(texts),
        "bytes": size,
        "words": words,
        "rows": len(rows),
        "megabytes_per_second_per_core": rates,
    }


def pack(config: DataConfig, specials, units: list[Units]) -> list[Row]:
    """All rows of these documents, in one split."""
    packer = Packer(config.row_length, config.row_words, specials)
    rows = [row for document in units for row in packer.add(document)]
    return rows + packer.finish()


def fastest(call: Callable[[], object], repeats: int) -> float:
    """Processor seconds, of all threads, of the fastest call."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return min(times)
