"""Windows of one text on disk: the codes of a static table.

All numbers little-endian:

    8 bytes     b"HATCODES"
    4 bytes     uint32, version
    4 bytes     uint32, CRC-32 of the text
    8 bytes     uint64, bytes of the text
    32 bytes    SHA-256 of the table
    the codes   uint16 each, or uint32 where windows are wider than 16 bits
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from hat.errors import UserError
from hat.text.window_table import TableTokenizer

MAGIC = b"HATCODES"
VERSION = 1
_HEAD = struct.Struct("<8sIIQ32s")


def write_codes(tokenizer: TableTokenizer, data: bytes) -> bytes:
    """A text as a file of codes."""
    codes = tokenizer.encode(data)
    head = _HEAD.pack(MAGIC, VERSION, zlib.crc32(data), len(data), tokenizer.digest)
    return head + codes.astype(_dtype(tokenizer)).tobytes()


def read_codes(tokenizer: TableTokenizer, content: bytes) -> bytes:
    """The text. UserError: not such a file, another table's, a later version's, a damaged one."""
    if content[:8] != MAGIC or len(content) < _HEAD.size:
        raise UserError("not a file of hat equal-info encode, or cut short")
    _, version, crc, length, digest = _HEAD.unpack_from(content)
    if version != VERSION:
        raise UserError(f"a file of version {version}; this hat reads {VERSION}")
    if digest != tokenizer.digest:
        raise UserError(
            f"encoded with another table, {digest.hex()[:16]}; this one is "
            f"{tokenizer.digest.hex()[:16]}"
        )
    kind = _dtype(tokenizer)
    rest = content[_HEAD.size :]
    codes = np.frombuffer(rest[: len(rest) // kind.itemsize * kind.itemsize], kind)
    text = None
    if len(rest) % kind.itemsize == 0 and (codes < tokenizer.table.num_codes).all():
        if int(tokenizer.byte_lengths[codes].sum(dtype=np.int64)) == length:
            text = tokenizer.decode(codes)
    if text is None or zlib.crc32(text) != crc:
        raise UserError("damaged or cut short: it does not decode to the text that was encoded")
    return text


def _dtype(tokenizer: TableTokenizer) -> np.dtype:
    return np.dtype("<u2" if tokenizer.table.bits <= 16 else "<u4")
