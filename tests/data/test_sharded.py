"""Shards are what the rule says, byte for byte, whoever packs them and however often."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hat.data import local_runner, sharded
from hat.data.config import BucketConfig
from hat.data.corpus import Corpus, Sharding
from hat.data.local_runner import LocalRunner
from hat.data.prepare import prepare
from hat.errors import UserError
from tests.data.sharded import (
    by_hand, config, contents, identities, in_source_order, stored, write_source,
)  # fmt: skip

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(sharded, "INPUT_BYTES", 1)  # every file is an input
    return write_source(tmp_path / "source")


@pytest.mark.parametrize("deduplicate", [False, True])
def test_shards_are_what_the_rule_says(source, tmp_path, deduplicate):
    corpus = prepare(config(source), tmp_path / "out", sharding=Sharding(4, deduplicate))
    for split, expected in by_hand(4, deduplicate).items():
        info = corpus.info.splits[split]
        full = [number for number, rows in enumerate(expected) if rows]
        names = tuple(f"{split}-{number:05d}-of-00004.arrayrecord" for number in full)
        assert info.shards == names
        assert info.shard_rows == tuple(len(expected[number]) for number in full)
        for number, rows in zip(full, stored(corpus, split), strict=True):
            wanted = [(row.ids.tolist(), row.lengths.tolist()) for row in expected[number]]
            assert [(row.ids.tolist(), row.lengths.tolist()) for row in rows] == wanted
    assert corpus.info.sharding == Sharding(4, deduplicate)
    skipped = {"lines that are not JSON": 1} | ({"exact copies": 20} if deduplicate else {})
    assert corpus.info.skipped == skipped
    assert Corpus.open(corpus.folder).info == corpus.info
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.lock", "out", "source"]


def test_counts_are_those_of_source_order(source, tmp_path):
    """Without removal every split holds the same documents, words and bytes as without shards."""
    fields = {"tokenizer": None, "splitter": "words", "row_words": 40, "validation_fraction": 0.1}
    plain = prepare(config(source, **fields), tmp_path / "plain")
    many = prepare(config(source, **fields), tmp_path / "many", sharding=Sharding(3))
    for split, info in plain.info.splits.items():
        found = many.info.splits[split]
        assert (found.documents, found.bytes, found.words) == (
            info.documents, info.bytes, info.words
        )  # fmt: skip
        rows = [row for shard in stored(many, split) for row in shard]
        assert found.rows == len(rows)
        assert found.pieces == sum(len(row.lengths) for row in rows)
        used = sum(len(row.ids) for row in rows) / (len(rows) * 64)
        assert found.position_fill == pytest.approx(used)
    assert many.info.fingerprint != plain.info.fingerprint


def test_buckets(source, tmp_path):
    """The pieces of one length are those of source order: cutting knows no other document."""
    buckets = (BucketConfig(length=32), BucketConfig(length=64))
    for length in (32, 64):
        made = config(source, buckets=buckets, row_length=length)
        plain, many = (prepare(made, tmp_path / f"{length}-{name}", sharding=sharding)
                       for name, sharding in (("plain", None), ("many", Sharding(3))))  # fmt: skip
        for split, info in plain.info.splits.items():
            assert many.info.splits[split].bytes == info.bytes
        assert many.info.bucket_lengths == (32, 64)


def test_first_of_equal_documents_stays(tmp_path):
    """Also where the copy is held out: then the held-out text loses it, not the training text."""
    first, last = "same text twice", "something else"
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": "{text}"}}\n' for text in [first, last, first, first]))
    made = config(path, heldout_fraction=0.25, validation_fraction=0.25)
    told = []
    corpus = prepare(made, tmp_path / "out", warn=told.append, sharding=Sharding(1, True))
    splits = corpus.info.splits
    assert [splits[split].documents for split in ("train", "validation", "heldout")] == [2, 0, 0]
    empty = "is empty: all its text stands earlier in the source as well"
    assert told == [f"validation {empty}", f"heldout {empty}"]
    assert splits["train"].bytes == len(first) + len(last)
    assert corpus.info.skipped == {"exact copies": 2}


def test_a_divided_document_is_one_document(tmp_path):
    """A copy of a document that a border divides is still a copy, and its parts stay together."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "%s"}\n' % ("0123456\\n" * 100) * 2)
    corpus = prepare(config(path, heldout_fraction=0.75), tmp_path / "out",
                     sharding=Sharding(2, deduplicate=True))  # fmt: skip
    splits = corpus.info.splits
    assert [splits[split].bytes for split in ("train", "heldout")] == [400, 400]
    assert corpus.info.skipped == {"exact copies": 1}


@pytest.mark.parametrize("fields", [{}, {"tokenizer": "bpe:280"}], ids=["bytes", "bpe"])
def test_workers_change_nothing(source, tmp_path, fields):
    made = config(source, **fields)
    alone = prepare(made, tmp_path / "alone", sharding=Sharding(5, True))
    runner = LocalRunner(workers=2)
    told = []
    shared = prepare(made, tmp_path / "shared", warn=told.append, sharding=Sharding(5, True),
                     runner=runner)  # fmt: skip
    assert contents(alone.folder) == contents(shared.folder)
    assert told == [told[0]] and told[0].startswith("skipped 1.jsonl:21: not JSON")
    if fields:
        plain = prepare(made, tmp_path / "plain")
        name = "tokenizer.json"
        assert contents(plain.folder)[name] == contents(shared.folder)[name]


def test_routed_in_many_small_writes(source, tmp_path, monkeypatch):
    once = prepare(config(source), tmp_path / "once", sharding=Sharding(3))
    monkeypatch.setattr(local_runner, "FLUSH_BYTES", 100)
    often = prepare(config(source), tmp_path / "often", sharding=Sharding(3))
    assert contents(once.folder) == contents(often.folder)


def test_number_of_shards_follows_the_source(source, tmp_path, monkeypatch):
    size = sum(path.stat().st_size for path in source.iterdir())
    monkeypatch.setattr("hat.data.prepare.SHARD_BYTES", size // 2)
    corpus = prepare(config(source), tmp_path / "out", sharding=Sharding(deduplicate=True))
    assert corpus.info.sharding == Sharding(3, True)
    for wrong in (0, 100_000):
        with pytest.raises(UserError, match=f"{wrong} shards cannot be"):
            Sharding(wrong)
    with pytest.raises(UserError, match="0 workers cannot be"):
        LocalRunner(0)


SCRIPT = """
import multiprocessing, sys, time
from hat.data import sharded
from hat.data.corpus import Sharding
from hat.data.local_runner import LocalRunner
from hat.data.prepare import prepare
from tests.data.sharded import config

def slowly(stage, done, total):
    if stage == sys.argv[4]:
        print(stage, *(child.pid for child in multiprocessing.active_children()), flush=True)
        time.sleep(1e9)

if __name__ == "__main__":
    sharded.INPUT_BYTES = 1
    prepare(config(sys.argv[1]), sys.argv[2], progress=slowly, sharding=Sharding(12),
            runner=LocalRunner(int(sys.argv[3])))
"""


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("stage", ["reading", "shuffling", "packing"])
def test_killed_preparation_goes_on(source, tmp_path, workers, stage):
    script, out = tmp_path / "script.py", tmp_path / "out"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, script, source, out, str(workers), stage], cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    told, *children = process.stdout.readline().split()  # one task of this stage is finished
    assert told == stage and len(children) == (workers if workers > 1 else 0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not out.exists()
    (partial,) = tmp_path.glob(".out.partial-*")
    wait_until_gone(children)  # else they would finish the other shards
    finished = identities(partial / "corpus") if stage == "packing" else {}
    left = len(list((partial / "work").glob("shard-*.json")))
    assert 0 < left < 12 if stage == "packing" else left == 0
    done = {name: found for name, found in finished.items() if
            (partial / "work" / f"shard-{name.split('-')[1]}.json").exists()}  # fmt: skip
    assert done or stage != "packing"

    corpus = prepare(config(source), out, sharding=Sharding(12))
    assert {name: identities(corpus.folder)[name] for name in done} == done
    clean = prepare(config(source), tmp_path / "clean", sharding=Sharding(12))
    assert contents(corpus.folder) == contents(clean.folder)
    assert not list(tmp_path.glob(".out.partial-*"))


def wait_until_gone(processes: list[str]) -> None:
    for _ in range(300):
        if not any(Path(f"/proc/{process}").exists() for process in processes):
            return
        time.sleep(0.1)
    raise AssertionError("the workers live on")


def test_errors(source, tmp_path):
    """From a worker process too, and nothing is left behind unless shards are finished."""
    wide = config(source, tokenizer=None, splitter="words", row_length=6, row_words=6)
    for runner in (LocalRunner(1), LocalRunner(2)):
        with pytest.raises(UserError, match=r"jsonl:\d+: the word of \d+ bytes .* does not fit"):
            prepare(wide, tmp_path / "out", sharding=Sharding(1), runner=runner)
        with pytest.raises(UserError, match="1.jsonl:21: not JSON"):
            prepare(config(source, strict=True), tmp_path / "out", sharding=Sharding(2),
                    runner=runner)  # fmt: skip
    for path in source.iterdir():
        path.write_text("bad\n")
    with pytest.raises(UserError, match="no document with text; 3 lines that are not JSON"):
        prepare(config(source), tmp_path / "out", sharding=Sharding(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.lock", "source"]


def test_source_that_changes_meanwhile(source, tmp_path):
    def meddle(stage, done, total):
        if stage == "reading" and done == total:
            (source / "2.jsonl").write_text('{"text": "shorter"}')

    with pytest.raises(UserError, match="changed while it was read"):
        prepare(config(source), tmp_path / "out", progress=meddle, sharding=Sharding(2))
    assert not list(tmp_path.glob(".out.partial-*"))


def test_another_preparation_removes_what_a_dead_one_left(source, tmp_path):
    class Dies(LocalRunner):
        def pack(self, job, shards, progress):
            super().pack(job, shards[:2], progress)
            raise KeyboardInterrupt

    for sharding in (Sharding(4), Sharding(5)):
        with pytest.raises(KeyboardInterrupt):
            prepare(config(source), tmp_path / "out", sharding=sharding, runner=Dies())
        (left,) = tmp_path.glob(".out.partial-*")
        assert len(list((left / "corpus").glob("train-*"))) == 2
        assert all(f"-of-0000{sharding.shards}" in path.name for path in
                   (left / "corpus").iterdir())  # fmt: skip
    prepare(config(source), tmp_path / "out")
    assert not list(tmp_path.glob(".out.partial-*"))


def test_a_worker_that_dies_is_told(source, tmp_path):
    with pytest.raises(UserError, match="a worker process died"):
        list(LocalRunner(2)._finished(os._exit, range(1, 3)))


def test_routed_round_trip():
    for place, document in enumerate(in_source_order()):
        routed = sharded.Routed(b"d" * 32, place, 2, "ü\udcff.jsonl:7", document)
        assert sharded.Routed.decode(routed.encode()) == routed
