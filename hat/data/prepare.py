"""Documents to a corpus on disk: scan, divide into splits, cut into units, pack, write.

The folder appears whole or not at all: everything is written to a temporary folder beside it,
synced and renamed. One preparer works at a time, under a file lock that the system releases when
a process dies; the next one removes what a dead one left, unless it can go on from there.
"""

from __future__ import annotations

import array
import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from hat.data.config import DataConfig
from hat.data.conversations import conversation_texts
from hat.data.corpus import FORMAT_VERSION, INFO_FILE, Corpus, CorpusInfo, Sharding, SplitInfo
from hat.data.cutting import Cutter, make_cutter, parts
from hat.data.local_runner import LocalRunner
from hat.data.records import ShardWriter, sync, write_file
from hat.data.sharded import SHARD_BYTES, Runner, any_finished, write_shards
from hat.data.sources import Skipped, Source, no_text
from hat.data.split_packer import SplitPacker, count_too_long
from hat.data.splits import SPLITS, SplitPlan, plan_splits
from hat.errors import UserError
from hat.text.tokenizers import train_bpe

Progress = Callable[[str, int, int], None]  # stage, bytes done, bytes in all (0: not known yet)
Warn = Callable[[str], None]  # one line of text


def prepare(
    config: DataConfig,
    out_dir: str | Path,
    progress: Progress = lambda stage, done, total: None,
    warn: Warn = lambda text: None,
    sharding: Sharding | None = None,
    runner: Runner | None = None,
) -> Corpus:
    """Prepares `config.source` into `out_dir`, or reuses what is there if it is the same corpus.

    sharding: None packs the documents in source order; else they are shuffled into shards, by
    `runner` (None: this process), and a preparation that was killed goes on where it was.

    UserError for a source without text, a damaged file, a word longer than a row, a full disk, or
    a folder that holds something else. `warn` hears of the first lines that are skipped.
    """
    cutter = make_cutter(config)
    source = Source(config.source, config.text_field, config.format)
    if sharding is not None and sharding.shards is None:
        size = sum(file.size for file in source.files)
        sharding = dataclasses.replace(sharding, shards=1 + size // SHARD_BYTES)
    make = _Preparation(config, source, cutter, progress, warn, sharding, runner or LocalRunner())
    return make.into(out_dir)


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
    cutter = make_cutter(config)
    if (Path(config.source).expanduser() / INFO_FILE).is_file():
        corpus = Corpus.open(Path(config.source).expanduser())
        _require_same(corpus, config, cutter)
        return corpus
    source = Source(config.source, config.text_field, config.format)
    make = _Preparation(config, source, cutter, progress, warn)
    root = Path(cache_dir or os.environ.get("HAT_CACHE") or Path.home() / ".cache" / "hat")
    return make.into(root.expanduser() / "corpora" / make.fingerprint)


def _shape(config: DataConfig, cutter: Cutter) -> dict[str, object]:
    """What decides the rows beside the documents."""
    words = config.tokenizer is None
    return {
        "splitter": cutter.name if words else None,
        "tokenizer": None if words else cutter.name,
        "row_length": config.row_length,
        "row_words": config.row_words if words else None,
        "heldout_fraction": config.heldout_fraction,
        "validation_fraction": config.validation_fraction,
        "bucket_lengths": tuple(bucket.length for bucket in config.buckets),
        "format": config.format,
    }


def _require_same(corpus: Corpus, config: DataConfig, cutter: Cutter) -> None:
    differing = [
        f"{name} is {getattr(corpus.info, name)!r} there and {value!r} in the config"
        for name, value in _shape(config, cutter).items()
        if getattr(corpus.info, name) != value
    ]
    if differing:
        raise UserError(f"{corpus.folder}: prepared by another config: {'; '.join(differing)}")


@dataclasses.dataclass(frozen=True)
class _Preparation:
    """One corpus to be made."""

    config: DataConfig
    source: Source
    cutter: Cutter
    progress: Progress
    warn: Warn
    sharding: Sharding | None = None
    runner: Runner | None = None  # of the shards

    @functools.cached_property
    def fingerprint(self) -> str:
        """Names what was asked of which bytes; neither the place nor the time."""
        shape = _shape(self.config, self.cutter)
        if not self.config.buckets:
            del shape["bucket_lengths"]  # so that corpora older than buckets keep their names
        if self.config.format == "text":
            del shape["format"]  # likewise
        content = {
            "version": FORMAT_VERSION,
            "shape": shape,
            "text_field": self.config.text_field,
            "files": [(file.name, file.size, file.sha256) for file in self.source.files],
        }
        if self.sharding is not None:
            content["sharding"] = dataclasses.asdict(self.sharding)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

    def into(self, out_dir: str | Path) -> Corpus:
        out = Path(out_dir).expanduser().absolute()
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            with _locked(out.parent / f".{out.name}.lock"):
                if (out / INFO_FILE).is_file():
                    corpus = Corpus.open(out)
                    if corpus.info.fingerprint != self.fingerprint:
                        raise UserError(f"{out}: holds another corpus: choose another or remove it")
                    return corpus
                if out.exists() and (not out.is_dir() or any(out.iterdir())):
                    raise UserError(f"{out}: is there and is no corpus: choose another folder")
                self._write(out)
        except OSError as error:
            raise UserError(f"{out}: cannot be written: {error}") from None
        return Corpus.open(out)

    def _write(self, out: Path) -> None:
        """Makes folder/corpus and renames it to `out`."""
        skipped = Skipped(self.warn, self.config.strict)
        with self._temporary(out) as folder:
            if self.sharding is None:
                cutter, splits = self._write_in_order(folder, skipped)
            else:
                cutter, splits = write_shards(
                    self.config, self.sharding, self.source, folder, self.runner, self._trained,
                    self.progress, skipped,
                )  # fmt: skip
                self._warn_of_emptied(splits)
            corpus = folder / "corpus"
            if cutter.tokenizer is not None:
                cutter.tokenizer.save(corpus)
            info = CorpusInfo(
                version=FORMAT_VERSION,
                fingerprint=self.fingerprint,
                source=self.config.source,
                num_ids=cutter.num_ids,
                skipped=dict(sorted(skipped.counts.items())),
                splits=splits,
                sharding=self.sharding,
                **_shape(self.config, self.cutter),
            )
            write_file(corpus / INFO_FILE, info.to_json().encode())
            for path in corpus.iterdir():
                sync(path)
            sync(corpus)
            os.rename(corpus, out)
            sync(out.parent)

    def _warn_of_emptied(self, splits: dict[str, SplitInfo]) -> None:
        """Only removal of copies leaves a split that was asked for without a row."""
        for split, info in splits.items():
            if not info.rows and getattr(self.config, f"{split}_fraction", 1.0) > 0:
                self.warn(f"{split} is empty: all its text stands earlier in the source as well")

    @contextlib.contextmanager
    def _temporary(self, out: Path) -> Iterator[Path]:
        """A folder beside `out` that is removed at the end, unless shards could go on from there:
        after a kill, an interrupt or a full disk, and after any error once a shard is finished."""
        name = f".{out.name}.partial-"
        folder = out.parent / f"{name}{self.fingerprint}"
        for left in out.parent.glob(f"{name}*"):  # by a preparer that died
            if left != folder or self.sharding is None:
                shutil.rmtree(left)
        folder.mkdir(exist_ok=True)
        try:
            yield folder
        except BaseException as error:
            started = not isinstance(error, UserError) or any_finished(folder)
            if self.sharding is None or not started:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder)

    def _write_in_order(
        self, folder: Path, skipped: Skipped
    ) -> tuple[Cutter, dict[str, SplitInfo]]:
        sizes, total = array.array("q"), 0
        for document in self.source.documents(skipped):
            sizes.append(len(document.data))
            total += len(document.data)
            self.progress("reading", total, 0)
        config = self.config
        if not total:
            raise no_text(config.source, skipped)
        plan = plan_splits(
            sizes, config.heldout_fraction, config.validation_fraction, config.format != "text"
        )
        cutter = self._trained(plan)
        corpus = folder / "corpus"
        corpus.mkdir()
        writers = {split: ShardWriter(corpus, split, config.row_length) for split in SPLITS}
        packers = {
            split: SplitPacker(config, split, cutter, writers[split].write) for split in SPLITS
        }
        done = 0
        for index, document in enumerate(self.source.documents(Skipped())):
            for split, data in plan.divide(index, document.data):
                packers[split].add(data, document.name)
            done += len(document.data)
            self.progress("packing", done, total)
        if done != total or index + 1 != len(sizes):
            raise UserError(f"{config.source}: changed while it was read: prepare it again")
        splits = {}
        for split in SPLITS:
            packers[split].finish()
            names = writers[split].finish()
            splits[split] = packers[split].counts.info(config, names, writers[split].shard_rows)
        count_too_long((packer.counts for packer in packers.values()), skipped)
        return cutter, splits

    def _trained(self, plan: SplitPlan) -> Cutter:
        """The cutter; a tokenizer that is to be trained, on the training text."""
        size = self.cutter.train_size
        if size is None:
            return self.cutter
        self.progress("training the tokenizer", 0, 0)
        texts = _training_texts(self.source, plan, self.config.format)
        return dataclasses.replace(self.cutter, tokenizer=train_bpe(texts, size))


def _training_texts(source: Source, plan: SplitPlan, format: str) -> Iterator[bytes]:
    for index, document in enumerate(source.documents(Skipped())):
        for split, data in plan.divide(index, document.data):
            if split == "train":
                texts = [data] if format == "text" else conversation_texts(data, format)
                yield from (part for text in texts for part, _ in parts(text))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
