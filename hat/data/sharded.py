"""Preparation in shards: what one machine or many run, with the same bytes as the outcome.

    scan     every input (a run of source files): the sizes of its documents
    plan     the borders of the splits, which are those of preparation in source order
    route    every document to the shard that its SHA-256 names
    pack     every shard: drop exact copies, order by a hash, pack and write each split

Scanning, routing and packing are functions of one input or one shard; a runner calls them, on
processes (hat.data.local_runner) or in an Apache Beam pipeline (hat.data.beam_runner). What a task
finds out it leaves as a file that appears whole, so a task whose file is there is never repeated,
whoever ran it and however the run before this one ended.

Equal documents meet in one shard, and there the first in source order stays. The order inside a
shard is by a hash of document and place, so that copies that stay do not share rows. Neither
shards nor their content depend on the runner or on the number of workers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from hat.data.config import DataConfig
from hat.data.corpus import Sharding, SplitInfo
from hat.data.cutting import Cutter, make_cutter
from hat.data.records import RowFile, shard_name, sync, write_file
from hat.data.sources import Skipped, Source, SourceFile, no_text, read_documents
from hat.data.split_packer import Counts, SplitPacker, count_too_long
from hat.data.splits import SPLITS, Border, SplitPlan, plan_splits
from hat.errors import UserError
from hat.text.tokenizers import load_tokenizer

INPUT_BYTES = 1 << 26  # files are read together up to this size
SHARD_BYTES = 1 << 27  # of source files, for every shard, where nobody says how many
_HEADER = struct.Struct("<32sQBI")  # of a routed document: see Routed

Progress = Callable[[str, int, int], None]  # stage, bytes done, bytes in all


@dataclasses.dataclass(frozen=True)
class Job:
    """What every task must know. The folders lie where all workers see them."""

    config: DataConfig
    sharding: Sharding
    inputs: tuple[tuple[SourceFile, ...], ...]  # the source's files, in order
    corpus: Path  # for the shards
    work: Path  # for everything else

    def input_bytes(self, number: int) -> int:
        return sum(file.size for file in self.inputs[number])

    def scanned(self, number: int) -> Path:
        return self.work / f"input-{number:05d}.json"

    def packed(self, shard: int) -> Path:
        return self.work / f"shard-{shard:05d}.json"

    @property
    def planned(self) -> Path:
        return self.work / "plan.json"

    @property
    def vocabulary(self) -> Path:
        return self.work / "tokenizer"


class Runner(Protocol):
    """Calls a task for each of the numbers, in any order, on any machine, at least once.

    What a task raises is raised again, a UserError as a UserError.
    """

    def scan(self, job: Job, numbers: Sequence[int], progress: Progress) -> None:
        """`scan(job, number)` for each."""
        ...

    def pack(self, job: Job, shards: Sequence[int], progress: Progress) -> None:
        """`pack(job, shard, documents)` for each, with all that `route` sends to this shard."""
        ...


class Routed(NamedTuple):
    """A document, or a part of one that a border of the splits divides, on its way to a shard."""

    digest: bytes  # SHA-256 of the whole document
    place: int  # number of the document in source order
    split: int  # index into SPLITS
    name: str
    data: bytes

    def encode(self) -> bytes:
        name = self.name.encode("utf-8", "surrogateescape")
        header = _HEADER.pack(self.digest, self.place, self.split, len(name))
        return header + name + self.data

    @classmethod
    def decode(cls, record: bytes) -> Routed:
        digest, place, split, size = _HEADER.unpack_from(record)
        start = _HEADER.size + size
        name = record[_HEADER.size : start].decode("utf-8", "surrogateescape")
        return cls(digest, place, split, name, record[start:])

    @property
    def rank(self) -> bytes:
        """Where it stands in its shard."""
        return hashlib.sha256(self.digest + self.place.to_bytes(8, "little")).digest()


def write_shards(
    config: DataConfig,
    sharding: Sharding,
    source: Source,
    folder: Path,
    runner: Runner,
    train: Callable[[SplitPlan], Cutter],
    progress: Progress,
    skipped: Skipped,
) -> tuple[Cutter, dict[str, SplitInfo]]:
    """Writes the shards to folder/corpus, and keeps in folder/work what a restart goes on from.

    train: gives the cutter of a corpus whose splits are planned. UserError as `prepare`.
    """
    job = Job(config, sharding, _inputs(source.files), folder / "corpus", folder / "work")
    for needed in (job.corpus, job.work):
        needed.mkdir(parents=True, exist_ok=True)
    if not job.planned.exists():
        todo = [n for n in range(len(job.inputs)) if not job.scanned(n).exists()]
        runner.scan(job, todo, progress)
        _plan(job, source)
    plan = _read(job.planned)
    skipped.merge(plan["skipped"], plan["told"])
    _keep_tokenizer(job, lambda: train(_split_plan(plan)))
    todo = [shard for shard in range(sharding.shards) if not job.packed(shard).exists()]
    runner.pack(job, todo, progress)
    for left in job.corpus.glob("*.part"):  # by a worker that died at a shard
        left.unlink()
    return _cutter(job), _merge(job, plan, skipped)


def any_finished(folder: Path) -> bool:
    """Whether a restart on this folder would spare a shard."""
    return any(folder.glob("work/shard-*.json"))


def scan(job: Job, number: int) -> None:
    """Finds out the sizes in bytes of the documents of an input, and what is skipped in it."""
    told: list[str] = []
    skipped = Skipped(told.append, job.config.strict)
    config = job.config
    documents = read_documents(job.inputs[number], config.text_field, skipped, config.format)
    sizes = [len(document.data) for document in documents]
    _write(job.scanned(number), {"sizes": sizes, "skipped": skipped.counts, "told": told})


def route(job: Job, number: int) -> Iterator[tuple[int, bytes]]:
    """(shard, encoded Routed) of the documents of an input, but for shards already packed."""
    plan = _read(job.planned)
    splits = _split_plan(plan)
    finished = {shard for shard in range(job.sharding.shards) if job.packed(shard).exists()}
    field, format = job.config.text_field, job.config.format
    documents = read_documents(job.inputs[number], field, Skipped(), format)
    for place, document in enumerate(documents, start=plan["first"][number]):
        digest = hashlib.sha256(document.data).digest()
        shard = int.from_bytes(digest[:8], "little") % job.sharding.shards
        if shard not in finished:
            for split, data in splits.divide(place, document.data):
                routed = Routed(digest, place, SPLITS.index(split), document.name, data)
                yield shard, routed.encode()


def pack(job: Job, shard: int, documents: Iterable[bytes]) -> None:
    """Packs and writes the shard made of these encoded documents, in whatever order they come.

    All of them are held in memory. UserError where a word does not fit a row.
    """
    found = [Routed.decode(record) for record in documents]
    kept, copies = _without_copies(found) if job.sharding.deduplicate else (found, [])
    kept.sort(key=lambda routed: (routed.rank, routed.split))
    cutter = _cutter(job)
    counts = {}
    for number, split in enumerate(SPLITS):
        file = RowFile(job.corpus / shard_name(split, shard, job.sharding.shards))
        packer = SplitPacker(job.config, split, cutter, file.write)
        for routed in kept:
            if routed.split == number:
                packer.add(routed.data, routed.name)
        packer.finish()
        file.close()
        counts[split] = dataclasses.asdict(packer.counts)
    sync(job.corpus)  # before the file that says it is done
    result = {
        "splits": counts,
        "copies": len({copy.place for copy in copies}),
        "bytes": sum(len(routed.data) for routed in found),
    }
    _write(job.packed(shard), result)


def _without_copies(found: list[Routed]) -> tuple[list[Routed], list[Routed]]:
    first: dict[bytes, int] = {}
    for routed in found:
        first[routed.digest] = min(routed.place, first.get(routed.digest, routed.place))
    kept = [routed for routed in found if routed.place == first[routed.digest]]
    return kept, [routed for routed in found if routed.place != first[routed.digest]]


def _inputs(files: Sequence[SourceFile]) -> tuple[tuple[SourceFile, ...], ...]:
    inputs: list[list[SourceFile]] = []
    room = 0
    for file in files:
        if not inputs or file.size > room:
            inputs.append([])
            room = INPUT_BYTES
        inputs[-1].append(file)
        room -= file.size
    return tuple(map(tuple, inputs))


def _plan(job: Job, source: Source) -> None:
    """From the sizes of all documents, 8 bytes of memory each."""
    told: list[str] = []
    skipped = Skipped(told.append)
    skipped.merge(source.skipped, ())
    sizes = []
    for number in range(len(job.inputs)):
        scanned = _read(job.scanned(number))
        sizes.append(np.array(scanned["sizes"], np.int64))
        skipped.merge(scanned["skipped"], scanned["told"])
    documents = np.concatenate(sizes)
    if not len(documents):
        raise no_text(job.config.source, skipped)
    config = job.config
    borders = plan_splits(
        documents, config.heldout_fraction, config.validation_fraction, config.format != "text"
    ).borders
    plan = {
        "borders": [(int(border.document), int(border.byte)) for border in borders],
        "first": [0, *np.cumsum([len(found) for found in sizes]).tolist()],
        "bytes": int(documents.sum()),
        "skipped": skipped.counts,
        "told": told,
    }
    _write(job.planned, plan)


def _split_plan(plan: Mapping) -> SplitPlan:
    return SplitPlan(tuple(Border(*border) for border in plan["borders"]))


def _keep_tokenizer(job: Job, cutter: Callable[[], Cutter]) -> None:
    """Puts the tokenizer where every worker, now and after a restart, finds the same."""
    if job.vocabulary.exists() or job.config.tokenizer in (None, "bytes"):
        return
    partial = job.work / "tokenizer.part"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    cutter().tokenizer.save(partial)
    for path in partial.iterdir():
        sync(path)
    os.rename(partial, job.vocabulary)
    sync(job.work)


def _cutter(job: Job) -> Cutter:
    if not job.vocabulary.exists():
        return make_cutter(job.config)
    tokenizer = load_tokenizer(job.vocabulary)
    return Cutter(tokenizer.name, tokenizer=tokenizer)


def _merge(job: Job, plan: Mapping, skipped: Skipped) -> dict[str, SplitInfo]:
    """What all shards hold together; removed copies are counted in `skipped`."""
    packed = [_read(job.packed(shard)) for shard in range(job.sharding.shards)]
    if copies := sum(result["copies"] for result in packed):
        skipped.merge({"exact copies": copies}, ())
    splits = {}
    for split in SPLITS:
        counts = [Counts(**result["splits"][split]) for result in packed]
        filled = [shard for shard, count in enumerate(counts) if count.rows]
        names = [shard_name(split, shard, job.sharding.shards) for shard in filled]
        rows = [counts[shard].rows for shard in filled]
        splits[split] = sum(counts, Counts()).info(job.config, names, rows)
        count_too_long(counts, skipped)
    if sum(result["bytes"] for result in packed) != plan["bytes"]:
        shutil.rmtree(job.work)  # nothing to go on from
        raise UserError(f"{job.config.source}: changed while it was read: prepare it again")
    return splits


def _write(path: Path, value: Mapping) -> None:
    write_file(path, json.dumps(value).encode())


def _read(path: Path) -> dict:
    return json.loads(path.read_bytes())
