"""What every model of bytes offers, whatever it thinks in: tokens, words or bytes.

A distribution has 257 symbols: the bytes 0 to 255, and END. Log-probabilities are natural, and
float64. `hat.byte_exact.tokenized` makes a ByteModel of a tokenized model under a named law,
`hat.byte_exact.hat_model` of a HAT, `hat.byte_exact.ensemble` of several.

A row may sum to less than 1. What is missing is what the law loses there: the mass of what is no
canonical beginning (laws `canonical` and `last-free`), or what a beam dropped (law `all`). So the
log-probabilities of a text's bytes add up to what the law says of the whole text; `normalized`
makes distributions to sample from or to learn from.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

END = 256  # the text ends, or the model leaves it by another special token
NUM_SYMBOLS = 257


class ByteSession(Protocol):
    """One text that grows byte by byte."""

    def logprobs(self) -> np.ndarray:
        """float64 [257] of what follows the bytes pushed so far."""
        ...

    def push(self, byte: int) -> None:
        """Appends a byte. UserError where the model gives it no probability."""
        ...

    def fork(self) -> ByteSession:
        """An independent session with the same bytes pushed."""
        ...


class ByteModel(Protocol):
    """A distribution over byte strings. name: for tables and files."""

    name: str

    def logprobs(self, text: bytes) -> np.ndarray:
        """float64 [T + 1, 257] of a text of T bytes: row t is of what follows its first t."""
        ...

    def session(self) -> ByteSession:
        """A session with nothing pushed."""
        ...


def normalized(logprobs: np.ndarray) -> np.ndarray:
    """Rows [..., 257] that sum to 1, each with the same ratios as before."""
    return logprobs - np.logaddexp.reduce(logprobs, axis=-1, keepdims=True)


def lost(logprobs: np.ndarray) -> np.ndarray:
    """float64 [...]: how much each row [..., 257] lacks of 1; never negative."""
    return np.maximum(-np.expm1(np.logaddexp.reduce(logprobs, axis=-1)), 0.0)


def chosen(logprobs: np.ndarray, text: bytes) -> np.ndarray:
    """float64 [T + 1]: what `logprobs(text)` gives to each byte of the text, then to its end."""
    symbols = np.append(np.frombuffer(text, np.uint8), END)
    return logprobs[np.arange(len(symbols)), symbols]
