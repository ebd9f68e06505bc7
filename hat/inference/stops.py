"""Texts that end a continuation, found as its bytes come."""

from __future__ import annotations

from collections.abc import Sequence


class StopFinder:
    """Holds back bytes that may be the beginning of a stop, and leaves the stop itself out."""

    def __init__(self, stops: Sequence[bytes]):
        self.found = False
        self._stops = [stop for stop in stops if stop]
        self._longest = max(map(len, self._stops), default=0)
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        """What of the text so far is certain to belong to it, and was not returned before."""
        text = self._held + piece
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.found, self._held = True, b""
            return text[: min(places)]
        keep = next(
            (size for size in range(min(self._longest - 1, len(text)), 0, -1)
             if any(stop.startswith(text[-size:]) for stop in self._stops)),
            0,
        )  # fmt: skip
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> bytes:
        """What was held back, once no more comes."""
        held, self._held = self._held, b""
        return held
