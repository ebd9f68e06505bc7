"""Safetensors on disk: read through memory maps, and written tensor by tensor.

The library that defines the format copies every tensor that it reads and writes from a dict that
holds all of them; here a tensor is a view of the file until a shard of it is wanted, and it is
written as soon as it exists. The format is 8 bytes with the length of a header, the header as
JSON (dtype, shape and place of every tensor) and the bytes.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import ml_dtypes
import numpy as np

from hat.errors import UserError

INDEX_FILE = "model.safetensors.index.json"
DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_LARGEST_HEADER = 100_000_000  # bytes, as the library limits it
SHARD_BYTES = 5 * 10**9

PICKLES = (".pt", ".pth", ".ckpt", ".pkl")


class Spec(NamedTuple):
    dtype: np.dtype
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Tensors(Protocol):
    """Named tensors that are not in memory yet."""

    where: Path  # for error messages
    specs: Mapping[str, Spec]

    def read(self, name: str) -> np.ndarray:
        """The tensor, a view that costs memory only where it is looked at."""
        ...

    def release(self) -> None:
        """Gives back the memory of what was looked at; the views stay valid."""
        ...


class SafeTensors:
    """The tensors of one or more safetensors files."""

    def __init__(self, where: Path, paths: Iterable[Path]):
        """UserError: a file that is missing, cut short, no safetensors, or of another dtype."""
        self.where = where
        self.specs: dict[str, Spec] = {}
        self._places: dict[str, tuple[mmap.mmap, int]] = {}
        self._maps: list[mmap.mmap] = []
        self.files: dict[str, str] = {}  # the name of the file that holds each tensor
        for path in paths:
            try:
                with path.open("rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    places, data_start = _read_header(path, file, size)
                    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except OSError as error:
                raise UserError(f"cannot read {path}: {error.strerror}") from None
            self._maps.append(mapped)
            for name, (spec, start) in places.items():
                if name in self.specs:
                    raise UserError(f"{path} and {self.files[name]} both hold {name}; keep one")
                self.specs[name] = spec
                self._places[name] = mapped, data_start + start
                self.files[name] = path.name

    def read(self, name: str) -> np.ndarray:
        (mapped, start), spec = self._places[name], self.specs[name]
        flat = np.frombuffer(mapped, spec.dtype, math.prod(spec.shape), start)
        return flat.reshape(spec.shape)

    def release(self) -> None:
        for mapped in self._maps:
            mapped.madvise(mmap.MADV_DONTNEED)


def open_folder(folder: Path, *more: Path) -> SafeTensors:
    """The tensors of a folder: of the shards that its index names, or of its one safetensors
    file; and those of the files `more`.

    UserError as SafeTensors; an index that names files outside the folder or does not fit the
    shards; several files without an index; none, with the way from a pickle to safetensors.
    """
    index = folder / INDEX_FILE
    if index.is_file():
        weight_map = _read_index(index)
        names = sorted(set(weight_map.values()))
        tensors = SafeTensors(folder, [folder / name for name in names])
        _check_index(index, weight_map, tensors.files)
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
        if not names:
            refuse_pickles(folder)
            raise UserError(f"no .safetensors file in {folder}; give the folder that holds them")
        if len(names) > 1:
            raise UserError(
                f"{folder} has {len(names)} safetensors files and no {INDEX_FILE}; copy the index "
                "too, or leave one file"
            )
    return SafeTensors(folder, [*(folder / name for name in names), *more])


def refuse_pickles(folder: Path) -> None:
    """UserError if the folder holds a pickle."""
    for path in sorted(folder.iterdir()):
        if path.suffix in PICKLES or path.name.startswith("pytorch_model"):
            refuse_pickle(path)


def refuse_pickle(path: Path) -> None:
    raise UserError(
        f"{path} is a pickle, which can run any code as it loads, and is not read: in an "
        "environment that you trust with it, load it with transformers and call "
        "save_pretrained(FOLDER), which writes safetensors"
    )


def _read_index(path: Path) -> dict[str, str]:
    """The map from tensors to plain file names."""
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        pairs = list(weight_map.items())
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is damaged: it has no weight_map; copy it again") from None
    for tensor, name in pairs:
        if not isinstance(name, str) or not name.endswith(".safetensors"):
            raise UserError(f"{path}: {tensor} is in {name!r}, which is no safetensors file")
        if name != os.path.basename(name) or "\\" in name:
            raise UserError(f"{path}: {tensor} is in {name!r}, outside the folder; nothing is read")
    return weight_map


def _check_index(path: Path, weight_map: Mapping[str, str], files: Mapping[str, str]) -> None:
    """UserError unless index and shards name the same tensors in the same places."""
    wrong = [f"{name} is not in {file}" for name, file in weight_map.items()
             if files.get(name) != file]
    wrong += [f"{name} of {file} has no entry" for name, file in files.items()
              if name not in weight_map]
    if wrong:
        raise UserError(f"{path} does not fit the shards: {listed(wrong, '; ')}; copy all again")


def listed(items: Sequence[str], separator: str = ", ", most: int = 4) -> str:
    """The first few items, and how many more there are."""
    more = f"{separator}and {len(items) - most} more" if len(items) > most else ""
    return separator.join(items[:most]) + more


def _read_header(path: Path, file, size: int) -> tuple[dict[str, tuple[Spec, int]], int]:
    """Spec and offset of every tensor, and where the data begins."""
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else _LARGEST_HEADER + 1
    if length > min(_LARGEST_HEADER, size - 8):
        raise UserError(f"{path} is no safetensors file or is cut short: copy it again")
    try:
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        places, end = {}, 0
        for name, entry in header.items():
            if entry["dtype"] not in DTYPES:
                raise UserError(
                    f"{path}: {name} is stored as {entry['dtype']}; only {', '.join(DTYPES)} can "
                    "be converted"
                )
            spec = Spec(DTYPES[entry["dtype"]], tuple(map(int, entry["shape"])))
            begin, stop = entry["data_offsets"]
            if min(begin, *spec.shape, 0) < 0 or stop - begin != spec.nbytes:
                raise ValueError
            places[name] = spec, begin
            end = max(end, stop)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} has a damaged header: copy it again") from None
    if size != 8 + length + end:
        raise UserError(
            f"{path} is damaged: it has {size:,} bytes, its header describes {8 + length + end:,}; "
            "copy it again"
        )
    return places, 8 + length


def write_folder(
    folder: Path,
    specs: Mapping[str, Spec],
    tensors: Iterator[tuple[str, np.ndarray]],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes model.safetensors, or shards of at most shard_bytes (or one tensor) and their index.

    specs: of every tensor, in the order in which `tensors` gives them. Synced to the disk.
    """
    shards = _into_shards(specs, shard_bytes)
    files = {}
    for number, names in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        name = name if len(shards) > 1 else "model.safetensors"
        write_file(folder / name, {tensor: specs[tensor] for tensor in names}, tensors)
        files |= dict.fromkeys(names, name)
    if len(shards) > 1:
        total = {"total_size": sum(spec.nbytes for spec in specs.values())}
        index = json.dumps({"metadata": total, "weight_map": files}, indent=2) + "\n"
        (folder / INDEX_FILE).write_text(index, encoding="utf-8")


def write_file(
    path: Path, specs: Mapping[str, Spec], tensors: Iterator[tuple[str, np.ndarray]]
) -> None:
    """Writes the next len(specs) tensors, which must be those of specs, in one file; synced."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, spec in specs.items():
        place = [end, end + spec.nbytes]
        header[name] = {
            "dtype": _CODES[spec.dtype], "shape": list(spec.shape), "data_offsets": place,
        }  # fmt: skip
        end = place[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the data is aligned
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for (name, spec), (given, array) in zip(specs.items(), tensors):
            if (given, array.dtype, array.shape) != (name, *spec):
                raise ValueError(f"{given} {array.dtype}{array.shape} where {name} {spec} is due")
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        file.flush()
        os.fsync(file.fileno())


def _into_shards(specs: Mapping[str, Spec], shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, spec in specs.items():
        if shards[-1] and size + spec.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += spec.nbytes
    return shards
