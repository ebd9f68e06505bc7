"""Byte models that need no network: by the text of a Python file, and three letters."""

from __future__ import annotations

import argparse
import functools
import io
from pathlib import Path

import numpy as np

from hat.compression.probabilities import cumulative
from hat.compression.windows import CDF_BITS, WindowConfig

TEXT = Path(argparse.__file__).read_bytes()
HELDOUT = TEXT[-12_000:]


@functools.cache
def _counts() -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[bytes, np.ndarray]]:
    data = np.frombuffer(TEXT[:-12_000], np.uint8).astype(np.int64)
    unigram = np.bincount(data, minlength=256)
    bigram = np.bincount(data[:-1] * 256 + data[1:], minlength=65_536).reshape(256, 256)
    trigram: dict[bytes, np.ndarray] = {}
    for a, b, c in zip(data[:-2], data[1:-1], data[2:]):
        trigram.setdefault(bytes([a, b]), np.zeros(256, np.int64))[c] += 1
    return unigram, bigram, trigram


@functools.cache
def weights(before: bytes) -> np.ndarray:
    """int64 [256] after the last two bytes of a window: counts, backed off."""
    unigram, bigram, trigram = _counts()
    found = unigram * 4
    if before:
        found = found // 16 + bigram[before[-1]] * 64
    if len(before) > 1 and before[-2:] in trigram:
        found = found // 4 + trigram[before[-2:]] * 4096
    return found


def text_tables(config: WindowConfig):
    """Tables of the model of Python text, for `hat.compression.windows`."""
    begin = config.root_table(weights(b""))

    @functools.cache
    def after(last: bytes) -> list[int]:
        return cumulative(weights(last), CDF_BITS).tolist()

    return lambda before: after(before[-2:]) if before else begin


def letters(*eighths: int):
    """Tables in which `a`, `b`, ... have so many eighths each, whatever came before."""
    table = np.zeros(257, np.int64)
    table[ord("a") + 1 :] = np.cumsum([*eighths, *[0] * (256 - 97 - len(eighths))]) << 13
    return lambda before: table


@functools.cache
def pictures() -> dict[str, bytes]:
    """A whole JPEG and a whole PDF."""
    from matplotlib.figure import Figure

    figure = Figure((3, 2))
    figure.subplots().plot(np.cumsum(np.random.default_rng(0).standard_normal(500)))
    found = {}
    for kind in ("jpeg", "pdf"):
        file = io.BytesIO()
        figure.savefig(file, format=kind)
        found[kind] = file.getvalue()
    assert found["jpeg"][:2] == b"\xff\xd8" and found["pdf"][:5] == b"%PDF-"
    return found
