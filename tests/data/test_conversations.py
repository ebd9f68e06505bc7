"""Conversations and preference pairs, from lines of JSONL to rows on disk."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.data import records
from hat.data.config import BucketConfig, DataConfig
from hat.data.corpus import Sharding
from hat.data.prepare import prepare
from hat.data.sources import Skipped, Source
from hat.errors import UserError
from hat.text.chat import header
from hat.text.ids import BOS, EOT, PAD
from hat.text.pairs import PairPacker
from hat.text.rows import Row, Specials, Units


def line(*contents: str, system: str | None = None) -> str:
    roles = ["user", "assistant"] * len(contents)
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents)]
    before = [] if system is None else [{"role": "system", "content": system}]
    return json.dumps({"messages": before + messages, "id": 7})


def write(folder, lines: list[str], name: str = "chats.jsonl"):
    path = folder / name
    data = "".join(text + "\n" for text in lines).encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def config(path, **fields) -> DataConfig:
    values = dict(format="chat", splitter="spaces", row_length=256, row_words=128)
    return DataConfig(source=str(path), **(values | {"heldout_fraction": 0.1} | fields))


CHATS = [line(f"What is {i}?", f"It is {i * i}.", "And?", "No — more.") for i in range(30)]


def learned(corpus, split: str = "train") -> list[bytes]:
    """The answers of a split, in order of their bytes."""
    found = []
    for index in range(corpus.num_rows(split)):
        row = corpus.row(split, index)
        ids = row["bytes" if "bytes" in row else "tokens"]
        for segment in range(1, row["segment"].max() + 1):
            part = ids[(row["segment"] == segment) & (row["answer"] == 1)]
            assert part[-1] == EOT
            ends = np.flatnonzero(part == EOT)
            found += [bytes(part[a:b].tolist()) for a, b in zip([0, *(ends[:-1] + 1)], ends)]
    return sorted(found)


@pytest.mark.parametrize("fields", [{}, {"tokenizer": "bytes"}])
@pytest.mark.parametrize("name", ["chats.jsonl", "chats.jsonl.gz"])
def test_every_answer_is_learned_once(tmp_path, fields, name):
    path = write(tmp_path, CHATS, name)
    corpus = prepare(config(path, **fields), tmp_path / "out")
    info = corpus.info
    assert info.format == "chat" and json.loads(info.to_json())["format"] == "chat"
    documents = [info.splits[split].documents for split in ("train", "heldout")]
    assert sum(documents) == 30 and documents[1] == 3
    said = sorted(f"It is {i * i}.".encode() for i in range(27)) + ["No — more.".encode()] * 27
    assert learned(corpus) == sorted(said)
    assert set(corpus.padding()) == set(corpus.row("train", 0))
    assert not corpus.padding()["answer"].any()


def test_shards_hold_the_same_answers(tmp_path):
    path = write(tmp_path, [*CHATS, CHATS[0]])
    ordered = prepare(config(path), tmp_path / "ordered")
    sharded = prepare(config(path), tmp_path / "sharded", sharding=Sharding(3, deduplicate=True))
    assert sharded.info.skipped == {"exact copies": 1}
    splits = ("train", "heldout")
    both = [sum((learned(corpus, split) for split in splits), []) for corpus in (ordered, sharded)]
    extra = [b"It is 0.", "No — more.".encode()]
    assert sorted(both[0]) == sorted(both[1] + extra)
    assert ordered.info.fingerprint != sharded.info.fingerprint


def test_a_long_conversation_is_cut_like_a_text(tmp_path):
    """Into pieces of every bucket: each answer byte and end is learned once."""
    turns = [f"{'question ' * (i % 7)}{i}?" if i % 2 == 0 else "an answer, " * (i % 9) + f"{i}."
             for i in range(40)]  # fmt: skip
    path = write(tmp_path, [line(*turns)] * 2)
    buckets = (BucketConfig(length=128), BucketConfig(length=256))
    answers = "".join(turns[1::2]).encode()
    for fields in ({}, {"buckets": buckets}):
        corpora = [
            prepare(
                config(path, heldout_fraction=0, row_length=length, row_words=length // 2, **fields),
                tmp_path / f"{length}-{len(fields)}",
            )
            for length in ((128, 256) if fields else (256,))
        ]
        count = ends = 0
        for corpus in corpora:
            for index in range(corpus.num_rows("train")):
                row = corpus.row("train", index)
                ids = row["bytes"][row["answer"] == 1]
                count, ends = count + int((ids < 256).sum()), ends + int((ids == EOT).sum())
        assert (count, ends) == (2 * len(answers), 40)


def pair_line(prompt, chosen, rejected) -> str:
    return json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected})


BAD = [
    ("{", "lines that are not JSON", "not JSON"),
    ("[]", "lines that are not an object", "not a JSON object but a list"),
    ('{"text": "x"}', "lines without 'messages'", "no field 'messages', only text"),
    ('{"messages": "x"}', "damaged messages", "messages are a list, not a str"),
    ('{"messages": []}', "conversations out of order", "the last message is not the assistant's"),
    ('{"messages": ["x"]}', "damaged messages", "message 1 is no object but a str"),
    ('{"messages": [{"content": "x"}]}', "damaged messages", "message 1 has no 'role'"),
    ('{"messages": [{"role": "user"}]}', "damaged messages", "message 1 has no 'content'"),
    ('{"messages": [{"role": "user", "content": 3}]}', "damaged messages", "is no string"),
    ('{"messages": [{"role": "tool", "content": ""}]}', "damaged messages", "is of 'tool'"),
    (line("x", ""), "empty answers", "message 2, an answer, is empty"),
    (line("x"), "conversations out of order", "the last message is not the assistant's"),
    (line("x", "y", "z"), "conversations out of order", "the last message is not the assistant's"),
    ('{"messages": [{"role": "assistant", "content": "x"}]}', "conversations out of order",
     "message 1 is of 'assistant', where 'user' should speak"),
    (line("\ud800", "x"), "lines that are not Unicode", "half a surrogate pair"),
]  # fmt: skip
BAD_PAIRS = [
    ('{"prompt": "x", "chosen": "y"}', "lines without 'rejected'", "no field 'rejected'"),
    (pair_line("x", "y", "y"), "pairs of equal answers", "are equal"),
    (pair_line("x", "", "y"), "empty answers", "'chosen' is empty"),
    (pair_line("x", "y", 3), "damaged answers", "'rejected' is neither text nor one message"),
    (pair_line("x", "y", [{"role": "user", "content": "z"}]), "damaged answers", "is of 'user'"),
    (pair_line([], "y", "z"), "conversations out of order", "does not end with the user"),
    (pair_line(3, "y", "z"), "damaged messages", "messages are a list"),
]


@pytest.mark.parametrize("format, bad, kind, reason", [
    *(("chat", *case) for case in BAD), *(("preference", *case) for case in BAD_PAIRS)
])  # fmt: skip
def test_a_bad_line_is_counted_with_its_place(tmp_path, format, bad, kind, reason):
    good = {"chat": CHATS[0], "preference": pair_line("x", "y", "z")}[format]
    path = write(tmp_path, [good, bad, good])
    told = []
    skipped = Skipped(told.append)
    found = list(Source(str(path), format=format).documents(skipped))
    assert [document.line for document in found] == [1, 3]
    assert skipped.counts == {kind: 1}
    assert len(told) == 1 and told[0].startswith("skipped chats.jsonl:2: ") and reason in told[0]
    assert "\n" not in told[0]
    with pytest.raises(UserError, match="^chats.jsonl:2: .*strict"):
        list(Source(str(path), format=format).documents(Skipped(strict=True)))


def test_sources_that_hold_no_conversations(tmp_path):
    with pytest.raises(UserError, match="data.format is 'chat', and data.source is the standard"):
        prepare(config("stdlib"), tmp_path / "out")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="notes.txt: not chat: another suffix than .jsonl"):
        prepare(config(tmp_path / "notes.txt"), tmp_path / "out")
    write(tmp_path, CHATS)
    corpus = prepare(config(tmp_path), tmp_path / "out")
    assert corpus.info.skipped == {"files with another suffix than .jsonl": 1}
    with pytest.raises(UserError, match="data.format is 'talk': give text, chat, preference"):
        config("x", format="talk")
    with pytest.raises(UserError, match="data.buckets"):
        config("x", format="preference", buckets=(BucketConfig(length=256),))


def test_another_format_is_another_corpus(tmp_path):
    path = write(tmp_path, CHATS)
    prepare(config(path), tmp_path / "out")
    with pytest.raises(UserError, match="holds another corpus"):
        prepare(config(path, format="text", text_field="x"), tmp_path / "out")


def test_a_split_gets_a_conversation_where_it_can(tmp_path):
    """None is divided, however few there are."""
    for count, wanted in ((1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (4, (2, 1, 1))):
        path = write(tmp_path, CHATS[:count])
        fractions = dict(heldout_fraction=0.05, validation_fraction=0.05)
        info = prepare(config(path, **fractions), tmp_path / str(count)).info
        found = [info.splits[split].documents for split in ("train", "validation", "heldout")]
        assert tuple(found) == wanted


# --- preference pairs -----------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"tokenizer": "bytes"}])
def test_pairs_stay_together(tmp_path, fields):
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Well?"}]
    lines = [pair_line(f"Why {i}?", f"Since {i}.", "No" * (1 + i % 5)) for i in range(20)]
    lines += [pair_line(prompt, [{"role": "assistant", "content": "Yes."}], "No.")]
    lines += [pair_line("too long", "x " * 300, "y")]
    corpus = prepare(
        config(
            write(tmp_path, lines), format="preference", heldout_fraction=0.0, row_length=512, **fields
        ),
        tmp_path / "out",
    )
    assert corpus.info.skipped == {"pairs longer than a row": 1}
    assert corpus.info.splits["train"].documents == 21
    found = []
    for index in range(corpus.num_rows("train")):
        row = corpus.row("train", index)
        ids, segment = row["bytes" if "bytes" in row else "tokens"], row["segment"]
        assert segment.max() % 2 == 0
        for first in range(1, segment.max(), 2):
            sides = [(ids[segment == side], row["answer"][segment == side] == 1)
                     for side in (first, first + 1)]  # fmt: skip
            prompts = [side[~answer].tolist() for side, answer in sides]
            assert prompts[0] == prompts[1]
            found.append(tuple(bytes(side[answer][:-1].tolist()) for side, answer in sides))
    wanted = [(f"Since {i}.".encode(), b"No" * (1 + i % 5)) for i in range(20)]
    assert sorted(found) == sorted([*wanted, (b"Yes.", b"No.")])


@settings(max_examples=50)
@given(sizes=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=40))
def test_no_pair_is_parted_or_lost(sizes):
    packer = PairPacker(32, None, Specials(BOS, EOT, PAD))
    rows: list[Row] = []
    for number, (left, right) in enumerate(sizes):
        pair = [Units(np.full(size, number, np.int32), answers=np.ones(size, bool))
                for size in (left, right)]  # fmt: skip
        assert packer.fits(pair)
        rows += packer.add(pair)
    rows += packer.finish()
    found = {}
    for row in rows:
        assert len(row.ids) <= 32 and len(row.lengths) % 2 == 0
        pieces = np.split(row.ids, np.cumsum(row.lengths)[:-1])
        for left, right in zip(pieces[::2], pieces[1::2]):
            assert left[1] == right[1] and left[0] == right[0] == BOS
            found[int(left[1])] = (len(left) - 2, len(right) - 2)
    assert found == dict(enumerate(sizes))
    long = [Units(np.zeros(14, np.int32), answers=np.ones(14, bool))] * 2
    assert packer.fits(long)  # 14 and 14, with BOS and EOT twice: 32
    assert not packer.fits([long[0], Units(np.zeros(15, np.int32), answers=np.ones(15, bool))])


@settings(max_examples=60)
@given(ids=st.lists(st.integers(0, 300), min_size=1, max_size=20), has_words=st.booleans(),
       answers=st.lists(st.booleans(), min_size=20, max_size=20))  # fmt: skip
def test_stored_rows_keep_their_answers(ids, has_words, answers):
    count = len(ids)
    words = (np.arange(count) % 3 == 0, np.arange(count, dtype=np.int32) % 2)
    row = Row(
        np.array(ids, np.int32), np.array([count], np.int32),
        *(words if has_words else (None, None)), np.array(answers[:count]),
    )  # fmt: skip
    found = records.decode_row(records.encode_row(row))
    for name in ("ids", "lengths", "starts", "lags", "answers"):
        wanted, got = getattr(row, name), getattr(found, name)
        assert (got is None) == (wanted is None)
        np.testing.assert_array_equal(got, wanted) if wanted is not None else None


def test_a_tokenizer_that_opens_with_its_end_is_refused(tmp_path):
    from hat.text.tokenizers import train_bpe

    tokenizer = train_bpe([b"some text and more of it"], 260)
    tokenizer.save(tmp_path)
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    spec["added_tokens"] = [{"id": 260, "content": "<|endoftext|>", "single_word": False,
                             "lstrip": False, "rstrip": False, "normalized": False,
                             "special": True}]  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    path = write(tmp_path, CHATS)
    with pytest.raises(UserError, match="opens and ends texts with one id"):
        prepare(config(path, tokenizer=str(tmp_path / "tokenizer.json")), tmp_path / "out")


def test_a_vocabulary_is_learned_from_what_is_said(tmp_path):
    path = write(tmp_path, CHATS)
    corpus = prepare(config(path, tokenizer="bpe:270", row_length=64), tmp_path / "out")
    ids = corpus.tokenizer.encode(header("assistant"))
    assert len(ids) < len(header("assistant")) - 10  # its bytes have merged; JSON's never would
