"""Rows beside another vocabulary's tokens, against offsets counted byte by byte."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.text.alignment import WHITE_SPACE, SortedVocabulary, TokenView
from hat.text.ids import BOS, EOT, PAD
from hat.text.rows import Packer, Specials, expand_words, word_units
from hat.text.splitters import make_splitter
from hat.text.tokenizers import train_bpe

LENGTH, WORDS = 48, 24
TEXT = b"the cat sat on the mat, then the hat of the cat was that of the rat.\nthe end\n" * 4


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe([TEXT], 280)


def rows_of(documents: list[bytes]) -> dict[str, np.ndarray]:
    splitter, packer = make_splitter("words:8"), Packer(LENGTH, WORDS, Specials(BOS, EOT, PAD))
    rows = []
    for document in documents:
        data = np.frombuffer(document, np.uint8)
        rows += packer.add(word_units(data, splitter.split(data)))
    expanded = [expand_words(row, LENGTH, WORDS) for row in rows + packer.finish()]
    expanded.append({name: np.zeros_like(row) for name, row in expanded[0].items()})  # padding
    return {name: np.stack([row[name] for row in expanded]) for name in expanded[0]}


def expected_row(ids, segment, word, tokenizer, eot, room):
    """What `align` promises, one id after the other."""
    tokens, owner, of_segment = [], [], []  # ids of tokens; per id of the row, its token
    spans, closing, segments = {}, [], {}
    for number in range(1, segment.max(initial=0) + 1):
        begin = len(tokens)
        content = ids[segment == number][1:].tolist()
        text = bytes(i for i in content if i < 256)
        found = tokenizer.encode(text).tolist()
        tokens += [tokenizer.bos, *found, *[eot] * (EOT in content)]
        owner.append(begin)
        for offset, token in enumerate(found):
            owner += [begin + 1 + offset] * len(tokenizer.token_bytes(token))
        owner += [len(tokens) - 1] * (EOT in content)
        segments.update({i: number for i in range(begin, len(tokens))})
        # Spans: runs of tokens from one that white space opens to before the next.
        runs = []
        for i in range(begin + 1, len(tokens)):
            first = tokenizer.token_bytes(tokens[i])[:1]
            ends_text = EOT in content and i == len(tokens) - 1
            opens = i == begin + 1 or ends_text or first in [bytes([w]) for w in WHITE_SPACE]
            runs += [[i]] if opens else []
            runs[-1] += [] if opens else [i]
        for position, run in enumerate(runs):
            is_end = EOT in content and run[0] == len(tokens) - 1
            last = runs[position + 1][0] if position + 1 < len(runs) else None
            opened_by_space = last is not None and (
                tokenizer.token_bytes(tokens[last])[:1] in [bytes([w]) for w in WHITE_SPACE]
                or (EOT in content and last == len(tokens) - 1)
            )
            if run[-1] < room and (is_end or opened_by_space):
                spans.update({i: run[0] for i in run})
                closing += [] if is_end else [run[-1]]
        of_segment.append(len(tokens) - begin)
    owner = [i if i < room else room for i in owner]
    word_token = {}
    for t, token in enumerate(owner):
        ends_token = t + 1 == len(owner) or owner[t + 1] != token
        ends_word = t + 1 == len(ids) or word[t + 1] != word[t]
        if ends_token and ends_word and token < room and ids[t] != EOT:
            word_token[int(word[t])] = token
    return tokens, owner, word_token, spans, closing, segments


@settings(max_examples=40)
@given(
    documents=st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.lists(st.sampled_from([b"the", b" cat", b"\n", b" ", b", hat", "é".encode()]),
                     max_size=20).map(b"".join),
        ),
        min_size=1, max_size=4,
    ),
    bytes_per_token=st.sampled_from([1.0, 2.5]),
)  # fmt: skip
def test_alignment_is_that_of_the_bytes(tokenizer, documents, bytes_per_token):
    batch = rows_of(documents)
    eot = tokenizer.eot
    found = TokenView(tokenizer, eot, bytes_per_token)(batch)
    room = found["teacher_tokens"].shape[1]
    assert room == int(np.ceil(LENGTH / bytes_per_token))
    for r in range(len(batch["bytes"])):
        row = {name: values[r] for name, values in found.items()}
        tokens, owner, word_token, spans, closing, segments = expected_row(
            batch["bytes"][r], batch["segment"][r], batch["word"][r], tokenizer, eot, room
        )
        kept = min(len(tokens), room)
        assert row["teacher_tokens"][:kept].tolist() == tokens[:kept]
        assert row["teacher_segment"].tolist() == [segments.get(i, 0) if i < kept else 0
                                                   for i in range(room)]
        assert row["token"].tolist() == owner + [room] * (LENGTH - len(owner))
        assert {n: m for n, m in enumerate(row["word_token"].tolist()) if m < room} == word_token
        # Spans by the token that opens them, whatever their numbers are.
        number = row["token_span"]
        assert {i: int(np.flatnonzero(number == number[i])[0]) for i in range(room)
                if number[i] < room} == spans
        assert np.flatnonzero(row["token_closed"]).tolist() == closing
        for t, token in enumerate(owner):
            assert row["span"][t] == (number[token] if token < room else room)
            ends = t + 1 == len(owner) or owner[t + 1] != token
            assert row["closed"][t] == (ends and token in closing)


def test_ranges_hold_the_tokens_that_go_on(tokenizer):
    view = SortedVocabulary(tokenizer, tokenizer.eot)
    order, table = view.continuations
    tokens = [tokenizer.bos, *tokenizer.encode(b"the cat\xff\xff"), tokenizer.eot]
    width = [1, *(len(tokenizer.token_bytes(t)) for t in tokens[1:-1]), 1]
    places = view.locate([np.array(tokens)], sum(width) + 2)
    at = 0
    for token, size in zip(tokens, width):
        text = tokenizer.token_bytes(token)
        for depth in range(size):
            low, high = places["low"][at], places["high"][at]
            going_on = {
                i for i in range(tokenizer.vocab_size)
                if tokenizer.token_bytes(i)[:depth] == text[:depth]
                and len(tokenizer.token_bytes(i)) > depth
            } | ({tokenizer.eot} if depth == 0 else set())
            if at == 0:  # BOS
                going_on = set()
            assert places["depth"][at] == depth and set(order[low:high].tolist()) == going_on
            for column in range(low, high):
                piece = tokenizer.token_bytes(order[column])
                assert table[depth, column] == (piece[depth] if piece else 256)
            # Those that begin with its own byte too, over or not.
            low, high = places["own_low"][at], places["own_high"][at]
            begun = {
                i for i in range(tokenizer.vocab_size)
                if text and tokenizer.token_bytes(i)[: depth + 1] == text[: depth + 1]
            }
            assert set(order[low:high].tolist()) == begun
            for column in range(low, high):
                rest = tokenizer.token_bytes(order[column])[depth + 1 :]
                assert table[depth + 1, column] == (rest[0] if rest else 257)
            at += 1
    assert not places["high"][at:].any() and not places["own_high"][at:].any()
