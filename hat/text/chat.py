"""Conversations as ids: one template for every model that reads bytes or spells them.

    BOS <|start_header_id|>user<|end_header_id|>⏎⏎Hello!   EOT
        <|start_header_id|>assistant<|end_header_id|>⏎⏎Hi. EOT

A header is ordinary bytes, those of Llama 3, which the released models read too (arXiv
2603.15953). What ends a turn is the id EOT, and no byte is that id. So a content may hold any
bytes, headers among them: a turn begins after BOS or EOT and nowhere else, and no content can end
its own turn or begin another.

The answers are the contents of the assistant with the EOT after them; they alone are learned. A
splitter reads header and content as one text, and begins anew after EOT; a tokenizer spells them
apart, so that an answer has the same tokens whether it is read or written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from hat.text.rows import Units

ASSISTANT = "assistant"
ROLES = ("system", "user", ASSISTANT)


class Message(NamedTuple):
    """role: one of ROLES; content: any bytes."""

    role: str
    content: bytes


def header(role: str) -> bytes:
    """What opens a turn."""
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n".encode()


def misplaced(roles: Sequence[str]) -> str:
    """What is wrong with the order of the roles, or nothing.

    A system message or none, then a user and the assistant by turns.
    """
    opening = int(bool(roles) and roles[0] == "system")
    for index, role in enumerate(roles[opening:]):
        wanted = ("user", ASSISTANT)[index % 2]
        if role != wanted:
            return f"message {opening + index + 1} is of {role!r}, where {wanted!r} should speak"
    return ""


def prompt_ids(
    messages: Iterable[Message], encode: Callable[[bytes], Sequence[int]], eot: int
) -> list[int]:
    """What a model reads after BOS to answer these messages: their turns, each with its EOT, and
    the header of the assistant. encode: the ids of bytes."""
    ids: list[int] = []
    for message in messages:
        ids += [*encode(header(message.role)), *encode(message.content), eot]
    return [*ids, *encode(header(ASSISTANT))]


def join_turns(turns: Sequence[Units], eot: int, name: str) -> Units:
    """The units of a conversation from those of its turns, all with answers: an EOT, which is a
    word of its own, follows each but the last, which the packer ends."""
    has_words = turns[0].starts is not None
    arrays: list[tuple[np.ndarray, ...]] = []
    for number, turn in enumerate(turns):
        if number:
            end = [[eot], [turns[number - 1].answers[-1]], [True], [0]]
            arrays.append(tuple(map(np.array, end)))
        arrays.append((turn.ids, turn.answers, turn.starts, turn.lags))
    ids, answers, *words = zip(*arrays)
    starts, lags = map(np.concatenate, words) if has_words else (None, None)
    ids = np.concatenate(ids).astype(np.int32)
    lags = lags.astype(np.int32) if has_words else None
    return Units(ids, starts, lags, name=name, answers=np.concatenate(answers))
