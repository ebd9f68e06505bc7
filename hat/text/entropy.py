"""Entropy patches: a word ends where a small byte model is unsure of the next byte.

The rule of the Byte Latent Transformer (arXiv 2412.09871, section 2.3): with the entropy H(t) of
the byte after byte t, a word ends after t where H(t) > threshold ("global"), or where
H(t) - H(t - 1) > threshold ("monotonic"). It depends on no byte after t, so that every word is
closed by its last byte. `hat patches` makes the file: the weights of the model and the rule.

The file, an .npz without pickles: the arrays of `byte_model.ByteModel` by name, and `rule`, JSON.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hat.errors import UserError
from hat.text.byte_model import ByteModel, Layer, Memory, begin, empty_memory, read
from hat.text.splitters import BYTE_CAUSAL, Revealed, Split, checked

KINDS = ("global", "monotonic")
FILE = "patches.npz"  # in the folder of a run that was trained on them
VERSION = 1


class EntropyTables(NamedTuple):
    """The rule as arrays, for `step` on the host or on a device."""

    model: ByteModel
    window: Any  # int32 []: positions that a layer sees
    threshold: Any  # float32 []
    monotonic: Any  # float32 []: 1, or 0 for "global"
    max_word_bytes: Any  # int32 []


class EntropyState(NamedTuple):
    """Of B rows: what the model remembers, the entropy after the latest byte float32 [B], and the
    bytes of the word that is not complete, int [B]."""

    memory: Memory
    entropy: Any
    length: Any


def step(tables: EntropyTables, state: EntropyState, byte: Any, xp=np) -> tuple[EntropyState, Any]:
    """Reads a byte of every row, int [B]; also whether it closes its word, bool [B]."""
    memory, entropy = read(tables.model, state.memory, byte[:, None], xp)
    entropy, length = entropy[:, 0], state.length + 1
    rise = entropy - tables.monotonic * state.entropy
    closed = (rise > tables.threshold) | (length >= tables.max_word_bytes)
    return EntropyState(memory, entropy, xp.where(closed, 0, length)), closed


def empty_state(tables: EntropyTables, rows: int) -> EntropyState:
    """Rows that have read nothing, not even BOS."""
    memory = empty_memory(tables.model, int(tables.window), rows)
    return EntropyState(memory, np.zeros(rows, np.float32), np.zeros(rows, np.int32))


@dataclasses.dataclass(frozen=True, eq=False)
class EntropyPatches:
    """The splitter. window: positions that a layer of the model sees, itself included."""

    model: ByteModel
    window: int
    kind: str
    threshold: float
    max_word_bytes: int = 64
    causality = BYTE_CAUSAL

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(f"entropy patches of kind {self.kind!r} are unknown; {' or '.join(KINDS)}")
        if self.max_word_bytes < 1:
            raise UserError(f"a word of at most {self.max_word_bytes} bytes cannot be; give 1 or more")

    @functools.cached_property
    def name(self) -> str:
        digest = hashlib.sha256(repr(self.window).encode())
        for name, array in _named(self.model).items():
            digest.update(name.encode() + np.ascontiguousarray(array, "<f4").tobytes())
        return (
            f"entropy-v{VERSION}-{self.kind}-{self.threshold!r}-max{self.max_word_bytes}-"
            f"{digest.hexdigest()[:16]}"
        )

    @property
    def tables(self) -> EntropyTables:
        return EntropyTables(
            self.model,
            np.int32(self.window),
            np.float32(self.threshold),
            np.float32(self.kind == "monotonic"),
            np.int32(self.max_word_bytes),
        )

    def split(self, data: np.ndarray) -> Split:
        """uint8[T] -> Split of length T."""
        return self.split_at(self.rises(data))

    def rises(self, data: np.ndarray) -> np.ndarray:
        """What is compared with the threshold after every byte of uint8[T], float32 [T]."""
        return self._rises(*self._entropies(data)[:2])

    def _rises(self, entropy: np.ndarray, before: np.ndarray) -> np.ndarray:
        if self.kind == "global":
            return entropy
        return entropy - np.concatenate([before, entropy])[:-1]

    def split_at(self, rises: np.ndarray) -> Split:
        """The words of a text with these `rises`."""
        unsure, index = rises > np.float32(self.threshold), np.arange(len(rises))
        begins = np.maximum.accumulate(np.where(_after(unsure), index, 0))
        closed = unsure | ((index - begins + 1) % self.max_word_bytes == 0)
        starts = _after(closed)
        return Split(starts, np.cumsum(starts, dtype=np.int32) - 1 + closed.astype(np.int32))

    def stream(self) -> EntropyStream:
        return EntropyStream(self)

    def state_after(self, data: np.ndarray) -> EntropyState:
        """Of one row that has read uint8[T]."""
        entropy, before, memory = self._entropies(data)
        split = self.split_at(self._rises(entropy, before))
        latest = np.append(before, entropy)[-1:]
        closed = len(data) == 0 or split.known[-1] == split.starts.sum()
        length = 0 if closed else len(data) - np.flatnonzero(split.starts)[-1]
        return EntropyState(memory, latest, np.full(1, length, np.int32))

    def _entropies(self, data: np.ndarray) -> tuple[np.ndarray, np.ndarray, Memory]:
        """The entropy after every byte float32 [T] and after BOS float32 [1], and the memory."""
        data = checked(data)
        memory, before = begin(self.model, self.window)
        entropy = [np.zeros(0, np.float32)]
        for first in range(0, len(data), self.window):
            memory, some = read(self.model, memory, data[None, first : first + self.window])
            entropy.append(some[0])
        return np.concatenate(entropy), before, memory

    def save(self, path: Path) -> None:
        rule = {
            "version": VERSION, "kind": self.kind, "threshold": self.threshold,
            "window": self.window, "max_word_bytes": self.max_word_bytes,
        }  # fmt: skip
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as file:
            encoded = np.frombuffer(json.dumps(rule).encode(), np.uint8)
            np.savez(file, rule=encoded, **_named(self.model))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


class EntropyStream:
    def __init__(self, splitter: EntropyPatches):
        self._tables = splitter.tables
        self._state = splitter.state_after(np.zeros(0, np.uint8))
        self._index, self._starts, self._opens = 0, 0, True

    def push(self, byte: int) -> Revealed:
        starts = (self._index,) if self._opens else ()
        self._state, (closed,) = step(self._tables, self._state, np.array([byte]))
        self._index, self._starts = self._index + 1, self._starts + len(starts)
        self._opens = bool(closed)
        return Revealed(starts, self._starts - 1 + self._opens)

    def finish(self) -> tuple[int, ...]:
        return ()


@functools.lru_cache(maxsize=8)
def load_patches(path: Path) -> EntropyPatches:
    """The splitter in a file. UserError: no such file, or another one."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        rule = json.loads(arrays.pop("rule").tobytes())
        if rule.pop("version") != VERSION:
            raise UserError(f"{path} is of another version of hat: make it again with hat patches")
        return EntropyPatches(_unnamed(arrays), **rule)
    except OSError as error:
        raise UserError(f"entropy patches {path}: {error.strerror or 'cannot be read'}") from None
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        raise UserError(f"{path} holds no entropy patches: make them with hat patches") from None


def _after(closed: np.ndarray) -> np.ndarray:
    """bool [T], whether a word starts at every byte, if these bytes close theirs."""
    return np.append(True, closed)[:-1]


def _named(model: ByteModel) -> dict[str, np.ndarray]:
    """The arrays of a model by name."""
    named = {name: getattr(model, name) for name in model._fields if name != "layers"}
    for i, layer in enumerate(model.layers):
        named |= {f"layers.{i}.{name}": array for name, array in layer._asdict().items()}
    return {name: array for name, array in named.items() if array is not None}


def _unnamed(arrays: dict[str, np.ndarray]) -> ByteModel:
    numbers = {int(name.split(".")[1]) for name in arrays if name.startswith("layers.")}
    layers = []
    for i in sorted(numbers):
        start = f"layers.{i}."
        named = {n.removeprefix(start): a for n, a in arrays.items() if n.startswith(start)}
        layers.append(Layer(**named))
    rest = {name: array for name, array in arrays.items() if not name.startswith("layers.")}
    return ByteModel(layers=tuple(layers), **rest)


def find_threshold(
    splitter: EntropyPatches, rises: Sequence[np.ndarray], bytes_per_word: float
) -> EntropyPatches:
    """The splitter with the threshold at which texts with these `rises` have so many bytes a word,
    or the nearest that can be: between two values that occur, as far from both as can be.

    UserError: fewer bytes than one, or more than the limit of a word.
    """
    if not 1 <= bytes_per_word <= splitter.max_word_bytes:
        raise UserError(
            f"{bytes_per_word:g} bytes a word cannot be: words have 1 to {splitter.max_word_bytes}"
        )
    values = np.unique(np.concatenate(rises).astype(np.float64))
    between = np.concatenate([[values[0] - 1], (values[1:] + values[:-1]) / 2, [values[-1] + 1]])

    def at(place: int) -> EntropyPatches:
        return dataclasses.replace(splitter, threshold=float(between[place]))

    low, high = 0, len(between) - 1  # more bytes a word the higher the threshold
    while high - low > 1:
        middle = (low + high) // 2
        if ratio(at(middle), rises) < bytes_per_word:
            low = middle
        else:
            high = middle
    return min((at(low), at(high)), key=lambda s: abs(ratio(s, rises) - bytes_per_word))


def ratio(splitter: EntropyPatches, rises: Sequence[np.ndarray]) -> float:
    """Bytes a word of texts with these `rises`."""
    words = sum(int(splitter.split_at(text).starts.sum()) for text in rises)
    return sum(map(len, rises)) / max(words, 1)
