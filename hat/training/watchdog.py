"""A watchdog: a run that no longer moves says where it hangs, and ends.

A collective whose partner is gone, a file system that does not answer, a thread that waits for
itself: none of these raises, and a pod can stand still for days. So a thread of its own watches
the steps. When none has been finished for `training.stall_seconds`, it writes the stack of every
thread to standard error and to OUT/stall-TIME-process-N.txt, and ends the process with the status
TRY_AGAIN, for the launcher to start the same command again.
"""

from __future__ import annotations

import faulthandler
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import jax

TRY_AGAIN = 75  # exit status: no mistake of the user, the same command may succeed (EX_TEMPFAIL)
REPORT_SECONDS = 20.0


class Watchdog:
    """Watches from the first `beat` to `close`, except while `paused`.

    It runs in a Python thread, so it sees every wait that lets other threads run: all of JAX's,
    of the loader's and of the file system's. Dead hosts are found sooner by JAX's own heartbeats.
    """

    def __init__(self, seconds: float | None, folder: Path):
        """seconds: how long a step may take; None watches nothing. folder: OUT, for the report."""
        self._seconds, self._folder = math.inf if seconds is None else seconds, folder
        self._step = 0
        self._deadline = math.inf
        self._closed = threading.Event()
        if self._seconds < math.inf:
            threading.Thread(target=self._watch, name="hat-watchdog", daemon=True).start()

    def beat(self, step: int) -> None:
        """Step number `step` has begun, so the one before it is over."""
        self._step = step
        self._deadline = time.monotonic() + self._seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """For what may rightly take longer than a step: evaluation, samples, saving."""
        self._deadline = math.inf
        yield
        self.beat(self._step)

    def stalled(self) -> bool:
        """Whether a step has taken too long."""
        return time.monotonic() > self._deadline

    def close(self) -> None:
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._seconds / 4)):
            if self.stalled():
                # Written by yet another thread: the disk may be what hangs.
                report = threading.Thread(target=self._report, daemon=True)
                report.start()
                report.join(REPORT_SECONDS)
                os._exit(TRY_AGAIN)

    def _report(self) -> None:
        process = jax.process_index()
        head = (
            f"hat: error: no step for {self._seconds:g} seconds (training.stall_seconds) in step "
            f"{self._step}, process {process} of {jax.process_count()}, pid {os.getpid()} on "
            f"{socket.gethostname()}; the stacks of all threads follow; start again to resume\n"
        )
        name = f"stall-{time.strftime('%Y%m%dT%H%M%S')}-process-{process}.txt"
        _write(sys.stderr, head)
        with (self._folder / name).open("w", encoding="utf-8") as file:
            _write(file, head)


def _write(stream: TextIO, head: str) -> None:
    stream.write(head)
    stream.flush()
    faulthandler.dump_traceback(stream, all_threads=True)
