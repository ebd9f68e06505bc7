"""The engine in a thread of its own, and its continuations in the event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence

from hat.inference.engine import Engine
from hat.inference.requests import Continuation, Request


class WorkerFailed(Exception):
    """The engine's thread has ended with an error; nothing more will come."""


class Ticket:
    """A continuation as the event loop sees it."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop, self._news = loop, asyncio.Event()
        self.continuation: Continuation

    def tell(self, _: bytes | None) -> None:
        """Called by the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:  # the loop is closed: nobody waits any more
            pass

    async def news(self) -> None:
        """Waits until the continuation has grown or ended since the last time."""
        await self._news.wait()
        self._news.clear()


class Worker:
    """Runs an engine until it is closed. Its methods belong to the event loop, but for the thread's
    own."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self.tickets: set[Ticket] = set()
        self.failed = False
        self._closing = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, requests: Sequence[Request]) -> list[Ticket]:
        """UserError: one of them can never be done; then none is begun. WorkerFailed."""
        if self.failed:
            raise WorkerFailed
        for request in requests:
            self.engine.check(request)
        tickets = []
        for request in requests:
            ticket = Ticket(asyncio.get_running_loop())
            ticket.continuation = self.engine.submit(request, ticket.tell)
            tickets.append(ticket)
        self.tickets.update(tickets)
        self._wake.set()
        return tickets

    def release(self, tickets: Sequence[Ticket]) -> None:
        """The tickets are done with: what is not finished is cancelled, and its row freed."""
        for ticket in tickets:
            self.tickets.discard(ticket)
            if ticket.continuation.finish is None:
                self.engine.cancel(ticket.continuation)
        self._wake.set()

    def close(self) -> None:
        self._closing = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._closing:
                self._wake.clear()
                if not self.engine.step():
                    self._wake.wait()
        except Exception:
            logging.getLogger("hat.serving").exception("the engine has failed")
            self.failed = True
            for ticket in list(self.tickets):
                ticket.tell(None)
