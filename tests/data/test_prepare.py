"""A corpus appears whole or not at all, holds every byte once, and is made once."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hat.data import cutting, records
from hat.data.config import DataConfig
from hat.data.corpus import Corpus
from hat.data.prepare import prepare, prepare_cached
from hat.errors import UserError
from hat.text.ids import BOS, EOT, PAD

REPOSITORY = Path(__file__).parents[2]


def words(count: int, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, count)
    text = b" ".join(bytes(rng.integers(97, 123, size).tolist()) for size in sizes)
    return text.replace(b" z", b"\n")


@pytest.fixture
def text(tmp_path) -> Path:
    """40 documents of 5 to 3,000 bytes."""
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02d}.txt").write_bytes(words(1 + number * number // 3, number))
    return folder


def config(source: Path, **fields) -> DataConfig:
    values = {"splitter": "spaces", "row_length": 256, "row_words": 60, "heldout_fraction": 0.1}
    return DataConfig(source=str(source), **(values | fields))


def spelled(corpus: Corpus, split: str) -> list[bytes]:
    """The bytes of all pieces of a split, in no order that means anything."""
    found = []
    for index in range(corpus.num_rows(split)):
        row = corpus.row(split, index)
        ids = row["bytes"] if "bytes" in row else row["tokens"]
        for segment in range(1, row["segment"].max() + 1):
            part = ids[row["segment"] == segment]
            if corpus.tokenizer is None:
                found.append(bytes(part[part < BOS].tolist()))
            else:
                found.append(corpus.tokenizer.decode(part))
    return found


@pytest.mark.parametrize("tokenizer", [None, "bytes", "bpe:300"])
def test_every_byte_once(text, tmp_path, tokenizer):
    corpus = prepare(config(text, tokenizer=tokenizer), tmp_path / "out")
    whole = b"".join(path.read_bytes() for path in sorted(text.iterdir()))
    counted = 0
    for split in ("train", "heldout"):
        info = corpus.info.splits[split]
        pieces = spelled(corpus, split)
        assert sum(map(len, pieces)) == info.bytes and len(pieces) == info.pieces
        assert info.mean_piece_bytes == info.bytes / info.pieces
        counted += info.bytes
        for piece in pieces:
            assert piece in whole
    assert counted == len(whole)
    assert corpus.info.splits["train"].documents + corpus.info.splits["heldout"].documents == 40
    assert corpus.info.splits["validation"].rows == 0


def test_the_fill_is_counted_from_the_rows(text, tmp_path):
    corpus = prepare(config(text), tmp_path / "out")
    info = corpus.info.splits["train"]
    rows = [corpus.row("train", i) for i in range(info.rows)]
    used = np.mean([(row["segment"] > 0).mean() for row in rows])
    assert info.position_fill == pytest.approx(used)
    assert info.word_fill == pytest.approx(np.mean([(r["word_segment"] > 0).mean() for r in rows]))
    ends = sum(int((row["bytes"] == EOT).sum()) for row in rows)
    assert ends == info.documents
    assert info.position_fill > 0.9


def test_splits_hold_the_same_bytes_whatever_the_units(text, tmp_path):
    """So that a HAT and its baselines are compared on the same text."""
    held = {}
    for number, tokenizer in enumerate([None, "bytes", "bpe:300"]):
        corpus = prepare(config(text, tokenizer=tokenizer), tmp_path / str(number))
        held[number] = sorted(b"".join(spelled(corpus, "heldout")))
    assert held[0] == held[1] == held[2]


def test_one_document_is_divided(tmp_path):
    path = tmp_path / "book.txt"
    path.write_bytes(words(5000, 0))
    corpus = prepare(config(path, validation_fraction=0.2), tmp_path / "out")
    sizes = [corpus.info.splits[s].bytes for s in ("train", "validation", "heldout")]
    assert sum(sizes) == path.stat().st_size
    assert np.allclose(np.array(sizes) / sum(sizes), [0.7, 0.2, 0.1], atol=0.01)


def test_parts_of_a_long_document(tmp_path, monkeypatch):
    """A document is packed in parts, without a change in what is charged."""
    monkeypatch.setattr(cutting, "PART_BYTES", 1000)
    for name, data in [("a", words(3000, 1)), ("b", "天地".encode() * 2000)]:
        path = tmp_path / name
        path.write_bytes(data)
        corpus = prepare(config(path, heldout_fraction=0.0), tmp_path / f"{name}.out")
        assert sum(map(len, spelled(corpus, "train"))) == len(data)
        rows = [corpus.row("train", i) for i in range(corpus.num_rows("train"))]
        assert sum(int((row["bytes"] == EOT).sum()) for row in rows) == 1
        if name == "b":
            cuts = [part for part, _ in cutting.parts(data)]
            assert len(cuts) == 13 and "".join(cut.decode() for cut in cuts) == data.decode()


def test_bpe_is_saved_and_trained_without_the_held_out_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"the cat sat on the mat\n" * 90 + b"qxqxqxqx\n" * 25)
    made = config(path, tokenizer="bpe:262", heldout_fraction=0.1)
    corpus = prepare(made, tmp_path / "out")
    assert corpus.info.num_ids == 272 and corpus.tokenizer.vocab_size == 262
    spellings = {corpus.tokenizer.token_bytes(i) for i in range(256, 262)}
    assert not [spelling for spelling in spellings if b"qx" in spelling]
    row = corpus.row("train", 0)
    assert row["tokens"][0] == corpus.tokenizer.bos == 262
    assert row["token_bytes"].sum() == len(corpus.tokenizer.decode(row["tokens"]))


def test_tokenizer_from_a_file(text, tmp_path):
    trained = prepare(config(text, tokenizer="bpe:300"), tmp_path / "trained")
    path = str(tmp_path / "trained/tokenizer.json")
    again = prepare(config(text, tokenizer=path), tmp_path / "again")
    assert again.info.num_ids == trained.info.num_ids
    assert (again.row("train", 0)["tokens"] == trained.row("train", 0)["tokens"]).all()


def test_shards_are_reproducible(text, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "IDS_PER_SHARD", 256 * 20)
    first, second = (prepare(config(text), tmp_path / name) for name in "ab")
    assert first.info == second.info and len(first.info.splits["train"].shards) > 1
    for path in first.folder.iterdir():
        assert path.read_bytes() == (second.folder / path.name).read_bytes()


def test_bad_lines_are_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one two three"}\nbad\n' * 20)
    told = []
    corpus = prepare(config(path), tmp_path / "out", warn=told.append)
    assert corpus.info.skipped == {"lines that are not JSON": 20}
    assert told[0].startswith("skipped a.jsonl:2: not JSON")
    assert len(told) == 6  # once, though the source is read twice
    with pytest.raises(UserError, match="a.jsonl:2"):
        prepare(config(path, strict=True), tmp_path / "strict")
    assert not (tmp_path / "strict").exists()


def test_errors_leave_nothing_behind(text, tmp_path):
    with pytest.raises(UserError, match=r"\d\d.txt: the word of \d bytes at byte \d+ does not fit"):
        prepare(config(text, row_length=8), tmp_path / "out")
    (tmp_path / "a.jsonl").write_text("bad\n")
    with pytest.raises(UserError, match="no document with text; 1 lines that are not JSON"):
        prepare(config(tmp_path / "a.jsonl"), tmp_path / "out")
    left = [p.name for p in tmp_path.iterdir() if p.name not in ("text", "a.jsonl", ".out.lock")]
    assert left == []


def test_same_is_reused_and_another_is_refused(text, tmp_path):
    corpus = prepare(config(text), tmp_path / "out")
    before = (tmp_path / "out/corpus.json").stat().st_mtime_ns
    assert prepare(config(text, strict=True), tmp_path / "out").info == corpus.info
    assert (tmp_path / "out/corpus.json").stat().st_mtime_ns == before
    for changed in (config(text, row_length=128), config(text, heldout_fraction=0.2)):
        with pytest.raises(UserError, match="holds another corpus"):
            prepare(changed, tmp_path / "out")
    (text / "00.txt").write_text("something else")
    with pytest.raises(UserError, match="holds another corpus"):
        prepare(config(text), tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("x")
    with pytest.raises(UserError, match="is there and is no corpus"):
        prepare(config(text), tmp_path / "mine")


def test_source_that_changes_meanwhile(text, tmp_path):
    def meddle(stage, done, total):
        if stage == "packing":
            (text / "39.txt").write_text("shorter")

    with pytest.raises(UserError, match="changed while it was read"):
        prepare(config(text), tmp_path / "out", progress=meddle)


def test_cache(text, tmp_path, monkeypatch):
    monkeypatch.setenv("HAT_CACHE", str(tmp_path / "cache"))
    first = prepare_cached(config(text))
    assert first.folder == tmp_path / "cache/corpora" / first.info.fingerprint
    assert prepare_cached(config(text)).folder == first.folder
    other = prepare_cached(config(text, row_words=50))
    assert other.folder != first.folder
    assert prepare_cached(config(text), tmp_path / "here").folder.parent.parent == tmp_path / "here"


def test_a_prepared_corpus_is_a_source(text, tmp_path):
    made = prepare(config(text), tmp_path / "out")
    found = prepare_cached(config(tmp_path / "out"), tmp_path / "cache")
    assert found.folder == made.folder and not (tmp_path / "cache").exists()
    with pytest.raises(UserError, match="row_words is 60 there and 50 in the config"):
        prepare_cached(config(tmp_path / "out", row_words=50))
    with pytest.raises(UserError, match="splitter is 'spaces-1' there and None"):
        prepare_cached(config(tmp_path / "out", tokenizer="bytes"))


def test_open_refuses_what_is_no_corpus(text, tmp_path):
    with pytest.raises(UserError, match="not a prepared corpus"):
        Corpus.open(tmp_path)
    folder = prepare(config(text), tmp_path / "out").folder
    good = (folder / "corpus.json").read_text()
    for bad in ("{", "{}", "[]", good.replace('"version": 1', '"version": 99'),
                good.replace('"rows"', '"lines"')):  # fmt: skip
        (folder / "corpus.json").write_text(bad)
        with pytest.raises(UserError, match="no corpus description"):
            Corpus.open(folder)
    (folder / "corpus.json").write_text(good)
    (shard,) = folder.glob("heldout-*")
    shard.unlink()
    with pytest.raises(UserError, match="heldout-00000-of-00001.arrayrecord: missing"):
        Corpus.open(folder)


def test_damaged_shards_are_noticed(text, tmp_path):
    corpus = prepare(config(text), tmp_path / "out")
    (shard,) = corpus.folder.glob("train-*")
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 0xFF
    shard.write_bytes(data)
    with pytest.raises(UserError, match="(row .* of train is damaged|rows of .* in train)"):
        for index in range(corpus.num_rows("train")):
            Corpus.open(corpus.folder).row("train", index)
    shard.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="out: .*prepare it again"):
        Corpus.open(corpus.folder).row("train", 0)


def test_batches(text, tmp_path):
    corpus = prepare(config(text), tmp_path / "out")
    count = corpus.num_rows("heldout")
    size = count - 1
    first, second = corpus.batches("heldout", size)
    assert first["bytes"].shape == (size, 256) and first["word_segment"].shape == (size, 60)
    assert (first["bytes"][0] == corpus.row("heldout", 0)["bytes"]).all()
    assert (second["bytes"][0] == corpus.row("heldout", size)["bytes"]).all()
    assert (second["bytes"][1:] == PAD).all() and (second["segment"][1:] == 0).all()
    with pytest.raises(IndexError):
        corpus.row("heldout", count)
    with pytest.raises(UserError, match="no split 'test'"):
        corpus.row("test", 0)


SCRIPT = """
import sys, time
from hat.data.config import DataConfig
from hat.data.prepare import prepare

def slowly(stage, done, total):
    if stage == "packing" and sys.argv[3] == "slow":
        print("packing", flush=True)
        time.sleep(0.05)

corpus = prepare(DataConfig(source=sys.argv[1], tokenizer="bytes"), sys.argv[2], progress=slowly)
print(corpus.info.fingerprint, flush=True)
"""


def start(text: Path, out: Path, pace: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, text, out, pace],
        cwd=REPOSITORY, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_killed_preparation_is_done_again(text, tmp_path):
    out = tmp_path / "out"
    process = start(text, out, "slow")
    process.stdout.readline()  # it is packing
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not out.exists()
    assert list(tmp_path.glob(".out.partial-*"))
    corpus = prepare(DataConfig(source=str(text), tokenizer="bytes"), out)
    assert not list(tmp_path.glob(".out.partial-*"))
    whole = sum(path.stat().st_size for path in text.iterdir())
    assert sum(split.bytes for split in corpus.info.splits.values()) == whole


def test_concurrent_preparation(text, tmp_path):
    """The second waits for the first and takes what it made."""
    out = tmp_path / "out"
    slow = start(text, out, "slow")
    slow.stdout.readline()
    quick = start(text, out, "quick")
    told = [process.communicate()[0].split() for process in (slow, quick)]
    assert slow.returncode == quick.returncode == 0
    fingerprint = Corpus.open(out).info.fingerprint
    assert told[0][-1] == fingerprint and told[1] == [fingerprint]
    assert "packing" in told[0]


def test_full_disk(text, tmp_path):
    """A limit on the size of a file stands in for the disk: the write itself fails."""
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)){SCRIPT}"
    found = subprocess.run(
        [sys.executable, "-c", code, text, tmp_path / "out", "quick"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "UserError: " in found.stderr and "out: cannot be written: " in found.stderr
    assert "File too large" in found.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.lock", "text"]


def test_unwritable_folder(text, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="out: cannot be written: .*Not a directory|File exists"):
        prepare(config(text), tmp_path / "file/out")


def test_info_is_json(text, tmp_path):
    corpus = prepare(config(text), tmp_path / "out")
    fields = json.loads((corpus.folder / "corpus.json").read_text())
    assert fields == json.loads(json.dumps(dataclasses.asdict(corpus.info)))
    assert fields["splits"]["train"]["position_fill"] > 0.9
    assert os.stat(corpus.folder).st_mode == os.stat(text).st_mode
