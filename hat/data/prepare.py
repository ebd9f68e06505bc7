"""Documents to a corpus on disk: scan, divide into splits, cut into units, pack, write.

The folder appears whole or not at all: everything is written to a temporary folder beside it,
synced and renamed. One preparer works at a time, under a file lock that the system releases when
a process dies; the next one removes what a dead one left.
"""

from __future__ import annotations

import array
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hat.data.config import DataConfig
from hat.data.corpus import FORMAT_VERSION, INFO_FILE, Corpus, CorpusInfo, SplitInfo
from hat.data.records import ShardWriter, sync
from hat.data.sources import Skipped, Source
from hat.data.splits import SPLITS, SplitPlan, plan_splits
from hat.errors import UserError
from hat.text import ids as byte_ids
from hat.text.rows import Packer, Row, Specials, Units, word_units
from hat.text.tokenizers import ByteTokenizer, Tokenizer, load_tokenizer, train_bpe

if TYPE_CHECKING:  # the splitters load their compiled loops, which rows of tokens do without
    from hat.text.splitters import Splitter

PART_BYTES = 1 << 24  # a longer document is split and packed in parts, so that memory is bounded

Progress = Callable[[str, int, int], None]  # stage, bytes done, bytes in all (0: not known yet)
Warn = Callable[[str], None]  # one line of text


def prepare(
    config: DataConfig,
    out_dir: str | Path,
    progress: Progress = lambda stage, done, total: None,
    warn: Warn = lambda text: None,
) -> Corpus:
    """Prepares `config.source` into `out_dir`, or reuses what is there if it is the same corpus.

    UserError for a source without text, a damaged file, a word longer than a row, a full disk, or
    a folder that holds something else. `warn` hears of the first lines that are skipped.
    """
    units = _units_of(config)
    source = Source(config.source, config.text_field)
    fingerprint = _fingerprint(config, source, units)
    return _prepare(config, source, units, fingerprint, out_dir, progress, warn)


def prepare_cached(
    config: DataConfig,
    cache_dir: str | Path | None = None,
    progress: Progress = lambda stage, done, total: None,
    warn: Warn = lambda text: None,
) -> Corpus:
    """The corpus of a config: `config.source` itself where it is a prepared corpus, else one
    prepared under `cache_dir` ($HAT_CACHE, else ~/.cache/hat) and found there the next time.

    UserError as `prepare`, and where a prepared corpus was made by another config.
    """
    units = _units_of(config)
    if (Path(config.source).expanduser() / INFO_FILE).is_file():
        corpus = Corpus.open(Path(config.source).expanduser())
        _require_same(corpus, config, units)
        return corpus
    source = Source(config.source, config.text_field)
    fingerprint = _fingerprint(config, source, units)
    root = Path(cache_dir or os.environ.get("HAT_CACHE") or Path.home() / ".cache" / "hat")
    out = root.expanduser() / "corpora" / fingerprint
    return _prepare(config, source, units, fingerprint, out, progress, warn)


@dataclasses.dataclass(frozen=True)
class _Units:
    """How documents become ids: a splitter, or a tokenizer (None until a BPE is trained)."""

    name: str  # of the splitter or of the tokenizer
    splitter: Splitter | None = None
    tokenizer: Tokenizer | None = None
    train_size: int | None = None  # vocabulary of a BPE that is trained on the training split

    def cut(self, data: bytes, ends: bool, name: str) -> Units:
        if self.splitter is None:
            return Units(self.tokenizer.encode(data), ends=ends, name=name)
        view = np.frombuffer(data, np.uint8)
        return word_units(view, self.splitter.split(view), ends=ends, name=name)

    @property
    def specials(self) -> Specials:
        if self.splitter is not None:
            return Specials(byte_ids.BOS, byte_ids.EOT, byte_ids.PAD)
        return Specials(self.tokenizer.bos, self.tokenizer.eot, self.tokenizer.pad)


def _units_of(config: DataConfig) -> _Units:
    if config.tokenizer is None:
        from hat.text.splitters import make_splitter

        splitter = make_splitter(config.splitter)
        return _Units(splitter.name, splitter=splitter)
    if config.tokenizer.startswith("bpe:"):
        return _Units(config.tokenizer, train_size=int(config.tokenizer.removeprefix("bpe:")))
    tokenizer = ByteTokenizer() if config.tokenizer == "bytes" else load_tokenizer(config.tokenizer)
    return _Units(tokenizer.name, tokenizer=tokenizer)


def _shape(config: DataConfig, units: _Units) -> dict[str, object]:
    """What decides the rows beside the documents."""
    words = config.tokenizer is None
    return {
        "splitter": units.name if words else None,
        "tokenizer": None if words else units.name,
        "row_length": config.row_length,
        "row_words": config.row_words if words else None,
        "heldout_fraction": config.heldout_fraction,
        "validation_fraction": config.validation_fraction,
    }


def _fingerprint(config: DataConfig, source: Source, units: _Units) -> str:
    """Names what was asked of which bytes; neither the place nor the time."""
    content = {
        "version": FORMAT_VERSION,
        "shape": _shape(config, units),
        "text_field": config.text_field,
        "files": [(file.name, file.size, file.sha256) for file in source.files],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _require_same(corpus: Corpus, config: DataConfig, units: _Units) -> None:
    differing = [
        f"{name} is {getattr(corpus.info, name)!r} there and {value!r} in the config"
        for name, value in _shape(config, units).items()
        if getattr(corpus.info, name) != value
    ]
    if differing:
        raise UserError(f"{corpus.folder}: prepared by another config: {'; '.join(differing)}")


def _prepare(
    config: DataConfig,
    source: Source,
    units: _Units,
    fingerprint: str,
    out_dir: str | Path,
    progress: Progress,
    warn: Warn,
) -> Corpus:
    out = Path(out_dir).expanduser().absolute()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with _locked(out.parent / f".{out.name}.lock"):
            if (out / INFO_FILE).is_file():
                corpus = Corpus.open(out)
                if corpus.info.fingerprint != fingerprint:
                    raise UserError(f"{out}: holds another corpus: choose another or remove it")
                return corpus
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise UserError(f"{out}: is there and is no corpus: choose another folder")
            with _appearing(out) as folder:
                info = _write(config, source, units, fingerprint, folder, progress, warn)
                (folder / INFO_FILE).write_text(info.to_json(), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error}") from None
    return Corpus.open(out)


@contextlib.contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A temporary folder that becomes `out`, synced, once the body is through."""
    partial = f".{out.name}.partial-"
    for left in out.parent.glob(f"{partial}*"):  # by a preparer that died
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


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(
    config: DataConfig,
    source: Source,
    units: _Units,
    fingerprint: str,
    folder: Path,
    progress: Progress,
    warn: Warn,
) -> CorpusInfo:
    skipped = Skipped(warn, config.strict)
    sizes, total = array.array("q"), 0
    for document in source.documents(skipped):
        sizes.append(len(document.data))
        total += len(document.data)
        progress("reading", total, 0)
    if not total:
        told = "".join(f"; {count} {why}" for why, count in sorted(skipped.counts.items()))
        raise UserError(f"{config.source}: no document with text{told}")
    plan = plan_splits(sizes, config.heldout_fraction, config.validation_fraction)
    if units.train_size is not None:
        progress("training the tokenizer", 0, total)
        texts = _training_texts(source, plan)
        units = dataclasses.replace(units, tokenizer=train_bpe(texts, units.train_size))
    if units.tokenizer is not None:
        units.tokenizer.save(folder)

    writers = {split: _SplitWriter(folder, split, config, units) for split in SPLITS}
    done = 0
    for index, document in enumerate(source.documents(Skipped())):
        for split, data in plan.divide(index, document.data):
            writers[split].add(data, document.name)
        done += len(document.data)
        progress("packing", done, total)
    if done != total or index + 1 != len(sizes):
        raise UserError(f"{config.source}: changed while it was read: prepare it again")
    return CorpusInfo(
        version=FORMAT_VERSION,
        fingerprint=fingerprint,
        source=config.source,
        num_ids=byte_ids.NUM_IDS if units.splitter is not None else units.tokenizer.num_ids,
        skipped=dict(sorted(skipped.counts.items())),
        splits={split: writer.finish() for split, writer in writers.items()},
        **_shape(config, units),
    )


def _training_texts(source: Source, plan: SplitPlan) -> Iterator[bytes]:
    for index, document in enumerate(source.documents(Skipped())):
        for split, data in plan.divide(index, document.data):
            if split == "train":
                yield from (part for part, _ in _parts(data))


class _SplitWriter:
    """Packs and writes the documents of one split, and counts."""

    def __init__(self, folder: Path, split: str, config: DataConfig, units: _Units):
        self._units = units
        self._length = config.row_length
        self._words = None if units.splitter is None else config.row_words
        self._packer = Packer(self._length, self._words, units.specials)
        self._shards = ShardWriter(folder, split, config.row_length)
        self._documents = self._bytes = self._document_words = 0
        self._rows = self._positions = self._row_words = self._pieces = 0

    def add(self, data: bytes, name: str) -> None:
        self._documents += 1
        self._bytes += len(data)
        for part, ends in _parts(data):
            units = self._units.cut(part, ends, name)
            if units.starts is not None:
                self._document_words += int(units.starts.sum())
            self._write(self._packer.add(units))

    def finish(self) -> SplitInfo:
        self._write(self._packer.finish())
        has_words, rows = self._words is not None, max(self._rows, 1)
        return SplitInfo(
            documents=self._documents,
            bytes=self._bytes,
            words=self._document_words if has_words else None,
            pieces=self._pieces,
            mean_piece_bytes=self._bytes / max(self._pieces, 1),
            rows=self._rows,
            position_fill=self._positions / (rows * self._length),
            word_fill=self._row_words / (rows * self._words) if has_words else None,
            shards=tuple(self._shards.finish()),
            shard_rows=tuple(self._shards.shard_rows),
        )

    def _write(self, rows: list[Row]) -> None:
        for row in rows:
            self._shards.write(row)
            self._rows += 1
            self._positions += len(row.ids)
            self._pieces += len(row.lengths)
            if row.starts is not None:
                self._row_words += int(row.starts.sum())


def _parts(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """A document in parts of at most PART_BYTES, cut after a newline where there is one and else
    between characters; and whether a part is the last."""
    start = 0
    while len(data) - start > PART_BYTES:
        stop = data.rfind(b"\n", start, start + PART_BYTES) + 1
        if stop <= start:
            stop = start + PART_BYTES
            while stop > start + PART_BYTES - 3 and data[stop] & 0xC0 == 0x80:
                stop -= 1
        yield data[start:stop], False
        start = stop
    yield data[start:], True
