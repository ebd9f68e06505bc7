"""Packed rows as records of ArrayRecord shards.

A record is little-endian: "HROW", format version, number of arrays, CRC-32 (started from that
number) of what follows; for each array the bytes of an item (1, 2 or 4) and the number of items;
then the arrays. They are the ids, the lengths of the segments and, where a row has words, a mark
for each id: 2 * lag + start. A row of conversations has four, the marks empty where it has no
words, and whether each id is part of an answer.
ArrayRecord compresses every record by itself, so that any row can be read alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import tempfile
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
_ITEM_TYPES = tuple(map(np.dtype, ("<u1", "<u2", "<u4")))


def encode_row(row: Row) -> bytes:
    arrays = [row.ids, row.lengths]
    if row.starts is not None:
        arrays.append(row.lags * 2 + row.starts)
    if row.answers is not None:
        arrays += [np.zeros(0, np.int32)] if row.starts is None else []
        arrays.append(row.answers.astype(np.uint8))
    packed = [array.astype(_item_type(array)) for array in arrays]
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
    ids, lengths, marks, answers = arrays + [None] * (4 - count)
    has_words = marks is not None and len(marks) == len(ids)
    words = (marks % 2 == 1, marks // 2) if has_words else (None, None)
    return Row(ids, lengths, *words, None if answers is None else answers == 1)


def is_row(record: bytes) -> bool:
    """Whether this is an encoded row, and no text."""
    return record.startswith(_MAGIC + bytes([VERSION]))


class RowFile:
    """One file of rows, which appears under its name when it is closed: whole, and on the disk.

    Nothing appears where no row was written. OSError where the disk is full or not writable.
    """

    def __init__(self, path: Path):
        self._path = path
        # Two writers of the same shard, of which one is thought dead, must not meet.
        self._partial = path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(4).hex()}.part")
        self._writer = None
        self.rows = 0

    def write(self, row: Row) -> None:
        if self._writer is None:
            from array_record.python.array_record_module import ArrayRecordWriter

            with _system_errors():
                self._writer = ArrayRecordWriter(str(self._partial), WRITER_OPTIONS)
        with _system_errors():
            self._writer.write(encode_row(row))
        self.rows += 1

    def close(self) -> None:
        if self._writer is not None:
            with _system_errors():
                self._writer.close()
            self._writer = None
            sync(self._partial)
            os.rename(self._partial, self._path)


class ShardWriter:
    """Writes the rows of one split, in order, into shards SPLIT-00000-of-00003.arrayrecord."""

    def __init__(self, folder: Path, split: str, row_length: int):
        self._folder = folder
        self._split = split
        self._rows_per_shard = max(1, IDS_PER_SHARD // row_length)
        self._shards: list[RowFile] = []

    def write(self, row: Row) -> None:
        if not self._shards or self._shards[-1].rows == self._rows_per_shard:
            self._close_last()
            self._shards.append(RowFile(self._part(len(self._shards))))
        self._shards[-1].write(row)

    def finish(self) -> list[str]:
        """Closes and names the shards; their file names."""
        self._close_last()
        names = []
        for number in range(len(self._shards)):
            names.append(shard_name(self._split, number, len(self._shards)))
            os.rename(self._part(number), self._folder / names[-1])
        return names

    @property
    def shard_rows(self) -> list[int]:
        """Rows of every shard begun."""
        return [shard.rows for shard in self._shards]

    def _close_last(self) -> None:
        if self._shards:
            self._shards[-1].close()

    def _part(self, number: int) -> Path:
        return self._folder / f"{self._split}-{number:05d}"


def shard_name(split: str, number: int, count: int) -> str:
    return f"{split}-{number:05d}-of-{count:05d}.arrayrecord"


def write_file(path: Path, content: bytes) -> None:
    """The file appears whole and on the disk, or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(4).hex()}.part")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.rename(partial, path)


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


def _item_type(array: np.ndarray) -> np.dtype:
    """The narrowest that holds these numbers, none of which is negative."""
    top = array.max(initial=0)
    return _ITEM_TYPES[0 if top < 1 << 8 else 1 if top < 1 << 16 else 2]


@contextlib.contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that becomes it, synced, once the body is through."""
    partial = f".{out.name}.partial-"
    for left in out.parent.glob(f"{partial}*"):  # by a process that died
        shutil.rmtree(left)
    folder = Path(tempfile.mkdtemp(prefix=partial, dir=out.parent))
    try:
        yield folder
        for path in folder.iterdir():
            sync(path)
        sync(folder)
        folder.chmod(0o755)  # mkdtemp makes it private
        os.rename(folder, out)
        sync(out.parent)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
