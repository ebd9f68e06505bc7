"""Next-byte distributions of a teacher on disk, computed once and read in every epoch.

    FOLDER/settings.json       whose they are (`origin`), and the floor
    FOLDER/00000.arrayrecord   texts, one a record
    FOLDER/00000.keys          uint64 little-endian: of each record, the first 8 bytes of the SHA-256
                               of its text; a shard without it is not finished

A record is little-endian: "HNBP", format version, CRC-32 of what follows; SHA-256 of the text; number
of rows (bytes of the text plus 1); per row the number of symbols kept, uint16; then all symbols
kept, uint16, and their natural log-probabilities, float16. Symbols less likely than the floor are
dropped and the rest of the row is made to sum to 1, so that a row differs from the teacher's by
at most 257 times the floor in total variation. A text is found by what it spells, so that rows may be
packed and shuffled in any way.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hat.data.records import sync, write_file
from hat.errors import UserError

VERSION = 1
FLOOR = 1e-5  # the probability below which a symbol is not kept
SHARD_BYTES = 1 << 26  # of records before compression
AT_ONCE = 64  # texts given to the teacher together
NUM_SYMBOLS = 257
SETTINGS_FILE = "settings.json"
_HEADER = struct.Struct("<4sBI")
_MAGIC = b"HNBP"
_DIGEST_BYTES = 32


def encode(text: bytes, logprobs: np.ndarray, floor: float = FLOOR) -> bytes:
    """The record of a text of T bytes, logprobs [T + 1, 257]."""
    if logprobs.shape != (len(text) + 1, NUM_SYMBOLS):
        raise ValueError(f"{logprobs.shape} log-probabilities of a text of {len(text)} bytes")
    kept = logprobs >= np.log(floor)
    kept[np.arange(len(kept)), logprobs.argmax(axis=1)] = True
    rows, symbols = np.nonzero(kept)
    values = logprobs[rows, symbols].astype("<f2")
    counts = np.bincount(rows, minlength=len(kept))
    body = b"".join([
        _digest(text),
        struct.pack("<I", len(kept)),
        counts.astype("<u2").tobytes(),
        symbols.astype("<u2").tobytes(),
        values.tobytes(),
    ])  # fmt: skip
    return _HEADER.pack(_MAGIC, VERSION, zlib.crc32(body)) + body


def decode(record: bytes) -> tuple[bytes, np.ndarray]:
    """The SHA-256 of the text and its log-probabilities, float32 [T + 1, 257], -inf for what was
    dropped; rows sum to 1. ValueError: damaged, or of another version."""
    if len(record) < _HEADER.size + _DIGEST_BYTES + 4:
        raise ValueError(f"a record of {len(record)} bytes")
    magic, version, checksum = _HEADER.unpack_from(record)
    if magic != _MAGIC or version != VERSION:
        raise ValueError(f"not of format {VERSION}")
    body = record[_HEADER.size :]
    if zlib.crc32(body) != checksum:
        raise ValueError("the checksum differs")
    (length,) = struct.unpack_from("<I", body, _DIGEST_BYTES)
    counts = np.frombuffer(body, "<u2", length, _DIGEST_BYTES + 4).astype(np.int64)
    at = _DIGEST_BYTES + 4 + 2 * length
    symbols = np.frombuffer(body, "<u2", counts.sum(), at)
    values = np.frombuffer(body, "<f2", counts.sum(), at + symbols.nbytes).astype(np.float32)
    out = np.full((length, NUM_SYMBOLS), -np.inf, np.float32)
    out[np.repeat(np.arange(length), counts), symbols] = values
    return body[:_DIGEST_BYTES], out - np.logaddexp.reduce(out, axis=1, keepdims=True)


def write_probabilities(
    folder: Path,
    texts: Iterable[bytes],
    logprobs_of: Callable[[Sequence[bytes]], Sequence[np.ndarray]],
    origin: Mapping[str, Any],
    *,
    floor: float = FLOOR,
    shard_bytes: int = SHARD_BYTES,
    say: Callable[[int, int], None] = lambda texts, num_bytes: None,
) -> int:
    """Stores the distributions of the texts that `folder` does not hold yet; how many that were.

    logprobs_of: texts -> [T + 1, 257] each. origin: whose they are, JSON. say: told the texts and
    bytes stored by this call, now and then. What is finished is kept when the process dies.
    UserError: a floor out of range, a folder of another origin.
    """
    if not 0 < floor < 1 / NUM_SYMBOLS:
        raise UserError(f"floor {floor}: give a probability above 0 and below 1/{NUM_SYMBOLS}")
    settings = {"version": VERSION, "floor": floor, "origin": dict(origin)}
    _settle(folder, settings)
    known = set(_read_keys(folder)[0].tolist())
    shard = _Shard(folder)
    written = num_bytes = 0

    def store(group: list[bytes]) -> None:
        nonlocal shard, written, num_bytes
        for text, logprobs in zip(group, logprobs_of(group), strict=True):
            shard.write(text, encode(text, logprobs, floor))
            written, num_bytes = written + 1, num_bytes + len(text)
        say(written, num_bytes)
        if shard.size >= shard_bytes:
            shard.close()
            shard = _Shard(folder)

    group: list[bytes] = []
    for text in texts:
        if _key(text) in known:
            continue
        known.add(_key(text))
        group.append(text)
        if len(group) == AT_ONCE:
            store(group)
            group = []
    if group:
        store(group)
    shard.close()
    return written


class StoredProbabilities:
    """A `hat.training.objectives.ByteTeacher` that looks texts up."""

    def __init__(self, folder: Path):
        """UserError: nothing stored there."""
        self._folder = folder
        settings = _read_settings(folder)
        if settings is None:
            raise UserError(
                f"{folder} holds no stored probabilities; write them with hat byte-exact store"
            )
        self.origin: dict[str, Any] = settings["origin"]
        keys, places = _read_keys(folder)
        order = np.argsort(keys, kind="stable")
        self._keys, self._places = keys[order], places[order]
        self._readers: dict[int, Any] = {}

    def logprobs_of(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        """float32 [T + 1, 257] of every text. UserError: one that is not stored, or damaged."""
        return [self._find(text) for text in texts]

    def _find(self, text: bytes) -> np.ndarray:
        at = int(np.searchsorted(self._keys, np.uint64(_key(text))))
        if at == len(self._keys) or self._keys[at] != _key(text):
            raise UserError(
                f"{self._folder} has no probabilities of the text {text[:30]!r}... of {len(text)} "
                "bytes; run hat byte-exact store with this run's config again"
            )
        shard, record = self._places[at].tolist()
        try:
            digest, logprobs = decode(self._shard(shard).read([record])[0])
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"{_shard_path(self._folder, shard)}: record {record} is damaged ({error}); delete "
                "the file and its .keys, and run hat byte-exact store again"
            ) from None
        if digest != _digest(text):
            raise UserError(f"{self._folder}: two texts have one key; keep them in two folders")
        return logprobs

    def _shard(self, number: int):
        from array_record.python.array_record_module import ArrayRecordReader

        if number not in self._readers:
            self._readers[number] = ArrayRecordReader(str(_shard_path(self._folder, number)))
        return self._readers[number]


class _Shard:
    """The next free shard of a folder, which appears whole."""

    def __init__(self, folder: Path):
        number = len(list(folder.glob("*.keys")))
        self._path, self._keys, self.size = _shard_path(folder, number), [], 0
        self._partial = self._path.with_suffix(".part")
        self._writer = None

    def write(self, text: bytes, record: bytes) -> None:
        if self._writer is None:
            from array_record.python.array_record_module import ArrayRecordWriter

            self._writer = ArrayRecordWriter(str(self._partial), "group_size:1,zstd:3")
        self._writer.write(record)
        self._keys.append(_key(text))
        self.size += len(record)

    def close(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        sync(self._partial)
        self._partial.rename(self._path)
        write_file(self._path.with_suffix(".keys"), np.array(self._keys, "<u8").tobytes())


def _settle(folder: Path, settings: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    before = _read_settings(folder)
    if before is None:
        write_file(folder / SETTINGS_FILE, (json.dumps(settings, indent=2) + "\n").encode())
    elif before != settings:
        raise UserError(
            f"{folder} holds probabilities of another teacher, law or floor; give another folder"
        )


def _read_settings(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {folder / SETTINGS_FILE}: {error}") from None


def _read_keys(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Keys uint64 [n] of all finished shards, and (shard, record) of each, int64 [n, 2]."""
    parts = [np.fromfile(path, "<u8") for path in sorted(folder.glob("*.keys"))]
    places = [np.stack([np.full(len(part), shard), np.arange(len(part))], axis=1)
              for shard, part in enumerate(parts)]
    return (
        np.concatenate([np.zeros(0, np.uint64), *parts]),
        np.concatenate([np.zeros((0, 2), np.int64), *places]),
    )


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.arrayrecord"


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


def _key(text: bytes) -> int:
    return int.from_bytes(_digest(text)[:8], "little")
