"""Packed rows as records of ArrayRecord shards.

A record is little-endian: "HROW", format version, number of arrays, CRC-32 (started from that
number) of what follows; for each array the bytes of an item (1, 2 or 4) and the number of items;
then the arrays. They are the ids, the lengths of the segments and, where a row has words, a mark
for each id: 2 * lag + start.
ArrayRecord compresses every record by itself, so that any row can be read alone.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hat.text.rows import Row

VERSION = 1
IDS_PER_SHARD = 1 << 26
WRITER_OPTIONS = "group_size:1,zstd:3"  # one row a chunk: random access reads nothing else
_HEADER = struct.Struct("<4sBBI")
_ARRAY = struct.Struct("<BI")
_MAGIC = b"HROW"


def encode_row(row: Row) -> bytes:
    arrays = [row.ids, row.lengths]
    if row.starts is not None:
        arrays.append(row.lags * 2 + row.starts)
    packed = [array.astype(f"<u{_item_bytes(array)}") for array in arrays]
    body = b"".join(
        [_ARRAY.pack(array.itemsize, array.size) for array in packed]
        + [array.tobytes() for array in packed]
    )
    return _HEADER.pack(_MAGIC, VERSION, len(packed), zlib.crc32(body, len(packed))) + body


def decode_row(record: bytes) -> Row:
    """The row that was encoded. ValueError where the record is damaged or of another version."""
    if len(record) < _HEADER.size:
        raise ValueError(f"a record of {len(record)} bytes")
    magic, version, count, checksum = _HEADER.unpack_from(record)
    if magic != _MAGIC or version != VERSION:
        raise ValueError(f"not a row of format {VERSION}")
    if zlib.crc32(record[_HEADER.size :], count) != checksum:
        raise ValueError("the checksum differs")
    offset = _HEADER.size + count * _ARRAY.size
    arrays = []
    for size, items in _ARRAY.iter_unpack(record[_HEADER.size : offset]):
        arrays.append(np.frombuffer(record, f"<u{size}", items, offset).astype(np.int32))
        offset += size * items
    if count == 2:
        return Row(*arrays)
    ids, lengths, marks = arrays
    return Row(ids, lengths, marks % 2 == 1, marks // 2)


class ShardWriter:
    """Writes the rows of one split, in order, into shards SPLIT-00000-of-00003.arrayrecord.

    OSError where the disk is full or not writable.
    """

    def __init__(self, folder: Path, split: str, row_length: int):
        self._folder = folder
        self._split = split
        self._rows_per_shard = max(1, IDS_PER_SHARD // row_length)
        self._writer = None
        self.shard_rows: list[int] = []  # rows of every shard begun

    def write(self, row: Row) -> None:
        if self._writer is None:
            from array_record.python.array_record_module import ArrayRecordWriter

            path = self._part(len(self.shard_rows))
            with _system_errors():
                self._writer = ArrayRecordWriter(str(path), WRITER_OPTIONS)
            self.shard_rows.append(0)
        with _system_errors():
            self._writer.write(encode_row(row))
        self.shard_rows[-1] += 1
        if self.shard_rows[-1] == self._rows_per_shard:
            self._close_shard()

    def finish(self) -> list[str]:
        """Closes and names the shards, synced to disk; their file names."""
        self._close_shard()
        names = []
        for number in range(len(self.shard_rows)):
            name = f"{self._split}-{number:05d}-of-{len(self.shard_rows):05d}.arrayrecord"
            sync(self._part(number))
            os.rename(self._part(number), self._folder / name)
            names.append(name)
        return names

    def _close_shard(self) -> None:
        if self._writer is not None:
            with _system_errors():
                self._writer.close()
            self._writer = None

    def _part(self, number: int) -> Path:
        return self._folder / f"{self._split}-{number:05d}.part"


@contextlib.contextmanager
def _system_errors() -> Iterator[None]:
    """The library reports a failed write as a RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error)) from None


def sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _item_bytes(array: np.ndarray) -> int:
    top = int(array.max(initial=0))
    return 1 if top < 1 << 8 else 2 if top < 1 << 16 else 4
