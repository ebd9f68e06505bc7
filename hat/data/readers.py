"""Texts out of files: plain, .gz and .zst streams, JSONL lines, Parquet columns, ArrayRecords."""

from __future__ import annotations

import dataclasses
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from hat.data.records import is_row
from hat.errors import UserError

COMPRESSED = (".gz", ".zst")
CHUNK_BYTES = 1 << 20


class DamagedFile(Exception):
    """A file that breaks off or is not what its suffix says."""


@dataclasses.dataclass(frozen=True)
class BadLine:
    """A line that holds no document. kind: what is counted; reason: what is told."""

    line: int
    kind: str
    reason: str


def chunks(path: Path) -> Iterator[bytes]:
    """The decompressed bytes of a file. DamagedFile where the compressed stream is broken."""
    suffix = path.suffix.lower()
    with path.open("rb") as file:
        if suffix == ".gz":
            yield from _gzip_chunks(file)
        elif suffix == ".zst":
            yield from _zstandard_chunks(file)
        else:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk


class Unusable(Exception):
    """What a record holds is no document. kind: what is counted; reason: what is told."""

    def __init__(self, kind: str, reason: str):
        self.kind, self.reason = kind, reason


def jsonl_documents(
    stream: Iterable[bytes], document: Callable[[dict[str, Any]], bytes]
) -> Iterator[bytes | BadLine]:
    """One item for each line: the document of its object, or what is wrong. Lines count from 1.

    document: raises Unusable for an object that holds none. A blank line is an empty document.
    """
    for number, line in enumerate(_lines(stream), start=1):
        try:
            yield document(_object(line)) if line.strip() else b""
        except Unusable as error:
            yield BadLine(number, error.kind, error.reason)


def jsonl_texts(stream: Iterable[bytes], field: str) -> Iterator[bytes | BadLine]:
    """One item for each line: the UTF-8 of its field, or what is wrong (`jsonl_documents`)."""
    return jsonl_documents(stream, lambda line: _text_of(line, field))


def parquet_texts(path: Path, field: str) -> Iterator[bytes | BadLine]:
    """One item for each row of a Parquet file: the bytes of its text column, or what is wrong."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            names = table.schema_arrow.names
            if field not in names:
                raise UserError(
                    f"{path}: no column {field!r}, but {', '.join(names)}: set data.text_field"
                )
            kind = table.schema_arrow.field(field).type
            if not _is_text(kind):
                raise UserError(f"{path}: column {field!r} holds {kind}, not text")
            number = 0
            for batch in table.iter_batches(batch_size=1024, columns=[field]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    if value is None:
                        yield BadLine(number, "rows without text", f"{field!r} is null")
                    else:
                        yield value if isinstance(value, bytes) else value.encode()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DamagedFile(str(error).splitlines()[0]) from None


def array_record_texts(path: Path) -> Iterator[bytes]:
    """One item for each record of an ArrayRecord file: its bytes, taken for UTF-8.

    UserError where the records are rows of a prepared corpus.
    """
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(path))
    if not reader.ok():  # which is all that it says
        raise DamagedFile("no ArrayRecord file")
    try:
        for _ in range(reader.num_records()):
            record = reader.read()  # the next one: every chunk is decompressed once
            if is_row(record):
                raise UserError(f"{path}: rows of a prepared corpus: give the text they came from")
            yield record
        reader.close()  # which finds damage, too
    except RuntimeError as error:
        raise DamagedFile(str(error).splitlines()[0]) from None


def _is_text(kind: object) -> bool:
    from pyarrow import types

    tests = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    return any(test(kind) for test in tests)


def _gzip_chunks(file) -> Iterator[bytes]:
    try:
        with gzip.open(file) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DamagedFile(str(error)) from None


def _zstandard_chunks(file) -> Iterator[bytes]:
    """Frame by frame: the library's own stream reader takes a cut file for a finished one."""
    import zstandard

    frame, finished = None, False
    try:
        while data := file.read(CHUNK_BYTES):
            while data:
                if frame is None:
                    frame = zstandard.ZstdDecompressor().decompressobj()
                if chunk := frame.decompress(data):
                    yield chunk
                data = frame.unused_data
                if finished := frame.eof:
                    frame = None
    except zstandard.ZstdError as error:
        raise DamagedFile(str(error)) from None
    if not finished:
        raise DamagedFile("the stream ends inside a frame")


def _lines(stream: Iterable[bytes]) -> Iterator[bytes]:
    pending: list[bytes] = []
    for chunk in stream:
        *ended, rest = chunk.split(b"\n")
        for line in ended:
            yield b"".join([*pending, line])
            pending = []
        pending.append(rest)
    if any(pending):
        yield b"".join(pending)


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Unusable("lines that are not JSON", f"not JSON: {error}") from None
    if not isinstance(value, dict):
        found = type(value).__name__
        raise Unusable("lines that are not an object", f"not a JSON object but a {found}")
    return value


def _text_of(value: dict[str, Any], field: str) -> bytes:
    if field not in value:
        known = ", ".join(value)[:80] or "none at all"
        raise Unusable(f"lines without {field!r}", f"no field {field!r}, only {known}")
    if not isinstance(value[field], str):
        raise Unusable(f"lines whose {field!r} is not text", f"field {field!r} is not a string")
    try:
        return value[field].encode()
    except UnicodeEncodeError:
        kind = f"lines whose {field!r} is not Unicode"
        raise Unusable(kind, f"field {field!r} holds half a surrogate pair") from None
