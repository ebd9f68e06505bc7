"""Documents in pieces of set lengths: every byte once, and batches that follow a curriculum."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.cli import main
from hat.data.config import BucketConfig, DataConfig, SourceConfig, weight_phases
from hat.data.loader import Loader
from hat.data.mixture import prepare_mixture
from hat.data.schedule import Schedule
from hat.errors import UserError
from hat.text.buckets import BucketPacker
from hat.text.ids import BOS, EOT, PAD
from hat.text.rows import Packer, Row, Specials, word_units
from tests.data.conftest import SpaceSplitter

SPECIALS = Specials(BOS, EOT, PAD)
LENGTHS, WORDS = (16, 32, 64), 16  # N of the longest


def pack(packer: Packer, documents: list[bytes]) -> list[Row]:
    rows = []
    for document in documents:
        data = np.frombuffer(document, np.uint8)
        rows += packer.add(word_units(data, SpaceSplitter().split(data)))
    return rows + packer.finish()


def bucketed(documents: list[bytes], lengths=LENGTHS, words=WORDS) -> dict[int, list[Row]]:
    return {
        length: pack(
            BucketPacker(lengths, length, words * length // lengths[-1], SPECIALS), documents
        )
        for length in lengths
    }


def segments(rows: list[Row]) -> list[tuple[int, ...]]:
    split = [np.split(row.ids, np.cumsum(row.lengths)[:-1]) for row in rows]
    return [tuple(ids.tolist()) for pieces in split for ids in pieces]


def reference(document: bytes, lengths=LENGTHS, words=WORDS) -> list[tuple[int, tuple[int, ...]]]:
    """(bucket, piece) of one document, word by word as the rule is told."""
    data = np.frombuffer(document, np.uint8)
    starts = np.flatnonzero(SpaceSplitter().split(data).starts).tolist()
    rest = [data[a:b].tolist() for a, b in zip(starts, [*starts[1:], len(data)])] + [[EOT]]
    found = []
    while rest:
        caps = [(length, words * length // lengths[-1]) for length in lengths]
        need = 1 + sum(map(len, rest)), 1 + len(rest)
        fit = [cap for cap in caps if need[0] >= cap[0] or need[1] >= cap[1]] or caps[:1]
        for cap in caps[caps.index(fit[-1]) :]:
            piece, taken = [BOS], 0
            for word in rest[: cap[1] - 1]:
                if len(piece) + len(word) > cap[0]:
                    break
                piece, taken = piece + word, taken + 1
            if rest[taken:] == [[EOT]]:  # an end of text is no piece alone: its word comes along
                taken -= taken > 0
                piece = [BOS, *sum(rest[:taken], [])]
            if taken:
                break
        found.append((cap[0], tuple(piece)))
        rest = rest[taken:]
    return found


document_strategy = st.lists(
    st.sampled_from([b"a ", b"to ", b"word ", b"sentences ", b"\xff\xfe ", b" ", b"x" * 13 + b" "]),
    max_size=60,
).map(b"".join)


@settings(max_examples=100, deadline=None)
@given(documents=st.lists(document_strategy, max_size=4))
def test_every_byte_is_in_one_piece_of_one_bucket(documents):
    """Against the rule written word by word: the same pieces in the same buckets."""
    found = bucketed(documents)
    wanted = Counter(piece for document in documents for piece in reference(document))
    assert wanted == Counter(
        (length, piece) for length, rows in found.items() for piece in segments(rows)
    )
    ids = np.concatenate([row.ids for rows in found.values() for row in rows] or [[]])
    assert Counter(ids[ids < 256].tolist()) == Counter(b"".join(documents))
    assert (ids == EOT).sum() == len(documents)


@settings(max_examples=100, deadline=None)
@given(documents=st.lists(document_strategy, max_size=4))
def test_rows_hold_one_piece_that_ends_within_a_word_of_a_cap(documents):
    for length, rows in bucketed(documents).items():
        words = WORDS * length // LENGTHS[-1]
        for row in rows:
            assert len(row.ids) <= length and row.starts.sum() <= words
            if length > LENGTHS[0]:
                assert len(row.lengths) == 1
                # 14: the longest word here; EOT and its word may stay behind together.
                assert len(row.ids) > length - 15 or row.starts.sum() > words - 2


@settings(max_examples=50, deadline=None)
@given(documents=st.lists(document_strategy, max_size=6))
def test_one_bucket_is_the_ordinary_packing(documents):
    ordinary = pack(Packer(64, 16, SPECIALS), documents)
    for one, other in zip(ordinary, bucketed(documents, (64,))[64], strict=True):
        for name in ("ids", "lengths", "starts", "lags"):
            assert (getattr(one, name) == getattr(other, name)).all()


def test_a_word_too_long_for_a_short_bucket_takes_a_longer_one():
    document = b"y" * 20 + b" " + b"a " * 2
    found = bucketed([document])
    assert [len(rows) for rows in found.values()] == [0, 1, 0]
    with pytest.raises(UserError, match="the word of 40 bytes"):
        bucketed([b"y" * 40], (16, 32))


# --- corpora and batches --------------------------------------------------------------------------


def buckets(*weights, changes=None) -> tuple[BucketConfig, ...]:
    changes = changes or [()] * len(LENGTHS)
    return tuple(
        BucketConfig(length=length, weight=weight, weight_changes=change)
        for length, weight, change in zip(LENGTHS, weights, changes)
    )


@pytest.fixture
def config(tmp_path, monkeypatch) -> DataConfig:
    monkeypatch.setenv("HAT_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        lines = "".join(f"{name} {i} {'word ' * int(random.integers(1, 40))}\n" for i in range(60))
        (tmp_path / name).mkdir()
        for i, line in enumerate(lines.splitlines(keepends=True)):
            (tmp_path / name / f"{i:02}.txt").write_text(line)
    return DataConfig(
        source=str(tmp_path / "a"), splitter="spaces", row_length=64, row_words=16,
        heldout_fraction=0.2, buckets=buckets(1.0, 1.0, 1.0),
    )  # fmt: skip


def test_buckets_divide_the_training_bytes_and_leave_the_rest(config):
    mixture = prepare_mixture(config)
    usual = prepare_mixture(dataclasses.replace(config, buckets=()))
    info = usual.corpora[0][0].info.splits
    train = [corpora[0].info.splits["train"] for corpora in mixture.corpora]
    assert sum(split.bytes for split in train) == info["train"].bytes
    assert sum(split.words for split in train) == info["train"].words
    assert all(split.rows > 1 for split in train)
    heldout = mixture.evaluated("heldout")["all"]
    rows = [corpora[0].num_rows("heldout") for corpora in mixture.corpora]
    assert rows == [0, 0, heldout.num_rows("heldout")]
    for ours, theirs in zip(
        heldout.batches("heldout", 2), usual.corpora[0][0].batches("heldout", 2), strict=True
    ):
        assert all((ours[name] == theirs[name]).all() for name in theirs)


def lengths_of(loader: Loader, steps: int) -> list[int]:
    return [loader.batch(step)["bytes"].shape[1] for step in range(steps)]


def test_batches_have_the_same_positions_and_follow_the_curriculum(config):
    """Short rows first, none of them from step 12 on."""
    curriculum = buckets(3.0, 1.0, 0.0, changes=[((12, 0.0),), (), ((12, 1.0),)])
    loader = Loader(prepare_mixture(dataclasses.replace(config, buckets=curriculum)), 2, seed=0)
    assert [shapes["bytes"] for shapes in loader.shapes] == [(8, 16), (4, 32), (2, 64)]
    assert [shapes["word_segment"] for shapes in loader.shapes] == [(8, 4), (4, 8), (2, 16)]
    for step in range(30):
        batch = loader.batch(step)
        assert batch["bytes"].size == 128
        assert {name: rows.shape for name, rows in batch.items()} in loader.shapes
    early, late = lengths_of(loader, 12), lengths_of(loader, 30)[12:]
    assert Counter(early) == {16: 9, 32: 3} and Counter(late) == {32: 9, 64: 9}


@settings(max_examples=20, deadline=None)
@given(weights=st.lists(st.integers(0, 9), min_size=3, max_size=3).filter(any))
def test_shares_of_steps(weights):
    """No corpus is needed: the share is the schedule's."""
    schedule = Schedule(weight_phases(buckets(*map(float, weights))))
    for steps in (1, 10, 33):
        for count, weight in zip(schedule.counts(steps), weights):
            assert abs(count - Fraction(steps * weight, sum(weights))) < 1


def mixed(config: DataConfig, change: int | None = None) -> DataConfig:
    folder = config.source[:-1]
    changes = () if change is None else ((change, 0.0),)
    return dataclasses.replace(config, mixture=(
        SourceConfig(name="a", source=folder + "a", weight=2.0),
        SourceConfig(name="b", source=folder + "b", weight_changes=changes),
    ))  # fmt: skip


def test_every_row_of_every_corpus_once_in_every_epoch(config):
    mixture = prepare_mixture(mixed(config))
    loader = Loader(mixture, 1, seed=0)
    numbers = np.concatenate([loader.row_indices(step) for step in range(700)])
    for bucket in range(len(LENGTHS)):
        for source in range(2):
            count = mixture.corpora[bucket][source].num_rows("train")
            first = mixture.first_row("train", bucket, source)
            rows = numbers[(numbers >= first) & (numbers < first + count)]
            assert len(rows) >= count
            for epoch in range(len(rows) // count):
                assert sorted(rows[epoch * count :][:count]) == list(range(first, first + count))


def test_a_change_of_sources_at_a_step_holds_in_every_bucket(config):
    mixture = prepare_mixture(mixed(config, change=9))
    loader, before = Loader(mixture, 1, seed=0), Loader(prepare_mixture(mixed(config)), 1, seed=0)
    firsts = [mixture.first_row("train", b, s) for b in range(3) for s in range(2)]
    for step in range(60):
        numbers = loader.row_indices(step)
        if step < 9:
            assert (numbers == before.row_indices(step)).all()
        else:  # the even ones are those of "a"
            assert ((np.searchsorted(firsts, numbers, "right") - 1) % 2 == 0).all()


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_slice_and_runs_resume(config, processes):
    mixture = prepare_mixture(mixed(config, change=5))
    whole = Loader(mixture, 4, seed=1)
    parts = [Loader(mixture, 4, 1, "train", p, processes) for p in range(processes)]
    iterators = [part.iterate(3) for part in parts]
    for step in range(3, 12):
        found = [next(iterator) for iterator in iterators]
        for name, wanted in whole.batch(step).items():
            assert (np.concatenate([batch[name] for batch in found]) == wanted).all()
    for iterator in iterators:
        iterator.close()


def test_prepared_buckets_are_found_by_their_lengths(config, tmp_path, capsys):
    command = ["prepare", config.source, "--out", str(tmp_path / "out"), "--splitter", "spaces",
               "--row-length", "64", "--row-words", "16", "--heldout", "0.2",
               "--buckets", "16", "32", "64", "--json"]  # fmt: skip
    assert main(command) == 0
    infos = json.loads(capsys.readouterr().out)["buckets"]
    assert [info["row_length"] for info in infos] == [64, 32, 16]
    assert all(info["splits"]["train"]["rows"] > 1 for info in infos)
    found = prepare_mixture(dataclasses.replace(config, source=str(tmp_path / "out")))
    assert found.corpora[1][0].folder == tmp_path / "out" / "32"
    assert found.fingerprint == prepare_mixture(config).fingerprint
    packed = dataclasses.replace(config, buckets=(), source=str(tmp_path / "out" / "64"))
    with pytest.raises(UserError, match="bucket_lengths is .16, 32, 64. there and"):
        prepare_mixture(packed)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"buckets": buckets(0.0, 0.0, 0.0)}, "data.buckets: every weight is 0 from step 0"),
        ({"buckets": buckets(1.0, 1.0, 1.0)[::-1]}, "must rise"),
        ({"buckets": buckets(1.0, 1.0)}, "the last must be data.row_length=64"),
        ({"buckets": (*buckets(1.0), *buckets(1.0))}, "the length 16 stands twice"),
        ({"row_words": 18}, "a bucket of 16 ids 4.5 words; choose a multiple of 4"),
        ({"row_words": 8}, "a bucket of 16 ids 2 words; choose"),
        ({"tokenizer": "bpe:300"}, "hat prepare"),
    ],
)
def test_invalid_buckets(config, fields, message):
    with pytest.raises(UserError, match=message) as error:
        dataclasses.replace(config, **fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("length", [0, 2, 48])
def test_lengths_are_powers_of_two(length):
    with pytest.raises(UserError, match="give a power of two"):
        BucketConfig(length=length)
