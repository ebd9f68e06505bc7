"""Plain arithmetic coding: a range coder of bytes with carries.

The interval is [low, low + range), both of 64 bits; whenever range has fallen below 2^56 the top
byte of low is written and both move up by 8 bits. A symbol's share of the range is range / 2^bits
times its cells, cut off: at least 2^(56 - bits) units a cell, so that what is lost to cutting is
below 2^-31 bits a symbol for tables of 2^24 cells. A stream costs about a byte beyond its
information; bytes after its end are read as zeros.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

MAX_BITS = 31  # of the tables
_BOTTOM = np.uint64(1 << 56)
_FULL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_8 = np.uint64(8)
_56 = np.uint64(56)


def encode(low: np.ndarray, high: np.ndarray, bits: int) -> bytes:
    """A stream: int64 [n] each, the cells 0 <= low < high <= 2^bits that the symbols are."""
    # A symbol is at most `bits` bits and what cutting adds, less than 1.
    out = np.empty(16 + len(low) * (bits + 1) // 8, np.uint8)
    length = _encode(low.astype(np.uint64), high.astype(np.uint64), np.uint64(bits), out)
    return out[:length].tobytes()


class Decoder(NamedTuple):
    """B streams that are read in lock-step, and where each is.

    data: uint8, the streams one after another; place, ends: int64 [B]; offset, range: uint64 [B],
    of the code within the interval.
    """

    data: np.ndarray
    place: np.ndarray
    ends: np.ndarray
    offset: np.ndarray
    range: np.ndarray


def open_streams(streams: list[bytes]) -> Decoder:
    data = np.frombuffer(b"".join(streams) + b"\0", np.uint8)
    lengths = np.array([len(stream) for stream in streams], np.int64)
    ends = np.cumsum(lengths)
    place, offset = ends - lengths, np.zeros(len(streams), np.uint64)
    _fill(data, place, ends, offset)
    return Decoder(data, place, ends, offset, np.full(len(streams), _FULL, np.uint64))


def decode(decoder: Decoder, tables: np.ndarray, bits: int) -> np.ndarray:
    """The next symbol of every stream, int64 [B], under tables int64 [B, 257] of 2^bits cells.

    A damaged stream gives wrong symbols, no error.
    """
    symbols = np.empty(len(decoder.place), np.int64)
    _decode(*decoder, tables.astype(np.uint64), np.uint64(bits), symbols)
    return symbols


@numba.njit(cache=True)
def _encode(lows, highs, bits, out):
    low, span, length = np.uint64(0), _FULL, 0
    for i in range(lows.shape[0]):
        unit = span >> bits
        before = low
        low += unit * lows[i]
        span = unit * (highs[i] - lows[i])
        if low < before:
            _carry(out, length)
        while span < _BOTTOM:
            out[length] = low >> _56
            length += 1
            low <<= _8
            span <<= _8
    # The number in [low, low + span) that ends in the most zero bytes; span is at least 2^56.
    if low:
        before = low
        low = (low + (_BOTTOM - np.uint64(1))) & ~(_BOTTOM - np.uint64(1))
        if low < before:
            _carry(out, length)
        out[length] = low >> _56
        length += 1
    while length and out[length - 1] == 0:
        length -= 1
    return length


@numba.njit(cache=True)
def _carry(out, length):
    at = length - 1
    while out[at] == 255:
        out[at] = 0
        at -= 1
    out[at] += 1


@numba.njit(cache=True)
def _fill(data, place, ends, offset):
    for row in range(place.shape[0]):
        for _ in range(8):
            offset[row] = (offset[row] << _8) | _next(data, place, ends, row)


@numba.njit(cache=True)
def _next(data, place, ends, row):
    byte = np.uint64(0)
    if place[row] < ends[row]:
        byte = np.uint64(data[place[row]])
        place[row] += 1
    return byte


@numba.njit(cache=True)
def _decode(data, place, ends, offset, span, tables, bits, symbols):
    for row in range(place.shape[0]):
        unit = span[row] >> bits
        cell = offset[row] // unit
        low, high = 0, tables.shape[1] - 1
        while high - low > 1:
            middle = (low + high) // 2
            if tables[row, middle] <= cell:
                low = middle
            else:
                high = middle
        symbols[row] = low
        offset[row] -= unit * tables[row, low]
        span[row] = unit * (tables[row, high] - tables[row, low])
        while span[row] < _BOTTOM:
            offset[row] = (offset[row] << _8) | _next(data, place, ends, row)
            span[row] <<= _8
