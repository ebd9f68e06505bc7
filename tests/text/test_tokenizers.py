"""Every tokenizer is lossless on arbitrary bytes; its spellings add up; specials follow it."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.errors import UserError
from hat.text.ids import BOS, EOT, PAD
from hat.text.tokenizers import (
    ByteTokenizer,
    JsonTokenizer,
    SentencePieceTokenizer,
    load_tokenizer,
    train_bpe,
)

TEXT = [
    b"def add(left, right):\n    return left + right  # the sum of both\n" * 3,
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. ".encode() * 3,
    "色は匂へど 散りぬるを".encode() * 3,
    b"for number in range(100):\n    print(number, number * number)\n" * 3,
]
HARD = [
    b"", b" ", b"  two  spaces ", b"\xff", b"a\xc3", b"\x00\x01", b"<s></s><|endoftext|>",
    "a\u2581b \u2581".encode(), "e\u0301 \ufb01 \u212b \uff76".encode(), b"\xed\xa0\x80", b"\r\n\t",
    "\ufeffx".encode(), b"<0x41>",
]


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(TEXT, 300)


@pytest.fixture(scope="module")
def sentencepiece_model() -> bytes:
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line.decode() for text in TEXT for line in text.splitlines()),
        model_writer=out, vocab_size=380, model_type="bpe", byte_fallback=True,
        character_coverage=0.98, minloglevel=2, hard_vocab_limit=False,
    )
    return out.getvalue()


@pytest.fixture(scope="module")
def fallback_json() -> str:
    """The Llama-2 layout of tokenizer.json: a prepended space, U+2581, byte fallback."""
    vocabulary = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    vocabulary += ["\u2581", "h", "e", "\u2581h", "\u2581he"]
    added = [
        {"id": i, "content": vocabulary[i], "special": True, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False} for i in range(3)
    ]
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
        "pre_tokenizer": None, "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>",
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
                  "byte_fallback": True, "vocab": {p: i for i, p in enumerate(vocabulary)},
                  "merges": ["\u2581 h", "\u2581h e"]},
    })


@pytest.fixture(scope="module", params=["bytes", "bpe", "sentencepiece", "fallback"])
def tokenizer(request, bpe, sentencepiece_model, fallback_json):
    return {
        "bytes": ByteTokenizer,
        "bpe": lambda: bpe,
        "sentencepiece": lambda: SentencePieceTokenizer(sentencepiece_model),
        "fallback": lambda: JsonTokenizer(fallback_json),
    }[request.param]()


@pytest.mark.parametrize("data", HARD + TEXT, ids=lambda data: repr(data[:20]))
def test_lossless(tokenizer, data):
    ids = tokenizer.encode(data)
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids) == data
    assert b"".join(tokenizer.token_bytes(i) for i in ids) == data
    assert tokenizer.byte_lengths[ids].sum() == len(data)
    assert not {tokenizer.bos, tokenizer.eot, tokenizer.pad} & set(ids.tolist())


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=60) | st.text(max_size=30).map(lambda s: s.encode(errors="ignore")))
def test_lossless_on_arbitrary_bytes(tokenizer, data):
    assert tokenizer.decode(tokenizer.encode(data)) == data


def test_byte_ids_are_ours():
    tokenizer = ByteTokenizer()
    assert (tokenizer.bos, tokenizer.eot, tokenizer.pad) == (BOS, EOT, PAD)
    assert tokenizer.num_ids == 264
    assert tokenizer.encode(b"\x00A\xff").tolist() == [0, 65, 255]


def test_bpe_specials_follow_the_vocabulary(bpe):
    assert (bpe.vocab_size, bpe.bos, bpe.eot, bpe.pad, bpe.num_ids) == (300, 300, 301, 302, 304)
    assert all(bpe.token_bytes(i) for i in range(300))
    assert len({bpe.token_bytes(i) for i in range(300)}) == 300
    assert bpe.byte_lengths[300:].tolist() == [0, 0, 0, 0]
    assert len(bpe.encode(TEXT[0])) < len(TEXT[0]) * 0.75


def test_bpe_spells_what_the_library_decodes(bpe):
    for token in range(300):
        spelled = bpe.token_bytes(token).decode("utf-8", "replace")
        assert bpe._library.decode([token]) == spelled


def test_own_specials_are_kept(sentencepiece_model, fallback_json):
    model = SentencePieceTokenizer(sentencepiece_model)
    assert (model.bos, model.eot, model.pad) == (1, 2, model.vocab_size)
    tokenizer = JsonTokenizer(fallback_json)
    assert (tokenizer.bos, tokenizer.eot) == (1, 2)
    assert tokenizer.encode(b" he").tolist() == [263]
    assert tokenizer.encode(b"he").tolist() == [260, 261]  # no space is put before the text


def test_a_vocabulary_that_changes_the_text_is_refused(bpe):
    spec = json.loads(bpe._text)
    spec["normalizer"] = {"type": "Lowercase"}
    tokenizer = JsonTokenizer(json.dumps(spec))
    assert tokenizer.decode(tokenizer.encode(b"small")) == b"small"
    with pytest.raises(UserError, match="changes the text"):
        tokenizer.encode(b"Large")


def test_training_is_deterministic(bpe):
    again = train_bpe(TEXT, 300)
    assert again.name == bpe.name


def test_save_and_load(tmp_path, bpe, sentencepiece_model):
    for number, original in enumerate([bpe, SentencePieceTokenizer(sentencepiece_model)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        original.save(folder)
        loaded = load_tokenizer(folder)
        assert loaded.name == original.name
        assert (loaded.encode(TEXT[1]) == original.encode(TEXT[1])).all()


def test_refusals(tmp_path):
    with pytest.raises(UserError, match="cannot spell the 256 bytes"):
        train_bpe(TEXT, 100)
    with pytest.raises(UserError, match="yields only"):
        train_bpe([b"abc"], 5000)
    with pytest.raises(UserError, match="none of tokenizer.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="cannot read"):
        load_tokenizer(tmp_path / "none.json")
    with pytest.raises(UserError, match="a SentencePiece .model or"):
        load_tokenizer(tmp_path / "vocab.txt")
    for name, content in [("a.json", b"{}"), ("b.json", b"\xff"), ("c.model", b"nonsense")]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: not a"):
            load_tokenizer(tmp_path / name)


def test_vocabulary_without_bytes_is_refused(tmp_path):
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT[0].decode().splitlines()), model_writer=out, vocab_size=60,
        minloglevel=2, hard_vocab_limit=False,
    )
    (tmp_path / "x.model").write_bytes(out.getvalue())
    with pytest.raises(UserError, match="byte_fallback"):
        load_tokenizer(tmp_path / "x.model")
