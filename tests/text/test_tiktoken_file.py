"""The tiktoken file of Llama 3 against tiktoken's own way of merging, written out."""

from __future__ import annotations

import base64
import re

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from hat.errors import UserError
from hat.text import tiktoken_file
from hat.text.tokenizers import load_tokenizer

# Tokens whose ranks cross: "cab" comes before "ca", "the" can be made in two ways.
TOKENS = [bytes([byte]) for byte in range(256)] + [
    b"ab", b"he", b"th", b"the", b"cab", b"ca", b" t", b" the", b"aa", b"aaaa", b"\xc3\xa9",
    b"  ", b"\n\n", b"123", b"12", "\u4f60".encode(), "\u4f60\u597d".encode(), b"'s",
]  # fmt: skip
PATTERN = regex.compile(tiktoken_file._WORDS)


def file_of(tokens) -> bytes:
    return b"".join(b"%s %d\n" % (base64.b64encode(t), rank) for rank, t in enumerate(tokens))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiktoken") / "tokenizer.model"
    path.write_bytes(file_of(TOKENS))
    return load_tokenizer(path)


def merged(word: bytes) -> list[int]:
    """Of all neighbours whose union has a rank, the first of the lowest rank becomes one."""
    ranks = {token: rank for rank, token in enumerate(TOKENS)}
    if word in ranks:
        return [ranks[word]]
    parts = [bytes([byte]) for byte in word]
    while True:
        unions = [(ranks[a + b], i) for i, (a, b) in enumerate(zip(parts, parts[1:]))
                  if a + b in ranks]
        if not unions:
            return [ranks[part] for part in parts]
        _, i = min(unions)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


@given(st.text(st.sampled_from("abche t\n1234's\u4f60\u597d\u00e9"), max_size=30))
def test_merges_are_those_of_tiktoken(tokenizer, text):
    expected = [id for word in PATTERN.findall(text) for id in merged(word.encode())]
    assert tokenizer.encode(text.encode()).tolist() == expected


@given(st.binary(max_size=40))
def test_lossless_on_arbitrary_bytes(tokenizer, data):
    assert tokenizer.decode(tokenizer.encode(data)) == data


def test_specials_follow_the_ranks(tokenizer):
    size = len(TOKENS)
    assert (tokenizer.bos, tokenizer.eot, tokenizer.pad) == (size, size + 1, size + 4)
    assert tokenizer.vocab_size == size + 256
    names = tiktoken_file.special_names()
    assert len(set(names)) == 256
    # Llama 3.1: 128,000 ranks, and these ids behind them.
    assert names[9] == "<|eot_id|>" and names[255] == "<|reserved_special_token_247|>"
    assert not tokenizer.byte_lengths[size:].any()


def test_it_is_saved_as_json(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.name == tokenizer.name
    assert again.encode(b" the cab").tolist() == tokenizer.encode(b" the cab").tolist()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (file_of([b"a", b"b"]) + b"Yw== two\n", "line 3 is no token"),
        (file_of([b"a", b"b"]) + b"Y\xff== 2\n", "line 3 is no token"),
        (file_of([b"a", b"b"]) + b"Yw== 7\n", "ranks are not"),
        (file_of([b"a", b"b"]) + b"YQ== 2\n", "ranks are not"),
        (file_of([b"a", b"b"]), "has no token for byte 0x00"),
    ],
)
def test_damaged_files(tmp_path, data, said):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"{re.escape(str(path))}: .*{said}"):
        load_tokenizer(path)
