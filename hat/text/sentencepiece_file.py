"""What SentencePiece's own library does not tell of a `.model` file: its kind, and of each piece.

The file is a protocol buffer: pieces (1) { piece (1), score (2), type (3) } in the order of ids,
and trainer_spec (2) { model_type (3) }.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

UNIGRAM, BPE = 1, 2  # kinds
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # types of pieces


class Piece(NamedTuple):
    text: str
    score: float
    type: int


def read_model(data: bytes) -> tuple[int, list[Piece]]:
    """The kind of the model and its pieces, by id. The library must have accepted `data`."""
    kind, pieces = UNIGRAM, []
    for field, value in _fields(data):
        if field == 1:
            parts = {1: b"", 2: 0.0, 3: NORMAL, **dict(_fields(value))}
            pieces.append(Piece(parts[1].decode(), parts[2], parts[3]))
        elif field == 2:
            kind = dict(_fields(value)).get(3, UNIGRAM)
    return kind, pieces


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int | float]]:
    """Every field's number and value; a float where four bytes are stored."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            value |= (data[at] & 0x7F) << shift
            shift += 7
            at += 1
            if data[at - 1] < 0x80:
                return value

    while at < len(data):
        field, wire = divmod(varint(), 8)
        if wire == 0:
            yield field, varint()
        else:
            size = {1: 8, 5: 4}.get(wire) or varint()
            at += size
            chunk = data[at - size : at]
            yield field, struct.unpack("<f", chunk)[0] if wire == 5 else chunk
