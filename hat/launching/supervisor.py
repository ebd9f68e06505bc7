"""Processes of one run on this machine: started together, ended together, started again.

All run until all have ended with status 0. If one ends otherwise the rest are told to stop, for
they would wait for it for ever, and the whole group starts again. SIGTERM or SIGINT sent to the
supervisor is passed on, and the processes have `grace_seconds` to save before they are killed.
Each runs in a session of its own, and does not outlive the supervisor even if that is killed.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import BinaryIO, NamedTuple

USER_MISTAKE = 2  # the status of hat after a mistake of the user, which no restart mends
POLL_SECONDS = 0.1
_SIGNALS = (signal.SIGTERM, signal.SIGINT)

# Linux: the kernel kills the child when its parent is gone (PR_SET_PDEATHSIG is 1). It is set in
# the child before it becomes the program, for a fork of a process with JAX's threads may hang.
_DIE_WITH_PARENT = (
    sys.executable, "-I", "-S", "-c",
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])",
) if sys.platform == "linux" else ()  # fmt: skip


class Process(NamedTuple):
    """argv, and the whole environment."""

    argv: Sequence[str]
    environment: Mapping[str, str]


def supervise(
    plan: Callable[[], Sequence[Process]],
    restarts: int,
    grace_seconds: float,
    restart_seconds: float = 1.0,
) -> int:
    """Runs the processes of `plan()`, at most 1 + `restarts` times; returns an exit status.

    plan: called before every start, so that a port can be chosen anew.
    restart_seconds: the wait before a restart.
    0: all ended with 0, on their own or after a signal. Otherwise that of the process that ended
    first with another, 128 + N if signal N killed it. A USER_MISTAKE of any process is not started
    again: the others may have died of its end before it had ended.
    """
    with _received(*_SIGNALS) as received:
        while True:
            index, status = _Group(plan(), grace_seconds).run(received)
            if status == 0:
                return 0
            _say(f"process {index} ended with {_describe(status)}; the others were stopped")
            if received or status == USER_MISTAKE or restarts == 0:
                return status
            _say(f"starting all again; restarts left: {restarts}")
            restarts -= 1
            deadline = time.monotonic() + restart_seconds
            while time.monotonic() < deadline:
                if received:
                    return 0  # nothing runs, and whatever was saved is on disk
                time.sleep(POLL_SECONDS)


class _Group:
    """One start of all processes."""

    def __init__(self, processes: Sequence[Process], grace_seconds: float):
        self._grace_seconds = grace_seconds
        self._width = len(str(len(processes) - 1))
        self._selector = selectors.DefaultSelector()
        self._children: list[subprocess.Popen] = []
        self._deadline: float | None = None  # when those that were told to stop are killed
        try:
            for process in processes:
                self._start(process)
        except BaseException:
            self._clean_up()
            raise

    def _start(self, process: Process) -> None:
        index = len(self._children)
        child = subprocess.Popen(
            [*_DIE_WITH_PARENT, *process.argv],
            env=process.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._children.append(child)
        for pipe, error in ((child.stdout, False), (child.stderr, True)):
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, selectors.EVENT_READ, _Lines(index, self._width, error))

    def run(self, received: list[int]) -> tuple[int, int]:
        """(index, status) of the process that failed first, or of one that ended with USER_MISTAKE;
        status 0 if none failed."""
        failed: tuple[int, int] | None = None
        try:
            while any(child.poll() is None for child in self._children):
                self._pass_on_output(POLL_SECONDS)
                failed = failed or self._first_failure()
                if self._deadline is None and (failed or received):
                    self._deadline = time.monotonic() + self._grace_seconds
                    for child in self._children:
                        child.terminate()
                if self._deadline is not None and time.monotonic() > self._deadline:
                    for child in self._children:
                        child.kill()
            statuses = [child.returncode for child in self._children]
            if USER_MISTAKE in statuses:
                return statuses.index(USER_MISTAKE), USER_MISTAKE
            return failed or self._first_failure() or (0, 0)
        finally:
            self._clean_up()

    def _first_failure(self) -> tuple[int, int] | None:
        for index, child in enumerate(self._children):
            if status := child.poll():
                return index, 128 - status if status < 0 else status
        return None

    def _pass_on_output(self, timeout_seconds: float) -> None:
        if not self._selector.get_map():
            time.sleep(timeout_seconds)
        for key, _ in self._selector.select(timeout_seconds):
            if not key.data.read(key.fileobj):
                self._selector.unregister(key.fileobj)
                key.fileobj.close()

    def _clean_up(self) -> None:
        """Kills what is left of every session, and passes on what it had still to say."""
        for child in self._children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        while self._selector.get_map():
            self._pass_on_output(POLL_SECONDS)
        self._selector.close()


class _Lines:
    """Passes the output of one process on, line by line, with its number before each."""

    def __init__(self, index: int, width: int, error: bool):
        self._prefix, self._error = f"[{index:>{width}}] ", error
        self._rest = b""

    def read(self, pipe: BinaryIO) -> bool:
        """Passes on what there is; whether there may be more."""
        data = pipe.read(2**16)
        if data is None:
            return True
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not data and self._rest:
            lines, self._rest = [self._rest], b""
        stream = sys.stderr if self._error else sys.stdout
        for line in lines:
            stream.write(f"{self._prefix}{line.decode('utf-8', 'replace')}\n")
        stream.flush()
        return bool(data)


@contextlib.contextmanager
def _received(*signals: int) -> Iterator[list[int]]:
    """The signals that arrived; a second SIGINT is an ordinary KeyboardInterrupt."""
    numbers: list[int] = []

    def note(number: int, _frame: object) -> None:
        if number == signal.SIGINT and number in numbers:
            raise KeyboardInterrupt
        numbers.append(number)

    before = {number: signal.signal(number, note) for number in signals}
    try:
        yield numbers
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _describe(status: int) -> str:
    return f"signal {signal.Signals(status - 128).name}" if status > 128 else f"status {status}"


def _say(text: str) -> None:
    print(f"hat launch: {text}", file=sys.stderr, flush=True)
