"""The container of `hat compress`.

All numbers little-endian:

    head, 64 bytes
        8 bytes     b"HATPRESS"
        uint16      version of this layout and of the coder
        uint8       bits of the cumulative tables
        uint8       1: the weights are those of the integer model, any machine's
        uint16      rows of the model's step
        uint16      0
        uint32      bytes of a chunk of the original; the last one may be shorter
        uint64      bytes of the original
        uint32      CRC-32 of the original
        16 bytes    hash of the model
        8 bytes     fingerprint of the arithmetic
        uint32      0
        uint32      CRC-32 of the head before this and of the index
    index, 8 bytes a chunk
        uint32      bytes of its stream, and 2^31 where it is the original itself
        uint32      CRC-32 of the chunk of the original
    the streams, one after another
"""

from __future__ import annotations

import dataclasses
import struct
import zlib

from hat.errors import UserError

MAGIC = b"HATPRESS"
VERSION = 1
RAW = 1 << 31
_HEAD = struct.Struct("<8sHBBHHIQI16s8sI")
_CRC = struct.Struct("<I")
_ENTRY = struct.Struct("<II")
ENTRY_BYTES = _ENTRY.size


@dataclasses.dataclass(frozen=True)
class Header:
    """See the layout above. model: 16 bytes; arithmetic: 8 bytes."""

    bits: int
    portable: bool
    rows: int
    chunk_bytes: int
    length: int
    crc: int
    model: bytes
    arithmetic: bytes

    @property
    def num_chunks(self) -> int:
        return -(-self.length // self.chunk_bytes)

    def chunk_length(self, number: int) -> int:
        return min(self.chunk_bytes, self.length - number * self.chunk_bytes)


@dataclasses.dataclass(frozen=True)
class Chunk:
    """stream: of the range coder, or the original bytes where `raw`; crc: of the original."""

    stream: bytes
    raw: bool
    crc: int


def pack(header: Header, chunks: list[Chunk]) -> bytes:
    h = header
    head = _HEAD.pack(
        MAGIC, VERSION, h.bits, h.portable, h.rows, 0, h.chunk_bytes, h.length, h.crc, h.model,
        h.arithmetic, 0,
    )  # fmt: skip
    index = b"".join(_ENTRY.pack(len(c.stream) | RAW * c.raw, c.crc) for c in chunks)
    check = _CRC.pack(zlib.crc32(head + index))
    return head + check + index + b"".join(chunk.stream for chunk in chunks)


def unpack(content: bytes) -> tuple[Header, list[Chunk]]:
    """UserError: no such container, one of a later version, a damaged head, one cut short."""
    start = _HEAD.size + _CRC.size
    if content[:8] != MAGIC:
        raise UserError("not a file of hat compress")
    if len(content) < start:
        raise UserError("cut short: the head is not whole")
    _, version, bits, portable, rows, _, chunk_bytes, length, crc, model, arithmetic, _ = (
        _HEAD.unpack_from(content)
    )
    if version != VERSION:
        raise UserError(f"a container of version {version}, and this hat reads {VERSION}: "
                        "use the hat that made it")
    header = Header(bits, bool(portable), rows, max(chunk_bytes, 1), length, crc, model, arithmetic)
    end = start + _ENTRY.size * header.num_chunks
    if len(content) < end:
        raise UserError("cut short: the index is not whole")
    check = zlib.crc32(content[: _HEAD.size] + content[start:end])
    if check != _CRC.unpack_from(content, _HEAD.size)[0]:
        raise UserError("damaged: the checksum of its head does not match")
    chunks, place = [], end
    for size, chunk_crc in _ENTRY.iter_unpack(content[start:end]):
        stream = content[place : place + size % RAW]
        place += size % RAW
        chunks.append(Chunk(stream, size >= RAW, chunk_crc))
    if place != len(content):
        what = "cut short" if place > len(content) else "damaged: there are bytes after its end"
        raise UserError(f"{what}: {len(content):,} bytes where {place:,} belong")
    return header, chunks
