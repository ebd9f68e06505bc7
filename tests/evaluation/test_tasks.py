"""Task files: every format, and every mistake as one line with its place."""

from __future__ import annotations

import json

import pytest

from hat.errors import UserError
from hat.evaluation.tasks import Item, read_task, read_tasks


def write(path, *lines):
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n")
    return path


@pytest.mark.parametrize("fields, kind, item", [
    ({"query": "She ran, because", "choices": ["she was late.", "it was."], "gold": 1, "x": 3},
     "choices", Item("1", (b"She ran, because",), (b" she was late.", b" it was."), 1)),
    ({"ind": 4, "query": "Roof: ", "label": 0, "choices": ["a", "b", "c"]},
     "choices", Item("1", (b"Roof: ",), (b"a", b"b", b"c"), 0)),
    ({"query": "Question: x?", "choices": ["y", "z"], "gold": 0, "delimiter": "\nAnswer: "},
     "choices", Item("1", (b"Question: x?",), (b"\nAnswer: y", b"\nAnswer: z"), 0)),
    ({"context_options": ["the cup", "the bag "], "continuation": "is full.", "gold": 1},
     "choices", Item("1", (b"the cup", b"the bag "), (b" is full.", b"is full."), 1)),
    ({"sentence_good": "She did.", "sentence_bad": "She do.", "UID": "x"},
     "choices", Item("1", (b"",), (b"She did.", b"She do."), 0)),
    ({"context": "I don't care about", "continuation": "signs"},
     "continuation", Item("1", (b"I don't care about",), (b" signs",))),
    ({"context": "", "continuation": "Größe"},
     "continuation", Item("1", (b"",), ("Größe".encode(),))),
    ({"prompt": "2+2=", "answer": "4"}, "generation", Item("1", (b"2+2=",), (b"4",))),
    ({"prompt": "Spell", "answers": ["a", "b"], "stop": "\""},
     "generation", Item("1", (b"Spell",), (b"a", b"b"), stop=b"\"")),
    ({"context": "Question: x?", "continuation": "y", "protect": ["Question", "Größe"]},
     "continuation", Item("1", (b"Question: x?",), (b" y",), protect=("Question", "Größe"))),
])
def test_every_format(tmp_path, fields, kind, item):
    task = read_task(write(tmp_path / "copa.jsonl", fields))
    assert (task.name, task.kind, task.items) == ("copa", kind, (item,))


def test_protected_words_are_texts(tmp_path):
    item = {"context": "a", "continuation": "b", "protect": "Question"}
    with pytest.raises(UserError, match='t.jsonl:1: protect is "Question"; give a list of texts'):
        read_task(write(tmp_path / "t.jsonl", item))


def test_pairs_chance_and_fingerprint(tmp_path):
    first = {"query": "a", "choices": ["b", "c"], "gold": 0}
    second = {"context_options": ["d", "e", "f", "g"], "continuation": "h", "gold": 3}
    task = read_task(write(tmp_path / "x.jsonl", first, "", second))
    assert [item.id for item in task.items] == ["1", "3"]
    assert task.items[0].pairs() == [(b"a", b" b"), (b"a", b" c")]
    assert task.items[1].pairs() == [(c, b" h") for c in (b"d", b"e", b"f", b"g")]
    assert task.chance == (1 / 2 + 1 / 4) / 2
    assert read_task(tmp_path / "x.jsonl", limit=1).items == task.items[:1]
    same = read_task(write(tmp_path / "y.jsonl", first, "", second))
    assert same.fingerprint == task.fingerprint
    for change in ({"query": "aa"}, {"gold": 1}, {"choices": ["b", "d"]}):
        other = read_task(write(tmp_path / "z.jsonl", first | change, "", second))
        assert other.fingerprint != task.fingerprint
    assert read_task(tmp_path / "x.jsonl", limit=1).fingerprint != task.fingerprint


GOOD = {"query": "a", "choices": ["b"], "gold": 0}


@pytest.mark.parametrize("line, message", [
    ("{", "t.jsonl:2 is no JSON"),
    ("[1]", "t.jsonl:2 is no JSON object"),
    ({}, "t.jsonl:2 has the fields (none), and no task has"),
    ({"text": "x"}, "t.jsonl:2 has the fields text, and no task has"),
    ({"choices": ["b"], "gold": 0}, "t.jsonl:2 has no context or query or prompt"),
    ({"query": "a", "choices": [], "gold": 0}, "t.jsonl:2: choices is empty; give a list of texts"),
    ({"query": "a", "choices": "b", "gold": 0}, 't.jsonl:2: choices is "b"; give a list'),
    ({"query": "a", "choices": ["b", ""], "gold": 0}, "t.jsonl:2: choices[1] is empty"),
    ({"query": "a", "choices": ["b"]}, "t.jsonl:2 has no gold or label"),
    ({"query": "a", "choices": ["b"], "gold": 1}, "gold is 1; give the number of one of the 1"),
    ({"query": "a", "choices": ["b"], "gold": "0"}, 'gold is "0"; give the number'),
    ({"query": "a", "choices": ["b"], "gold": True}, "gold is true; give the number"),
    ({"query": 5, "choices": ["b"], "gold": 0}, "t.jsonl:2: query is 5; give a text"),
    ({"context": "a", "continuation": ""}, "t.jsonl:2: continuation is empty; give a text"),
    ({"sentence_good": "a"}, "t.jsonl:2 has no sentence_bad"),
    ({"context_options": [], "continuation": "a", "gold": 0}, "context_options is empty"),
    ({"query": "\ud800", "choices": ["b"], "gold": 0}, "query holds half of a surrogate pair"),
    ({"context": "a", "continuation": "b"}, "is a continuation item, and the lines before are cho"),
])
def test_a_mistake_is_one_line_with_its_place(tmp_path, line, message):
    with pytest.raises(UserError) as error:
        read_task(write(tmp_path / "t.jsonl", GOOD, line))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_no_tasks(tmp_path):
    with pytest.raises(UserError, match="none.jsonl: No such file"):
        read_task(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="holds no item"):
        read_task(write(tmp_path / "empty.jsonl", ""))
    (tmp_path / "latin.jsonl").write_bytes(b'{"query": "\xe4"}')
    with pytest.raises(UserError, match="latin.jsonl is not UTF-8"):
        read_task(tmp_path / "latin.jsonl")
    (tmp_path / "a").mkdir()
    paths = [write(folder / "t.jsonl", GOOD) for folder in (tmp_path, tmp_path / "a")]
    with pytest.raises(UserError, match="two task files are called t"):
        read_tasks(paths)
