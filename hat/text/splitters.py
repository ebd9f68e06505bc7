"""Splitters: deterministic rules from bytes to word starts, with a declared causality."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class Causality:
    """What a rule must see before it can say that a byte starts a word."""

    kind: str  # "byte" | "lookahead" | "sequence" | "batch"
    bytes_ahead: int = 0  # for "lookahead"


BYTE_CAUSAL = Causality("byte")


class Split(NamedTuple):
    """The words of one document of T bytes.

    starts: bool[T], whether a word starts at byte t (starts[0] is True when T > 0).
    known: int32[T], how many words are known to be complete once byte t has been read.
      Non-decreasing; never depends on bytes after t; at most the number of starts in [0, t].
      It equals that number where byte t is known to close its own word.
    """

    starts: np.ndarray
    known: np.ndarray


class Revealed(NamedTuple):
    """What one more byte reveals. `starts`: absolute byte indices, ascending, now known to start
    words (index 0 is revealed by the first byte); `known`: as `Split.known` at this byte."""

    starts: tuple[int, ...]
    known: int


class Stream(Protocol):
    def push(self, byte: int) -> Revealed: ...


class Splitter(Protocol):
    name: str  # enters the corpus fingerprint and the checkpoint
    causality: Causality

    def split(self, data: np.ndarray) -> Split:
        """uint8[T] -> Split of length T."""
        ...

    def stream(self) -> Stream:
        """The same rule, one byte at a time: the union of all revealed starts, plus those that
        only the end of the data reveals, is Split.starts; known is equal byte for byte."""
        ...
