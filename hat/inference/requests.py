"""What is asked of the engine, and what has come of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from hat.inference.checked import Checker
from hat.inference.sampling import Sampling
from hat.inference.stops import StopFinder

OnBytes = Callable[[bytes | None], None]  # what a text grows by; None once it has ended


@dataclasses.dataclass(frozen=True)
class Request:
    """What to continue and how.

    ids: BOS and what follows it. num_bytes: the longest continuation, 0 to read the prompt only.
    prompt, sample: the numbers that, with the seed, its random numbers depend on. stops: texts that
    end it, and are left out. tops: whether the likeliest ids are reported beside the drawn ones.
    scores: whether the prompt's own ids are scored. begun: what the ids spell of the continuation
    already, less than num_bytes and without a stop. check: says which ids may follow.
    """

    ids: Sequence[int]
    num_bytes: int
    sampling: Sampling = Sampling()
    prompt: int = 0
    sample: int = 0
    stops: tuple[bytes, ...] = ()
    tops: bool = False
    scores: bool = False
    begun: bytes = b""
    check: Checker | None = None


class Continuation:
    """A request in the making.

    text: so far, without what may still turn out to be a stop. ids, nats: what was drawn, the end
    of text included, and minus its log-probability under the model itself (before temperature and
    all else); tops: (ids, nats) of the likeliest at each. prompt_nats, prompt_tops: of the prompt's
    ids after the first. finish: None while it goes on; "stop" where the model or a stop ended it,
    "length" at num_bytes, "cancelled". wrong: of a row that is checked, whether it must "read" its
    last id again, then "draw" what may follow.
    """

    def __init__(self, request: Request, on_bytes: OnBytes | None = None):
        self.request, self.on_bytes = request, on_bytes
        self._stops = StopFinder(request.stops)
        self.text = bytearray(self._stops.feed(request.begun))
        self.ids: list[int] = []
        self.nats: list[float] = []
        self.tops: list[tuple[np.ndarray, np.ndarray]] = []
        self.prompt_nats: list[float] = []
        self.prompt_tops: list[tuple[np.ndarray, np.ndarray]] = []
        self.finish: str | None = None
        self.room = request.num_bytes - len(request.begun)  # bytes that may follow
        self._told = 0  # bytes of the text
        self.cancelled = False
        self.wrong: str | None = None

    def take(self, id: int, spelled: bytes, ends: bool, nats: float, top) -> None:
        """One more id; spelled: its bytes; ends: whether it ends a text; top: for `tops`."""
        self.ids.append(id)
        self.nats.append(nats)
        if self.request.tops:
            self.tops.append(top)
        if ends:
            self.end("stop")
            return
        self.text += self._stops.feed(spelled)
        if self._stops.found:
            self.end("stop")
            return
        # As the compiled loop counts: an id that spells nothing takes room too.
        self.room -= max(len(spelled), 1)
        if self.room <= 0:
            self.end("length")

    def end(self, finish: str) -> None:
        self.text += self._stops.rest()
        self.finish = finish

    def tell(self) -> None:
        """Says what is new since the last time."""
        if self.on_bytes is None:
            return
        told, self._told = self._told, len(self.text)
        if told < self._told:
            self.on_bytes(bytes(self.text[told:]))
        if self.finish is not None:
            self.on_bytes(None)
