"""The page of surprise: whole, escaped, self-contained, and with the numbers of the scorer."""

from __future__ import annotations

import html
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.cli import main
from hat.inference.scoring import DocumentScore
from hat.inference.surprise import LEVELS, Scored, page, scored, word_starts
from hat.text.splitters import make_splitter
from hat.text.tokenizers import ByteTokenizer, train_bpe
from tests.inference.helpers import hat_config, llama_config
from tests.inference.test_run import write_run

SPLITTER = make_splitter("words")


class Reader(HTMLParser):
    """What a browser would show as text, word by word, and that the tags nest."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.levels: list[tuple[int, str]] = []
        self.names: list[str] = []

    def handle_starttag(self, tag, attributes):
        assert tag not in ("script", "link", "img", "iframe", "a", "form")
        kind = dict(attributes).get("class", "")
        assert not {"src", "href", "style"} & dict(attributes).keys()
        if tag not in ("meta",):
            self.open.append((tag, kind))
        if kind == "w":
            self.words.append("")

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, text):
        kinds = [kind for _, kind in self.open]
        if "text" in kinds and kinds[-1] != "text":
            self.words[-1] += text
            level = next(int(kind[1:]) for kind in kinds if re.fullmatch("s[0-9]", kind))
            self.levels.append((level, text))
        if self.open and self.open[-1][0] == "h2":
            self.names.append(text)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def shown(data: bytes) -> str:
    """What a person reads of these bytes: UTF-8, what is none as \\xNN, what is unseen by a sign."""
    text = data.decode("utf-8", "surrogateescape")
    parts = []
    for character in text:
        if "\udc80" <= character <= "\udcff":
            parts.append(f"\\x{ord(character) - 0xDC00:02x}")
        elif character in "\n\t":
            parts.append({"\n": "↵\n", "\t": "→\t"}[character])
        else:
            seen = character.isprintable() or character == " "
            parts.append(character if seen else ascii(character)[1:-1])
    return "".join(parts)


FRAGMENTS = ["<script>alert(1)</script>", "&amp;", '"', "'", "</div>", "\n", "\t", "\r\n", "世界",
             "é", "👨‍👩‍👧", " a b", "\x00", "\u2028", "\u202e"]  # fmt: skip
documents = st.one_of(
    st.binary(min_size=1, max_size=24),
    st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=8).map(lambda x: "".join(x).encode()),
)


@settings(max_examples=150)
@given(data=documents, seed=st.integers(0, 99))
def test_all_of_a_text_is_shown_and_nothing_else(data, seed):
    bits = np.random.default_rng(seed).exponential(3.0, len(data))
    starts = word_starts(SPLITTER, data)
    document = Scored("<b>&\"'", data, bits, 1.5, starts)
    text = page("<i>", "words", [document])
    assert text == page("<i>", "words", [document])
    reader = read(text)
    assert reader.names == ["<b>&\"'"]
    pieces = [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)])]
    assert reader.words == [shown(piece) for piece in pieces]  # boundaries are where words are
    assert f"{(bits.sum() + 1.5) / len(data):.4f} bits per byte" in text
    assert re.findall(r"https?:|url\(|@import", text) == []


def test_colours_are_those_of_the_bits_of_characters():
    data = "aé字".encode()
    bits = np.array([0.3, 1.0, 1.5, 4.0, 4.0, 4.0])
    text = page("t", "words", [Scored("x", data, bits, 0.0, np.array([0]))])
    assert read(text).levels == [(1, "a"), (4, "é"), (9, "字")]
    assert [max(i for i, least in enumerate(LEVELS) if least <= cost) for cost in (0.3, 2.5, 12)] \
        == [1, 4, 9]
    cut = page("t", "words", [Scored("x", data, bits, 0.0, np.array([0, 2]))])
    assert read(cut).words == ["a\\xc3", "\\xa9字"]  # a boundary inside a character is visible


def test_tokens_share_their_bits_among_their_bytes():
    tokenizer = train_bpe([b"hello hello world"] * 3, 262)
    data = b"hello world"
    ids = tokenizer.encode(data)
    starts = word_starts(tokenizer, data)
    assert b"".join(tokenizer.token_bytes(i) for i in ids) == data
    assert starts.tolist() == [len(tokenizer.decode(ids[:i])) for i in range(len(ids))]
    nats = np.arange(1, len(ids) + 2, dtype=np.float32)
    document = scored("x", data, DocumentScore(nats, len(ids)), starts)
    assert document.bits.sum() * math.log(2) == pytest.approx(nats[:-1].sum())
    sums = np.add.reduceat(document.bits, starts) * math.log(2)
    np.testing.assert_allclose(sums, nats[:-1], rtol=1e-6)
    assert word_starts(ByteTokenizer(), data).tolist() == list(range(len(data)))


@pytest.mark.parametrize("config, data, unit", [
    (hat_config(), {}, "words"), (llama_config(), {"tokenizer": "bytes"}, "tokens")
])  # fmt: skip
def test_the_command(tmp_path, capsys, config, data, unit):
    write_run(tmp_path / "run", config, row_length=64, row_words=24, **data)
    files = [tmp_path / "a.txt", tmp_path / "<b>.txt"]
    texts = ["one <two>, three\n".encode(), b"\xff\x00 x"]
    for path, text in zip(files, texts):
        path.write_bytes(text)
    words = ["score", str(tmp_path / "run"), *map(str, files)]
    assert main([*words, "--html", str(tmp_path / "page.html"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert main(["evaluate", "bits-per-byte", *words[1:], "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert result["unit"] == unit and result["bits_per_byte"] == scores["bits_per_byte"]
    for file, text, other in zip(result["files"], texts, scores["files"]):
        assert file["bits_per_byte"] == other["bits_per_byte"]
        total = sum(file["word_logprobs"]) + file["end_logprob"]
        assert -total == pytest.approx(file["nats"], rel=1e-6)
        spans = file["word_bytes"]
        assert [text[a:b] for a, b in spans] and spans[0][0] == 0 and spans[-1][1] == len(text)
        assert len(spans) == file["words"] == len(file["word_logprobs"])
        assert len(file["byte_logprobs"]) == len(text)
        for (start, end), logprob in zip(spans, file["word_logprobs"]):
            assert sum(file["byte_logprobs"][start:end]) == pytest.approx(logprob, rel=1e-6)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert html.escape(str(files[1])) in text
    assert "one <two>, three" in "".join(read(text).words)  # as text, whatever the colours
    assert read(text).names == list(map(str, files))
    assert main([*words, "--html", str(tmp_path / "page.html")]) == 2
    assert "page.html is there already; add --overwrite" in capsys.readouterr().err
    assert main([*words, "--html", str(tmp_path / "page.html"), "--overwrite"]) == 0
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == text
