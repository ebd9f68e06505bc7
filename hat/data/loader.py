"""Batches by index: batch i of a run is a pure function of (seed, i).

The rows of a split are permuted by index, anew in every epoch, and the endless sequence of rows
is cut into global batches; every process takes its contiguous slice of each. So the one integer
of data state in a checkpoint is the index of the next batch, and the number of processes may
change between two runs.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import numpy as np

from hat.data.corpus import Corpus
from hat.errors import UserError

QUEUED_BATCHES = 2


class Loader:
    """Shuffled batches of one split, for one of `process_count` processes.

    wait_seconds: how long consumers of `iterate` have waited for batches so far.
    """

    def __init__(
        self,
        corpus: Corpus,
        batch_size: int,
        seed: int,
        split: str = "train",
        process_index: int = 0,
        process_count: int = 1,
    ):
        """batch_size: rows of a global batch. UserError where the split is empty, or the batch
        cannot be shared evenly, or the seed is not in [0, 2**32)."""
        import grain

        rows = corpus.num_rows(split)
        if not rows:
            raise UserError(f"{corpus.folder}: the split {split} is empty: give it more text")
        if batch_size < 1 or batch_size % process_count:
            raise UserError(
                f"training.batch_size is {batch_size}: give a positive multiple of the "
                f"{process_count} processes"
            )
        if not 0 <= seed < 1 << 32:
            raise UserError(f"training.seed is {seed}: give 0 <= seed < 2**32")
        self._corpus = corpus
        self._split = split
        self._batch_size = batch_size
        share = batch_size // process_count
        self._mine = slice(process_index * share, (process_index + 1) * share)
        self._order = grain.MapDataset.range(rows).shuffle(seed=seed).repeat()
        self.wait_seconds = 0.0

    def row_indices(self, index: int) -> np.ndarray:
        """int64[batch_size]: the rows of global batch `index`, the same for every process."""
        first = index * self._batch_size
        return np.array([self._order[first + i] for i in range(self._batch_size)])

    def batch(self, index: int) -> dict[str, np.ndarray]:
        """This process's rows of global batch `index`: int32 [batch_size / process_count, ...]."""
        return self._corpus.rows(self._split, self.row_indices(index)[self._mine])

    def iterate(self, start: int) -> Iterator[dict[str, np.ndarray]]:
        """Batches start, start + 1, ... without end, read ahead by a thread.

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
                    put(self.batch(index))
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
