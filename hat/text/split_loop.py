"""The compiled loop that splits whole documents: what `split_tables.step` does, over an array.

The tables are packed so that a byte costs two dependent loads, or one where it is ASCII; only in
the last few bytes before a word's limit does the loop look at the limit at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np

from hat.text.split_tables import MAX_ROOM, SplitState, SplitTables
from hat.text.utf8 import BREAKING_BYTE


class PackedTables(NamedTuple):
    """`SplitTables` for the loop, uint32, at most 512 byte states, 512 word states, 256 emissions,
    32 candidate sets. A word state q is kept as q << 8, the offset of its row.

    ascii_: [Q << 8] a byte < 128 with nothing pending: next q << 8 | closed << 1 | start
    byte: [S << 8] next state | emission << 9 | candidates, with room, << 17
    word: [(MAX_ROOM + 1) * Q << 8] by room, word state, emission:
      next q << 8 | starts << 17 | num_starts << 21 | last_start << 25
    closed: [Q << 5] by word state and candidates: bool
    candidates: [S * (MAX_ROOM + 1)]
    pending: [S]
    """

    ascii_: np.ndarray
    byte: np.ndarray
    word: np.ndarray
    closed: np.ndarray
    candidates: np.ndarray
    pending: np.ndarray
    max_word_bytes: int


def pack(tables: SplitTables) -> PackedTables:
    num_bytes, _ = tables.next_byte.shape
    num_words, num_emissions = tables.next_word.shape
    if max(num_bytes, num_words) > 512 or num_emissions > 256 or tables.closed.shape[1] > 32:
        raise ValueError(f"tables too large to pack: {tables.next_byte.shape=}")
    with_room = tables.candidates[:, MAX_ROOM]
    byte = tables.next_byte | tables.emission << 9 | with_room[tables.next_byte] << 17
    masks = tables.starts
    rooms = np.zeros((MAX_ROOM + 1, num_words, 256), np.int32)
    rooms[:, :, :num_emissions] = (
        tables.next_word << 8
        | masks << 17
        | tables.num_starts[masks] << 21
        | tables.last_start[masks] << 25
    )
    closed = np.zeros((num_words, 32), np.int32)
    closed[:, : tables.closed.shape[1]] = tables.closed
    ascii_emission = tables.emission[0, :128]
    next_word = tables.next_word[:, ascii_emission]
    start = tables.starts[MAX_ROOM][:, ascii_emission]
    ascii_ = np.zeros((num_words, 256), np.int32)
    ascii_[:, :128] = next_word << 8 | tables.closed[next_word, with_room[0]] << 1 | start
    return PackedTables(
        ascii_=ascii_.reshape(-1).astype(np.uint32),
        byte=byte.reshape(-1).astype(np.uint32),
        word=rooms.reshape(-1).astype(np.uint32),
        closed=closed.reshape(-1).astype(np.uint32),
        candidates=tables.candidates.reshape(-1).astype(np.uint32),
        pending=tables.pending.astype(np.uint32),
        max_word_bytes=int(tables.max_word_bytes),
    )


def split_bytes(tables: PackedTables, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8[T] -> starts bool[T], known int32[T], as in `splitters.Split`."""
    data = data.view()
    data.flags.writeable = False  # one type for numba, wherever the bytes come from
    starts = np.zeros(len(data) + 3, np.uint8)
    known = np.empty(len(data), np.int32)
    _loop(data, starts, known, *tables)
    return starts[3:].view(np.bool_), known


def state_after(tables: PackedTables, data: np.ndarray) -> SplitState:
    """Where the splitter is once it has read uint8[T]."""
    data = data.view()
    data.flags.writeable = False
    starts = np.zeros(len(data) + 3, np.uint8)
    byte, row, length = _loop(data, starts, np.empty(len(data), np.int32), *tables)
    return SplitState(int(byte), int(row) >> 8, int(length))


def compiled(function: Callable) -> Callable:
    """Compiles with numba, and keeps the machine code on disk where a folder can be written."""
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:  # numba found no folder for its cache: a read-only installation
        return numba.njit(function)


@compiled
def _loop(data, starts, known, ascii_, byte, word, closed, candidates, pending, max_word_bytes):
    """Fills known[t], and starts[t + 3] because a byte may report starts three bytes back. Returns
    the byte state, the word state << 8 and the length at the end. All indices are unsigned: numba
    then compiles no test for negative ones."""
    num_words = np.uint32(len(ascii_))  # Q << 8, the stride of a room
    with_room = word[MAX_ROOM * num_words :]
    eight_bits, nine_bits = np.uint32(0xFF), np.uint32(0x1FF)
    row = np.uint32(0)  # word state << 8
    state = np.uint32(0)  # byte state
    length = max_word_bytes  # bytes since the last start, pending ones included
    far = max_word_bytes - MAX_ROOM  # below this length, this byte and the next have room
    count = np.int32(-1)  # starts so far, less one
    t, one = np.uint64(0), np.uint64(1)
    end = np.uint64(len(data))
    while t < end:
        if (
            state == 0
            and length < far - 3
            and t + np.uint64(4) <= end
            and data[t] | data[t + one] | data[t + np.uint64(2)] | data[t + np.uint64(3)] < 128
        ):  # four ASCII bytes
            for _ in range(4):
                entry = ascii_[row | np.uint32(data[t])]
                row = entry & ~eight_bits
                start = entry & 1
                starts[t + np.uint64(3)] = start
                count += np.int32(start)
                length = 1 if start else length + 1
                known[t] = count + np.int32(entry >> 1 & 1)
                t += one
            continue
        if length < far:
            entry = byte[state << 8 | np.uint32(data[t])]
            after = with_room[row | (entry >> 9 & eight_bits)]
        else:
            room = min(max_word_bytes - length + np.int64(pending[state]), MAX_ROOM)
            entry = byte[state << 8 | np.uint32(data[t])]
            after = word[np.uint32(room) * num_words + (row | (entry >> 9 & eight_bits))]
        state = entry & nine_bits
        sets = entry >> 17
        row = after & np.uint32(0x1FF00)
        mask = after >> 17 & 15
        length += 1
        if mask:
            starts[t + np.uint64(3)] = mask & 1
            if mask > 1:
                starts[t + np.uint64(2)] |= mask >> 1 & 1
                starts[t + one] |= mask >> 2 & 1
                starts[t] |= mask >> 3
            count += np.int32(after >> 21 & 15)
            length = np.int64(after >> 25)
        if length >= far:
            room = min(max_word_bytes - length + np.int64(pending[state]), MAX_ROOM)
            sets = candidates[state * np.uint32(MAX_ROOM + 1) + np.uint32(room)]
        known[t] = count + np.int32(closed[row >> 3 | sets])
        t += one
    # The end of the data breaks a character that it cuts short.
    room = min(max_word_bytes - length + np.int64(pending[state]), MAX_ROOM)
    completed = byte[state << 8 | np.uint32(BREAKING_BYTE)] >> 9 & eight_bits
    mask = word[np.uint32(room) * num_words + (row | completed)] >> 17 & 15
    for back in range(1, 4):
        if mask >> back & 1:
            starts[len(data) + 3 - back] = 1
    return state, row, length
