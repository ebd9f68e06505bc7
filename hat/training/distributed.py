"""Several processes of one run: how they find each other, agree, and stop together.

A launcher starts the same command once a process, and says in the environment which one it is:

    HAT_COORDINATOR=HOST:PORT  HAT_NUM_PROCESSES=N  HAT_PROCESS_ID=0 ... N-1
    HAT_DISTRIBUTED=auto       JAX finds all three itself: TPU pods, SLURM, Open MPI
    HAT_CONNECT_SECONDS=300    how long the processes wait for each other, 300 if absent

Without any of them a run is one process.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from hat.errors import UserError
from hat.training.watchdog import TRY_AGAIN

T = TypeVar("T")

EXPLICIT = ("HAT_COORDINATOR", "HAT_NUM_PROCESSES", "HAT_PROCESS_ID")
CONNECT_SECONDS = 300.0


def join(environment: Mapping[str, str] = os.environ) -> None:
    """Joins the processes of this run, as the environment says; before JAX has any device.

    UserError: a variable that is missing or malformed, or no cluster for `auto`. Where the others
    do not come in time, one line says so and the process exits with TRY_AGAIN.
    """
    given = [name for name in EXPLICIT if environment.get(name)]
    mode = environment.get("HAT_DISTRIBUTED", "")
    if mode not in ("", "auto") or (mode and given):
        raise UserError(
            f"HAT_DISTRIBUTED={mode}: set it to auto and leave {', '.join(EXPLICIT)} unset, or set "
            "these three and not HAT_DISTRIBUTED"
        )
    if not mode and not given:
        return
    seconds = _number(environment, "HAT_CONNECT_SECONDS", float, CONNECT_SECONDS)
    if mode:
        with _patience(seconds, "the cluster that HAT_DISTRIBUTED=auto found", None):
            try:
                jax.distributed.initialize(initialization_timeout=_beyond(seconds))
            except ValueError as error:
                raise UserError(
                    f"HAT_DISTRIBUTED=auto: no cluster found ({error}); set {', '.join(EXPLICIT)}"
                ) from None
        return
    if missing := [name for name in EXPLICIT if name not in given]:
        raise UserError(f"{', '.join(given)} set without {', '.join(missing)}; set all three")
    address = environment["HAT_COORDINATOR"]
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"HAT_COORDINATOR={address}: write it as HOST:PORT, such as 10.0.0.2:8476")
    count = _number(environment, "HAT_NUM_PROCESSES", int)
    index = _number(environment, "HAT_PROCESS_ID", int)
    if not 0 <= index < count:
        raise UserError(
            f"HAT_PROCESS_ID={index} with HAT_NUM_PROCESSES={count}: ids run from 0 to "
            "HAT_NUM_PROCESSES - 1"
        )
    with _patience(seconds, f"{count} processes at {address}", (host, int(port))):
        jax.distributed.initialize(
            address, count, index, initialization_timeout=_beyond(seconds)
        )


def expect(processes: int | None, devices: int | None) -> None:
    """UserError unless the run has as many processes and devices (over all processes) as given."""
    found = (
        f"{jax.process_count()} processes with {jax.device_count()} "
        f"{jax.devices()[0].platform} devices"
    )
    if processes is not None and processes != jax.process_count():
        raise UserError(
            f"expected {processes} processes, found {found}; start one process for each, with the "
            f"same HAT_COORDINATOR, or change --expect-processes"
        )
    if devices is not None and devices != jax.device_count():
        raise UserError(
            f"expected {devices} devices, found {found}; mend the hosts that lack theirs, or "
            "change --expect-devices"
        )


def together(work: Callable[[], T]) -> T:
    """`work()`, in every process at once; a UserError in one is a UserError in all.

    So no process goes on to wait for one that has given up.
    """
    error: UserError | None = None
    try:
        result = work()
    except UserError as caught:
        error = caught
    if jax.process_count() > 1:
        failed = np.flatnonzero(multihost_utils.process_allgather(np.array(error is not None)))
        if len(failed) and error is None:
            error = UserError(f"process {failed[0]} cannot go on; its own message says why")
    if error is not None:
        raise error
    return result


def on_first(work: Callable[[], T], elsewhere: T) -> T:
    """`work()` in the first process, `elsewhere` in the others; a UserError there is one in all."""
    return together(lambda: work() if jax.process_index() == 0 else elsewhere)


@contextmanager
def stop_requests(agreed: Callable[[int], bool]) -> Iterator[Callable[[int], bool]]:
    """Within it SIGTERM ends nothing; the function it gives says, after step n, whether to stop.

    agreed: the same question where there are several processes, answered alike in all of them.
    There JAX listens to the signal, tells every process, and settles on a step to come.
    """
    if jax.process_count() > 1:
        yield agreed
        return
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: event.is_set()  # only the main thread may handle signals
        return
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield lambda step: event.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Within it an error in one of several processes ends that process on the spot.

    To clean up, it would wait for the others, while they wait for it. When it is gone, gloo and
    JAX's heartbeats end them.
    """
    try:
        yield
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        line, status = f"error: {error}", 2
        if isinstance(error, KeyboardInterrupt):
            line, status = "interrupted", 130
        elif not isinstance(error, UserError):
            traceback.print_exc()
            me = f"process {jax.process_index()} of {jax.process_count()}"
            line = f"error: {me} failed, perhaps because another died; start again to resume"
            status = TRY_AGAIN
        print(f"hat: {line}", file=sys.stderr, flush=True)
        os._exit(status)


def _number(environment: Mapping[str, str], name: str, kind: type, default=None):
    text = environment.get(name)
    if not text and default is not None:
        return default
    try:
        value = kind(text)
    except ValueError:
        value = -1
    if not 0 <= value < 1e9:  # NaN too
        raise UserError(f"{name}={text}: give a number")
    return value


def _beyond(seconds: float) -> int:
    """JAX's own limit aborts the process with a stack trace; let ours come first."""
    return int(seconds) + 60


@contextmanager
def _patience(seconds: float, whom: str, address: tuple[str, int] | None) -> Iterator[None]:
    """Ends the process with one line where the body takes longer than `seconds`."""

    def give_up() -> None:
        why = "not all of them have come"
        if address is not None:
            try:
                socket.create_connection(address, timeout=5).close()
            except OSError as error:
                why = f"nothing answers there ({error.strerror or error})"
        print(
            f"hat: error: waited {seconds:g} seconds (HAT_CONNECT_SECONDS) for {whom}: {why}; "
            "start them all, or mend the address",
            file=sys.stderr,
            flush=True,
        )
        os._exit(TRY_AGAIN)  # the main thread is inside JAX and cannot be interrupted

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
