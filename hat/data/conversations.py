"""Conversations and preference pairs out of JSONL, as documents that a preparation carries.

    {"messages": [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hi."}]}
    {"prompt": "Hello!", "chosen": "Hi. What is it?", "rejected": "Go away."}

A prompt may also be messages that end with the user's, and an answer a list with the one message
of the assistant. A document is bytes everywhere in hat.data: here the JSON of what counts, in one
spelling, so that equal conversations are equal bytes.
"""

from __future__ import annotations

import json
from typing import Any

from hat.data.readers import Unusable
from hat.text.chat import ASSISTANT, ROLES, Message, header, misplaced

Pair = tuple[list[Message], list[Message]]  # the conversation with the chosen answer; the rejected


def conversation_document(line: dict[str, Any]) -> bytes:
    """The document of a line of conversations. Unusable where it is none."""
    if "messages" not in line:
        raise Unusable("lines without 'messages'", _only(line, "messages"))
    messages = _messages(line["messages"])
    if not messages or messages[-1][0] != ASSISTANT:
        raise Unusable("conversations out of order", "the last message is not the assistant's")
    return _encoded(messages)


def pair_document(line: dict[str, Any]) -> bytes:
    """The document of a line of preference pairs. Unusable where it is none."""
    for name in ("prompt", "chosen", "rejected"):
        if name not in line:
            raise Unusable(f"lines without {name!r}", _only(line, name))
    prompt = line["prompt"]
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    messages = _messages(prompt)
    if not messages or messages[-1][0] != "user":
        raise Unusable("conversations out of order", "the prompt does not end with the user")
    answers = [_answer(line[name], name) for name in ("chosen", "rejected")]
    if answers[0] == answers[1]:
        raise Unusable("pairs of equal answers", "'chosen' and 'rejected' are equal")
    return _encoded([messages, *answers])


DOCUMENTS = {"chat": conversation_document, "preference": pair_document}  # by data.format


def read_conversation(document: bytes) -> list[Message]:
    return _read(json.loads(document))


def read_pair(document: bytes) -> Pair:
    prompt, *answers = json.loads(document)
    chosen, rejected = (_read([*prompt, (ASSISTANT, answer)]) for answer in answers)
    return chosen, rejected


def conversation_texts(document: bytes, format: str) -> list[bytes]:
    """What a tokenizer may learn from a document of this format: its turns, the prompt once."""
    if format == "chat":
        messages = read_conversation(document)
    else:
        chosen, rejected = read_pair(document)
        messages = [*chosen, rejected[-1]]
    return [header(message.role) + message.content for message in messages]


def _read(messages: list) -> list[Message]:
    return [Message(role, content.encode()) for role, content in messages]


def _messages(value: Any) -> list[tuple[str, str]]:
    """(role, content) of each message, in an order that can be."""
    if not isinstance(value, list):
        found = type(value).__name__
        raise Unusable("damaged messages", f"messages are a list, not a {found}")
    messages = [_message(number, item) for number, item in enumerate(value, start=1)]
    if fault := misplaced([role for role, _ in messages]):
        raise Unusable("conversations out of order", fault)
    return messages


def _message(number: int, item: Any) -> tuple[str, str]:
    damaged = "damaged messages"
    if not isinstance(item, dict):
        raise Unusable(damaged, f"message {number} is no object but a {type(item).__name__}")
    for name in ("role", "content"):
        if name not in item:
            raise Unusable(damaged, f"message {number} has no {name!r}")
        if not isinstance(item[name], str):
            raise Unusable(damaged, f"the {name} of message {number} is no string")
    role, content = item["role"], item["content"]
    if role not in ROLES:
        raise Unusable(damaged, f"message {number} is of {role!r}, not one of {', '.join(ROLES)}")
    if role == ASSISTANT and not content:
        raise Unusable("empty answers", f"message {number}, an answer, is empty")
    return role, content


def _answer(value: Any, name: str) -> str:
    if isinstance(value, list) and len(value) == 1:
        role, value = _message(1, value[0])
        if role != ASSISTANT:
            raise Unusable("damaged answers", f"the message of {name!r} is of {role!r}")
    if not isinstance(value, str):
        raise Unusable("damaged answers", f"{name!r} is neither text nor one message")
    if not value:
        raise Unusable("empty answers", f"{name!r} is empty")
    return value


def _only(line: dict[str, Any], name: str) -> str:
    return f"no field {name!r}, only {', '.join(line)[:80] or 'none at all'}"


def _encoded(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise Unusable("lines that are not Unicode", "it holds half a surrogate pair") from None
