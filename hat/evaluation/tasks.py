"""Test items from JSONL files: one JSON object a line, all lines of a file of one format.

    {"query": "The girl ran, because", "choices": ["she was late.", "it was blue."], "gold": 0}
    {"context_options": ["... because the cup", "... because the bag"],
     "continuation": "is too large.", "gold": 0}
    {"sentence_good": "She hurt herself.", "sentence_bad": "She hurt themselves."}
    {"context": "I don't care about", "continuation": "signs"}
    {"prompt": "Spell the word \\"cat\\".\\nAnswer:", "answers": ["c a t"]}

The first three are choices: `gold` counts from 0, and may be called `label`; `query` and `context`
are the same. The fourth is a continuation: scored, and right as a cloze where it is the likeliest
of all. The last is generated, up to `stop` (a newline unless given), and right where it equals one
of `answers`, white space around it aside; `answer` may hold a single one. `protect`, of any format,
is a list of words that noise leaves as they are, in any case: ["Question", "Answer"], say. Other
fields are ignored.

A continuation or choice is set apart from its context by `delimiter`: a space unless given, and
nothing where there is no context or one of the two has white space there. It is part of the
continuation.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hat.errors import UserError

KINDS = ("choices", "continuation", "generation")
_CONTEXT_NAMES = ("context", "query", "prompt")
_GOLD_NAMES = ("gold", "label", "answer")


@dataclasses.dataclass(frozen=True)
class Item:
    """contexts: one for all continuations, or one for each. continuations: the choices, the one
    continuation, or the answers that count as right. gold: the right one, 0 without choices.
    stop: where a generated answer ends. protect: words that noise leaves alone. id:
    unique in its task."""

    id: str
    contexts: tuple[bytes, ...]
    continuations: tuple[bytes, ...]
    gold: int = 0
    stop: bytes = b"\n"
    protect: tuple[str, ...] = ()

    def pairs(self) -> list[tuple[bytes, bytes]]:
        """Every continuation with its context."""
        return pair(self.contexts, self.continuations)


@dataclasses.dataclass(frozen=True)
class Task:
    """Items of one kind (KINDS), from one file."""

    name: str
    kind: str
    items: tuple[Item, ...]

    @property
    def chance(self) -> float:
        """The accuracy of guessing; NaN without choices."""
        if self.kind != "choices":
            return math.nan
        return sum(1 / len(item.continuations) for item in self.items) / len(self.items)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the kind and all items in order: what a comparison of two models must agree in."""
        digest = hashlib.blake2b(self.kind.encode(), digest_size=16)
        for item in self.items:
            digest.update(repr(dataclasses.astuple(item)).encode())
        return digest.hexdigest()


def pair(contexts: Sequence[Any], continuations: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Every continuation with its context, where there is one context for all or one for each."""
    if len(contexts) == 1:
        contexts = list(contexts) * len(continuations)
    return list(zip(contexts, continuations, strict=True))


def read_tasks(paths: Sequence[Path], limit: int | None = None) -> list[Task]:
    """The task of each file, named by its stem. UserError: as `read_task`; two of one name."""
    tasks = [read_task(path, limit) for path in paths]
    names = [task.name for task in tasks]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(f"two task files are called {twice.pop()}; rename one")
    return tasks


def read_task(path: Path, limit: int | None = None) -> Task:
    """The items of a file, or its first `limit`; empty lines are skipped. UserError, with file and
    line: no such file, no item, a line that is no JSON object, a missing or empty field, a `gold`
    that is none of the choices, a format unlike the line's before."""
    kind, items = "", []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip() and (limit is None or len(items) < limit):
                    its_kind, item = _read_item(line, f"{path}:{number}", str(number))
                    kind = kind or its_kind
                    if its_kind != kind:
                        raise UserError(f"{path}:{number} is a {its_kind} item, and the lines "
                                        f"before are {kind}; split the file")
                    items.append(item)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a JSONL file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); convert the file") from None
    if not items:
        raise UserError(f"{path} holds no item; give one JSON object a line")
    return Task(path.stem, kind, tuple(items))


def _read_item(line: str, where: str, id: str) -> tuple[str, Item]:
    """The kind of the item, and itself."""
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise UserError(f"{where} is no JSON object; give fields such as context, continuation")
    read = _Fields(fields, where)
    kind, item = _read_format(fields, read, where, id)
    if "protect" in fields:
        words = tuple(word.decode() for word in read.texts("protect"))
        item = dataclasses.replace(item, protect=words)
    return kind, item


def _read_format(fields, read: _Fields, where: str, id: str) -> tuple[str, Item]:
    if "sentence_good" in fields or "sentence_bad" in fields:
        sentences = (read.text("sentence_good"), read.text("sentence_bad"))
        return "choices", Item(id, (b"",), sentences)
    if "choices" in fields:
        context = read.text(*_CONTEXT_NAMES, may_be_empty=True)
        choices = tuple(read.join(context, choice) for choice in read.texts("choices"))
        return "choices", Item(id, (context,), choices, read.gold(len(choices)))
    if "context_options" in fields:
        contexts, continuation = read.texts("context_options"), read.text("continuation")
        choices = tuple(read.join(context, continuation) for context in contexts)
        return "choices", Item(id, contexts, choices, read.gold(len(choices)))
    if "continuation" in fields:
        context = read.text(*_CONTEXT_NAMES, may_be_empty=True)
        continuation = read.join(context, read.text("continuation"))
        return "continuation", Item(id, (context,), (continuation,))
    if "answers" in fields or "answer" in fields:
        answers = read.texts("answers") if "answers" in fields else (read.text("answer"),)
        stop = read.text("stop") if "stop" in fields else b"\n"
        return "generation", Item(id, (read.text(*_CONTEXT_NAMES),), answers, stop=stop)
    raise UserError(
        f"{where} has the fields {', '.join(sorted(fields)) or '(none)'}, and no task has: give "
        "choices, context_options, continuation, answers, or sentence_good and sentence_bad"
    )


class _Fields:
    """The fields of one line, read with complaints that say where."""

    def __init__(self, fields: dict[str, Any], where: str):
        self._fields, self._where = fields, where

    def text(self, *names: str, may_be_empty: bool = False) -> bytes:
        """The text under the first of the names that is there."""
        name = next((name for name in names if name in self._fields), None)
        if name is None:
            raise UserError(f"{self._where} has no {' or '.join(names)}; every item needs one")
        return self._bytes(name, self._fields[name], may_be_empty)

    def texts(self, name: str) -> tuple[bytes, ...]:
        values = self._fields[name]
        if not isinstance(values, list) or not values:
            raise UserError(f"{self._where}: {name} is {_shown(values)}; give a list of texts")
        return tuple(self._bytes(f"{name}[{i}]", value, False) for i, value in enumerate(values))

    def gold(self, count: int) -> int:
        name = next((name for name in _GOLD_NAMES if name in self._fields), None)
        if name is None:
            raise UserError(f"{self._where} has no gold or label; give the number of the right "
                            "choice, from 0")
        gold = self._fields[name]
        if type(gold) is not int or not 0 <= gold < count:
            raise UserError(f"{self._where}: {name} is {_shown(gold)}; give the number of one of "
                            f"the {count} choices, from 0")
        return gold

    def join(self, context: bytes, continuation: bytes) -> bytes:
        """The continuation, with what sets it apart from the context before it."""
        if "delimiter" in self._fields:
            return self._bytes("delimiter", self._fields["delimiter"], True) + continuation
        apart = not context or context[-1:].isspace() or continuation[:1].isspace()
        return continuation if apart else b" " + continuation

    def _bytes(self, name: str, value: Any, may_be_empty: bool) -> bytes:
        if not isinstance(value, str) or not (value or may_be_empty):
            raise UserError(f"{self._where}: {name} is {_shown(value)}; give a text")
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise UserError(f"{self._where}: {name} holds half of a surrogate pair, which is no "
                            "text; mend the line") from None


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return "empty" if value in ("", []) else text if len(text) <= 40 else f"{text[:36]} ..."
