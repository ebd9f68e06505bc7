"""The template of conversations: what was said can be read back, whatever it was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.data.config import DataConfig
from hat.data.cutting import make_cutter
from hat.text.chat import ASSISTANT, Message, header, misplaced, prompt_ids
from hat.text.ids import BOS, EOT
from hat.text.rows import Packer, Row
from hat.text.tokenizers import train_bpe

HEADERS = [header(role) for role in ("system", "user", ASSISTANT)]
FRAGMENTS = [b"<|eot_id|>", b"<|start_header_id|>", b"\n\n", b"\n", b" a", b"\xc0", "世".encode()[:2]]
contents = st.lists(st.one_of(st.sampled_from(HEADERS + FRAGMENTS), st.binary(max_size=6)),
                    max_size=6).map(b"".join)  # fmt: skip


@st.composite
def conversations(draw) -> list[Message]:
    messages = [Message("system", draw(contents))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message("user", draw(contents)))
        messages.append(Message(ASSISTANT, draw(contents.filter(len))))
    return messages


def packed(cutter, messages) -> Row:
    (row,) = _rows(cutter, messages)
    return row


def _rows(cutter, messages):
    packer = Packer(4096, None, cutter.specials)
    return packer.add(cutter.cut_conversation(messages, "it")) + packer.finish()


def read_back(row: Row, eot: int, decode) -> list[Message]:
    """By the template's words alone: turns end with EOT, and the header is what they begin with."""
    ends = np.flatnonzero(row.ids == eot)
    assert ends[-1] == len(row.ids) - 1
    messages = []
    for start, end in zip([1, *(ends[:-1] + 1)], ends):
        text = decode(row.ids[start:end])
        opening, content = text.split(b"<|end_header_id|>\n\n", 1)
        assert opening.startswith(b"<|start_header_id|>")
        messages.append(Message(opening.removeprefix(b"<|start_header_id|>").decode(), content))
    return messages


def answers_of(row: Row, eot: int, decode) -> list[bytes]:
    ids = row.ids[row.answers]
    return [decode(part[:-1] if part[-1:] == [eot] else part)
            for part in np.split(ids, np.flatnonzero(ids == eot)[:-1] + 1)]  # fmt: skip


@pytest.fixture(scope="module")
def cutters():
    bpe = train_bpe([b"".join(HEADERS) + b"hello hello world, some text"] * 3, 290)
    byte = make_cutter(DataConfig(tokenizer="bytes", format="chat"))
    return [make_cutter(DataConfig(format="chat")), byte, type(byte)("bpe", tokenizer=bpe)]


@settings(max_examples=60)
@given(messages=conversations(), data=st.data())
def test_no_content_forges_a_turn(cutters, messages, data):
    cutter = data.draw(st.sampled_from(cutters))
    row = packed(cutter, messages)
    decode = (lambda ids: bytes(ids.tolist())) if cutter.tokenizer is None else cutter.tokenizer.decode
    eot = cutter.specials.eot
    assert read_back(row, eot, decode) == messages
    said = [message.content for message in messages if message.role == ASSISTANT]
    assert answers_of(row, eot, decode) == said
    assert int(row.answers.sum()) == int(np.isin(row.ids[row.answers], eot).sum()) + sum(
        len(cutter.cut(content, True, "").ids) for content in said
    )


@settings(max_examples=40)
@given(messages=conversations())
def test_turns_are_split_alone(cutters, messages):
    """Words and guides of a turn are those of its text by itself; EOT is a word, known at once."""
    cutter = cutters[0]
    row = packed(cutter, messages)
    begun = np.cumsum(row.starts)
    place = 1
    for message in messages:
        text = np.frombuffer(header(message.role) + message.content, np.uint8)
        starts, known = cutter.splitter.split(text)
        here = slice(place, place + len(text))
        np.testing.assert_array_equal(row.starts[here], starts)
        complete = begun[here] - row.lags[here]  # words known, those before the turn included
        np.testing.assert_array_equal(complete, begun[place - 1] + known)
        place += len(text)
        assert row.ids[place] == EOT and row.starts[place] and row.lags[place] == 0
        place += 1
    assert place == len(row.ids) and row.ids[0] == BOS


def test_what_is_read_to_answer_is_what_was_learned(cutters):
    messages = [Message("system", b"Be brief."), Message("user", b"hello"),
                Message(ASSISTANT, b"world"), Message("user", b"hello world")]  # fmt: skip
    for cutter in cutters:
        encode = list if cutter.tokenizer is None else cutter.tokenizer.encode
        row = packed(cutter, [*messages, Message(ASSISTANT, b"some text")])
        asked = prompt_ids(messages, encode, cutter.specials.eot)
        assert row.ids[1 : 1 + len(asked)].tolist() == list(map(int, asked))
        assert row.answers[1 + len(asked) :].all() and not row.answers[len(asked)]


@pytest.mark.parametrize("roles, wrong", [
    ("user assistant", ""),
    ("system user assistant user assistant", ""),
    ("system user", ""),
    ("", ""),
    ("assistant user", "message 1 is of 'assistant', where 'user' should speak"),
    ("user user assistant", "message 2 is of 'user', where 'assistant' should speak"),
    ("user system assistant", "message 2 is of 'system'"),
    ("system assistant", "message 2 is of 'assistant', where 'user' should speak"),
    ("system system user", "message 2 is of 'system', where 'user' should speak"),
])  # fmt: skip
def test_order(roles, wrong):
    found = misplaced(roles.split())
    assert found.startswith(wrong) and bool(found) == bool(wrong)
