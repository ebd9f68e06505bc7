"""Batches by index: batch i of a run is a pure function of (seed, i).

A schedule deals the steps out to the lengths of rows, and the rows of each length to the corpora
(hat.data.schedule). The rows of every corpus are permuted by index, anew in every epoch, and the
endless sequence of rows is cut into global batches; every process takes its contiguous slice of
each. So the one integer of data state in a checkpoint is the index of the next batch, and the
number of processes may change between two runs. All batches have the same number of positions:
half as many rows of twice the length.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from hat.data.corpus import stack
from hat.data.mixture import Mixture
from hat.data.schedule import Schedule
from hat.errors import UserError

QUEUED_BATCHES = 2

Annotate = Callable[[dict[str, np.ndarray], int], dict[str, np.ndarray]]


class Loader:
    """Shuffled batches of one split, for one of `process_count` processes.

    wait_seconds: how long consumers of `iterate` have waited for batches so far.
    """

    def __init__(
        self,
        mixture: Mixture,
        batch_size: int,
        seed: int,
        split: str = "train",
        process_index: int = 0,
        process_count: int = 1,
        annotate: Annotate = lambda batch, index: batch,
    ):
        """batch_size: of a global batch, in rows of the greatest length. annotate: adds arrays to the
        batch with an index, row by row. UserError where a corpus that is to be read is empty, or the
        batch cannot be shared evenly, or the seed is not in [0, 2**32)."""
        if batch_size < 1 or batch_size % process_count:
            raise UserError(
                f"training.batch_size is {batch_size}: give a positive multiple of the "
                f"{process_count} processes"
            )
        if not 0 <= seed < 1 << 32:
            raise UserError(f"training.seed is {seed}: give 0 <= seed < 2**32")
        self._mixture = mixture
        self._split = split
        self._process_index, self._process_count = process_index, process_count
        self._annotate = annotate
        self._steps = Schedule(mixture.bucket_phases)
        self._buckets = [
            _Bucket(mixture, bucket, batch_size, seed, split, self._steps)
            for bucket in range(len(mixture.lengths))
        ]
        self.wait_seconds = 0.0

    @property
    def shapes(self) -> list[dict[str, tuple[int, ...]]]:
        """The shapes [B, ...] of the arrays of a global batch, for every length of rows."""
        return [
            {name: (bucket.batch_size, *rows.shape[1:]) for name, rows in padding.items()}
            for bucket, corpora in zip(self._buckets, self._mixture.corpora)
            for padding in [self._annotate(stack([corpora[0].padding()]), 0)]
        ]

    def row_indices(self, index: int) -> np.ndarray:
        """int64[B]: the rows of global batch `index` by number (hat.data.mixture.Mixture), the
        same for every process."""
        bucket, own = self._steps.locate(index)
        return self._buckets[bucket].row_indices(own)

    def batch(self, index: int) -> dict[str, np.ndarray]:
        """This process's rows of global batch `index`: int32 [B / process_count, ...]."""
        mine = np.split(self.row_indices(index), self._process_count)[self._process_index]
        return self._annotate(self._mixture.rows(self._split, mine), index)

    def iterate(
        self, start: int, place: Callable[[dict[str, np.ndarray]], Any] = lambda batch: batch
    ) -> Iterator[Any]:
        """place(batch start), place(batch start + 1), ... without end, read ahead by a thread.

        What the thread raises is raised here. Closing the iterator stops the thread.
        """
        ready: queue.Queue = queue.Queue(QUEUED_BATCHES)
        stopped = threading.Event()

        def put(item: object) -> None:
            while not stopped.is_set():
                try:
                    return ready.put(item, timeout=0.1)
                except queue.Full:
                    continue

        def read() -> None:
            index = start
            try:
                while not stopped.is_set():
                    put(place(self.batch(index)))
                    index += 1
            except BaseException as error:  # not lost: the consumer raises it
                put(error)

        thread = threading.Thread(target=read, name="hat-loader", daemon=True)
        thread.start()
        try:
            while True:
                began = time.perf_counter()
                item = ready.get()
                self.wait_seconds += time.perf_counter() - began
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stopped.set()
            thread.join()


class _Bucket:
    """The batches of one length of rows."""

    def __init__(
        self, mixture: Mixture, bucket: int, batch_size: int, seed: int, split: str, steps: Schedule
    ):
        import grain

        self.batch_size = batch_size * mixture.lengths[-1] // mixture.lengths[bucket]
        self._sources = Schedule(  # weights change at steps; rows are what is dealt
            [
                (int(steps.counts(step)[bucket]) * self.batch_size, weights)
                for step, weights in mixture.source_phases
            ]
        )
        self._first = [mixture.first_row(split, bucket, s) for s in range(len(mixture.names))]
        read = any(weights[bucket] for _, weights in mixture.bucket_phases)
        self._orders = []
        for source, corpus in enumerate(mixture.corpora[bucket]):
            rows = corpus.num_rows(split)
            if not rows and read and any(weights[source] for _, weights in mixture.source_phases):
                several = len(mixture.lengths) > 1
                mend = f", or drop the bucket of {mixture.lengths[bucket]} ids" if several else ""
                raise UserError(
                    f"{corpus.folder}: the split {split} is empty: give it more text{mend}"
                )
            number = bucket * len(mixture.names) + source  # permutes every corpus in its own way
            shuffled = grain.MapDataset.range(rows).shuffle(seed=(seed + number) % (1 << 32))
            self._orders.append(shuffled.repeat() if rows else None)

    def row_indices(self, index: int) -> np.ndarray:
        """int64[B]: the rows of the batch with this index among those of the bucket."""
        first = index * self.batch_size
        found = [self._sources.locate(row) for row in range(first, first + self.batch_size)]
        return np.array([self._first[s] + self._orders[s][own] for s, own in found])
