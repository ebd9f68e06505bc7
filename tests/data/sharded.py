"""What the tests of sharded preparation share: a source with copies, and its outcome by hand."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from hat.data.config import DataConfig
from hat.data.corpus import Corpus
from hat.data.records import decode_row
from hat.text.ids import BOS, EOT, PAD
from hat.text.rows import Packer, Row, Specials, Units

LENGTH = 64


def documents() -> list[bytes]:
    """60 documents of 1 to 400 bytes, the last 20 copies of earlier ones."""
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"abcdefg ", np.uint8)
    made = [rng.choice(letters, size).tobytes() for size in rng.integers(1, 400, 40)]
    return made + [made[index] for index in rng.integers(0, 40, 20)]


def write_source(folder: Path) -> Path:
    """The documents in three files, with one line that is none."""
    folder.mkdir()
    lines = [json.dumps({"text": document.decode()}) for document in documents()]
    for number in range(3):
        bad = ["bad"] if number == 1 else []
        (folder / f"{number}.jsonl").write_text("\n".join(lines[number::3] + bad) + "\n")
    return folder


def in_source_order() -> list[bytes]:
    return [document for number in range(3) for document in documents()[number::3]]


def config(source: Path, **fields) -> DataConfig:
    values = {"tokenizer": "bytes", "row_length": LENGTH, "heldout_fraction": 0.2}
    return DataConfig(source=str(source), **(values | fields))


def by_hand(shards: int, deduplicate: bool) -> dict[str, list[list[Row]]]:
    """The rows of each shard of the splits "train" and "heldout", from the rule in words."""
    ordered = in_source_order()
    sizes = np.cumsum([0] + [len(document) for document in ordered])
    border = int(np.abs(sizes - 0.8 * sizes[-1]).argmin())
    routed: list[list[tuple[bytes, int]]] = [[] for _ in range(shards)]
    seen = set()
    for place, document in enumerate(ordered):
        if deduplicate and document in seen:
            continue
        seen.add(document)
        digest = hashlib.sha256(document).digest()
        rank = hashlib.sha256(digest + bytes([place, 0, 0, 0, 0, 0, 0, 0])).digest()
        routed[sum(digest[k] << 8 * k for k in range(8)) % shards].append((rank, place))
    rows: dict[str, list[list[Row]]] = {"train": [], "heldout": []}
    for shard in routed:
        for split, found in rows.items():
            packer = Packer(LENGTH, None, Specials(BOS, EOT, PAD))
            packed = []
            for _, place in sorted(shard):
                if (place < border) == (split == "train"):
                    ids = np.frombuffer(ordered[place], np.uint8).astype(np.int32)
                    packed += packer.add(Units(ids))
            found.append(packed + packer.finish())
    return rows


def stored(corpus: Corpus, split: str) -> list[list[Row]]:
    """The rows of each shard that has any."""
    from array_record.python.array_record_module import ArrayRecordReader

    readers = [ArrayRecordReader(str(corpus.folder / name)) for name in
               corpus.info.splits[split].shards]  # fmt: skip
    return [[decode_row(record) for record in reader.read_all()] for reader in readers]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def identities(folder: Path) -> dict[str, tuple[int, int]]:
    """A file that is written again has another inode or time."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in folder.glob("*.arrayrecord")}  # fmt: skip
