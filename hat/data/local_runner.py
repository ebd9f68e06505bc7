"""Preparation in shards on this machine: one process, or several."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import os
import shutil
import signal
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hat.data.records import sync
from hat.data.sharded import Job, Progress, pack, route, scan
from hat.errors import UserError

FLUSH_BYTES = 1 << 26  # of routed documents that a process holds before it writes them
_LENGTH = struct.Struct("<Q")  # before every routed document in a file


@dataclasses.dataclass(frozen=True)
class LocalRunner:
    """Routed documents wait in files, which need as much space as the text itself."""

    workers: int = 1

    def __post_init__(self):
        if self.workers < 1:
            raise UserError(f"{self.workers} workers cannot be: give 1 or more")

    def scan(self, job: Job, numbers: Sequence[int], progress: Progress) -> None:
        self._each("reading", scan, job, numbers, job.input_bytes, progress)

    def pack(self, job: Job, shards: Sequence[int], progress: Progress) -> None:
        if not shards:
            return
        waiting = _waiting(job)
        if not waiting.exists():
            partial = _partial(job)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            everything = range(len(job.inputs))
            self._each("shuffling", _route, job, everything, job.input_bytes, progress)
            for path in partial.iterdir():
                sync(path)
            sync(partial)
            os.rename(partial, waiting)
        share = sum(map(job.input_bytes, range(len(job.inputs)))) // job.sharding.shards
        self._each("packing", _pack, job, shards, lambda shard: share, progress)

    def _each(
        self,
        stage: str,
        task: Callable[[Job, int], None],
        job: Job,
        numbers: Sequence[int],
        size: Callable[[int], int],
        progress: Progress,
    ) -> None:
        """task(job, number) for each number, which stands for `size(number)` bytes of work."""
        total, done = sum(map(size, numbers)), 0
        call = functools.partial(task, job)
        for number in self._finished(call, numbers):
            done += size(number)
            progress(stage, done, total)

    def _finished(self, call: Callable[[int], None], numbers: Sequence[int]) -> Iterator[int]:
        if self.workers == 1:
            for number in numbers:
                call(number)
                yield number
            return
        # "spawn", because the threads of this process may hold locks when it forks.
        spawn = multiprocessing.get_context("spawn")
        pool = concurrent.futures.ProcessPoolExecutor(self.workers, spawn, _begin, (call,))
        try:
            futures = {pool.submit(_call, number): number for number in numbers}
            for future in concurrent.futures.as_completed(futures):
                future.result()
                yield futures[future]
        except concurrent.futures.process.BrokenProcessPool:
            raise UserError(
                "a worker process died, perhaps for lack of memory: use fewer workers, or more "
                "and so smaller shards"
            ) from None
        except BaseException:
            for child in multiprocessing.active_children():
                child.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


_task: Callable[[int], None]  # of this worker process


def _begin(task: Callable[[int], None]) -> None:
    """Makes a worker that ends with its parent, even if that is killed."""
    global _task
    _task = task
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is asked too, and ends its workers

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _call(number: int) -> None:
    _task(number)


def _waiting(job: Job) -> Path:
    """The folder of all routed documents."""
    return job.work / "routed"


def _partial(job: Job) -> Path:
    """The same while documents are still added."""
    return job.work / "routed.part"


def _route(job: Job, number: int) -> None:
    """Appends the documents of an input to this process's file of each shard."""
    pending: dict[int, list[bytes]] = {}
    held = 0
    for shard, record in route(job, number):
        pending.setdefault(shard, []).extend((_LENGTH.pack(len(record)), record))
        held += len(record)
        if held > FLUSH_BYTES:
            _append(job, pending)
            held = 0
    _append(job, pending)


def _append(job: Job, pending: dict[int, list[bytes]]) -> None:
    for shard, chunks in pending.items():
        with (_partial(job) / f"{shard:05d}-{os.getpid()}").open("ab") as file:
            file.writelines(chunks)
    pending.clear()


def _pack(job: Job, shard: int) -> None:
    files = sorted(_waiting(job).glob(f"{shard:05d}-*"))
    pack(job, shard, (record for path in files for record in _records(path)))
    for path in files:
        path.unlink()


def _records(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while length := file.read(_LENGTH.size):
            yield file.read(*_LENGTH.unpack(length))
