"""A static table of windows as a tokenizer: every code of W bits is a token, and spells a string.

Where a model begins anew in every window and W is small (arXiv 2404.03626, b = 16), a code is a
string for good. The strings are closed under prefixes, so encoding is the longest match and
decoding is looking up; no model runs, and no arithmetic can differ. `hat.compression.build` makes
tables.

A table of the lossless modes is a `Tokenizer` like any other. One of mode "paper" has several
strings for some codes: it encodes as published, and spells the string that the published decoder
takes a code for, which is not always what was encoded.

The file, all numbers little-endian:

    8 bytes     b"HATTABLE"
    4 bytes     uint32, length of the header
    header      JSON: version, mode, bits, context, model, entries, codes, sha256 of these and the rest
    entries     uint16 each: lengths of the strings
    strings     one after another
    entries     uint32 each, where `codes`: the code of each string; else string i has code i
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numba
import numpy as np

from hat.errors import UserError
from hat.text.tokenizers import Tokenizer

MAGIC = b"HATTABLE"
VERSION = 1
MAX_BITS = 20  # 2^20 strings; beyond that, run the model


@dataclasses.dataclass(frozen=True)
class WindowTable:
    """strings: of each entry; codes: int64 [n] of each, None where entry i has code i.

    mode, bits, context: of the windows (hat.compression.windows). model: hash of the model.
    """

    mode: str
    bits: int
    context: int
    model: str
    strings: list[bytes]
    codes: np.ndarray | None = None

    @property
    def num_codes(self) -> int:
        return 1 << self.bits

    @property
    def free_code(self) -> int | None:
        """The code that spells nothing, and so may stand for the end of a text."""
        last = self.num_codes - 1
        return last if self.codes is None and not self.strings[last] else None

    def to_bytes(self) -> bytes:
        lengths = np.array([len(s) for s in self.strings], "<u2").tobytes()
        rest = lengths + b"".join(self.strings)
        if self.codes is not None:
            rest += self.codes.astype("<u4").tobytes()
        header = {
            "version": VERSION, "mode": self.mode, "bits": self.bits, "context": self.context,
            "model": self.model, "entries": len(self.strings), "codes": self.codes is not None,
        }  # fmt: skip
        text = json.dumps(header | {"sha256": _sha256(header, rest)}).encode()
        return MAGIC + np.uint32(len(text)).astype("<u4").tobytes() + text + rest

    @classmethod
    def from_bytes(cls, data: bytes) -> WindowTable:
        """UserError: no table, one of a later version, a damaged one."""
        if data[:8] != MAGIC:
            raise UserError("not a table of windows: make one with hat equal-info build")
        try:
            size = int(np.frombuffer(data[8:12], "<u4")[0])
            header = json.loads(data[12 : 12 + size])
            expected = header.pop("sha256")
            if header["version"] != VERSION:
                raise UserError(
                    f"a table of version {header['version']}; this hat reads {VERSION}: build it "
                    "again, or use the hat that made it"
                )
            rest, entries = data[12 + size :], header["entries"]
            if _sha256(header, rest) != expected:
                raise UserError("the table is damaged or cut short: build it again")
            lengths = np.frombuffer(rest[: 2 * entries], "<u2").astype(np.int64)
            ends = 2 * entries + np.cumsum(lengths)
            starts = (ends - lengths).tolist()
            strings = [rest[a:b] for a, b in zip(starts, ends.tolist())]
            codes = None
            if header["codes"]:
                codes = np.frombuffer(rest[int(ends[-1]) :], "<u4").astype(np.int64)
            fields = (header[name] for name in ("mode", "bits", "context", "model"))
            return cls(*fields, strings, codes)
        except (KeyError, ValueError, IndexError, TypeError, AttributeError):
            raise UserError("the table is damaged or cut short: build it again") from None

    def digest(self) -> bytes:
        """SHA-256 of the table, 32 bytes."""
        return hashlib.sha256(self.to_bytes()).digest()


def _sha256(header: dict, rest: bytes) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode() + rest).hexdigest()


class TableTokenizer(Tokenizer):
    """The codes of a table as token ids; EOT is the code that spells nothing, where there is one.

    BOS and PAD, and EOT in the modes that use every code, follow the codes.
    """

    FILE = "tokenizer.table"

    def __init__(self, table: WindowTable):
        self.table = table
        spellings = table.strings
        if table.codes is not None:
            spellings = [b""] * table.num_codes
            for code, string in zip(table.codes.tolist(), table.strings):
                # Of the strings of a code the published decoder goes for the longest; the lossless
                # modes have but one each.
                spellings[code] = max(spellings[code], string, key=len)
        self.digest = table.digest()
        name = f"window-{table.mode}-{table.bits}:{self.digest.hex()[:16]}"
        self._paths, self._accepted = compile_strings(table.strings, table.codes)
        lengths = np.array([len(s) for s in spellings], np.int64)
        self._ends = np.cumsum(lengths)
        self._blob = np.frombuffer(b"".join(spellings), np.uint8)
        super().__init__(name, spellings, (None, table.free_code, None))

    @property
    def lossless(self) -> bool:
        return self.table.mode != "paper"

    def encode(self, data: bytes) -> np.ndarray:
        """int32 [n]; windows of `data`, the last one ended by its end."""
        return self._walk(data)[0].copy()

    def windows(self, data: bytes) -> list[bytes]:
        """The bytes of each window of `data`, whatever its code spells."""
        ends = self._walk(data)[1].tolist()
        return [data[begin:end] for begin, end in zip([0, *ends], ends)]

    def _walk(self, data: bytes) -> tuple[np.ndarray, np.ndarray]:
        """The code of each window, int32 [n], and where it ends, int64 [n]."""
        codes = np.empty(len(data), np.int32)  # a window has a byte at least
        ends = np.empty(len(data), np.int64)
        view = np.frombuffer(data, np.uint8)
        count = _encode(self._paths, self._accepted, view, codes, ends)
        return codes[:count], ends[:count]

    def decode(self, ids) -> bytes:
        ids = np.asarray(ids, np.int64)
        ids = ids[ids < self.table.num_codes]
        ends, lengths = self._ends[ids], self.byte_lengths[ids]
        out = np.empty(int(lengths.sum()), np.uint8)
        _decode(self._blob, ends, lengths, out)
        return out.tobytes()

    def save(self, folder: Path) -> None:
        (Path(folder) / self.FILE).write_bytes(self.table.to_bytes())

    def _single_tokens(self, spellings: Sequence[bytes]) -> np.ndarray | None:
        return super()._single_tokens(spellings) if self.lossless else None


def compile_strings(
    strings: list[bytes], codes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The trie of strings: child of each node by byte, int32 [nodes with children, 256], 0 where
    there is none, nodes with children first; and the code of each node, int32 [nodes], -1 where no
    string ends."""
    children: list[dict[int, int]] = [{}]
    accepted = [-1]
    entry_codes = range(len(strings)) if codes is None else codes.tolist()
    for string, code in zip(strings, entry_codes):
        at = 0
        for byte in string:
            after = children[at].get(byte)
            if after is None:
                after = children[at][byte] = len(children)
                children.append({})
                accepted.append(-1)
            at = after
        if string:
            accepted[at] = code
    order = sorted(range(len(children)), key=lambda node: not children[node])  # stable: root first
    place = {node: i for i, node in enumerate(order)}
    inner = sum(map(bool, children))
    paths = np.zeros((max(inner, 1), 256), np.int32)
    for node in order[:inner]:
        for byte, child in children[node].items():
            paths[place[node], byte] = place[child]
    return paths, np.array([accepted[node] for node in order], np.int32)


@numba.njit(cache=True)
def _encode(paths, accepted, data, codes, ends):
    """Longest matches; a walk that ends where no string does goes back to the last that did."""
    count, begin, inner = 0, 0, paths.shape[0]
    while begin < data.shape[0]:
        node, at, found, end = 0, begin, -1, begin
        while at < data.shape[0] and node < inner:
            node = paths[node, data[at]]
            if node == 0:
                break
            at += 1
            if accepted[node] >= 0:
                found, end = accepted[node], at
        codes[count], ends[count] = found, end
        count += 1
        begin = end
    return count


@numba.njit(cache=True)
def _decode(blob, ends, lengths, out):
    place = 0
    for i in range(ends.shape[0]):
        length = lengths[i]
        begin = ends[i] - length
        for j in range(length):
            out[place + j] = blob[begin + j]
        place += length
