from __future__ import annotations

import dataclasses
import json
import sys
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hat.config import differences, dump, from_dict, load, override, to_dict
from hat.errors import UserError


@dataclasses.dataclass(frozen=True)
class Part:
    name: str
    multiplier: float = 1.0


@dataclasses.dataclass(frozen=True)
class Stack:
    num_layers: int = 2
    hidden_size: int = 64
    num_heads: int = 4
    remat: Literal["none", "dots", "full"] = "none"
    soft_cap: float | None = None

    def __post_init__(self):
        if self.hidden_size % self.num_heads:
            raise UserError(
                f"hidden_size {self.hidden_size} is no multiple of num_heads {self.num_heads}"
            )


@dataclasses.dataclass(frozen=True)
class Hat:
    encoder: Stack = Stack()
    guide: Literal["causal", "released"] = "causal"
    window: int = 32


@dataclasses.dataclass(frozen=True)
class Llama:
    stack: Stack = Stack()
    vocab_size: int = 4096


@dataclasses.dataclass(frozen=True)
class Experiment:
    name: str
    model: Hat | Llama = Hat()
    learning_rate: float = 1e-3
    shuffle: bool = True
    tokenizer: str | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    suffixes: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    rescue: Stack | None = None
    size: int | str = "auto"


CLASSES = (Experiment, Hat, Llama, Stack, Part)
BASE = Experiment("base", parts=(Part("encoder"), Part("head", 2.0)))


def error_of(function, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- load -------------------------------------------------------------------------------------

CONFIG_FILE = """\
import dataclasses

@dataclasses.dataclass(frozen=True)
class Tiny:
    steps: int = 3

def config():
    return Tiny(steps=5)
"""


def write(tmp_path, text: str, name: str = "tiny.py"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_load_returns_the_config_and_leaves_no_cache_behind(tmp_path):
    path = write(tmp_path, CONFIG_FILE)
    assert dump(load(path)) == "kind = Tiny\nsteps = 5\n"
    assert override(load(str(path)), ["steps=7"]).steps == 7
    assert list(tmp_path.iterdir()) == [path]


def test_a_config_may_derive_from_its_neighbour(tmp_path):
    write(tmp_path, CONFIG_FILE)
    derived = write(tmp_path, "\n".join([
        "import dataclasses",
        "from pathlib import Path",
        "from hat.config import load",
        "def config():",
        "    return dataclasses.replace(load(Path(__file__).with_name('tiny.py')), steps=9)",
    ]), "derived.py")
    assert load(derived).steps == 9


@pytest.mark.parametrize("text, expected", [
    ("x = 1\n", "has no function config()"),
    ("config = 3\n", "has no function config()"),
    ("def config():\n    return 3\n", "config() returned int"),
    ("import dataclasses\n@dataclasses.dataclass\nclass A:\n    b: int = 1\n"
     "def config():\n    return A()\n", "config() returned A; return a frozen dataclass"),
    ("def config():\n    return (\n", "{path}:2: "),
    ("def config():\n    x = 1\n    return x / 0\n", "{path}:3: ZeroDivisionError: "),
    ("import no_such_module_at_all\n", "{path}:1: ModuleNotFoundError: "),
    ("from hat.errors import UserError\ndef config():\n    raise UserError('steps is 0')\n",
     "{path}:3: steps is 0"),
])
def test_a_broken_config_file_names_file_and_line(tmp_path, text, expected):
    path = write(tmp_path, text)
    assert expected.format(path=path) in error_of(load, path)


def test_a_missing_config_file(tmp_path):
    message = error_of(load, tmp_path / "none.py")
    assert "none.py: No such file" in message and "configs/quickstart.py" in message


# --- override ---------------------------------------------------------------------------------


@pytest.mark.parametrize("assignment, path, value", [
    ("name=other", "name", "other"),
    ("name=123", "name", "123"),
    ("name='a b'", "name", "a b"),
    ("name=none", "name", "none"),
    ("name=a=b", "name", "a=b"),
    ("learning_rate=3e-4", "learning_rate", 3e-4),
    ("learning_rate=1", "learning_rate", 1.0),
    ("learning_rate = 2", "learning_rate", 2.0),
    ("shuffle=false", "shuffle", False),
    ("shuffle=True", "shuffle", True),
    ("tokenizer=none", "tokenizer", None),
    ("tokenizer=bpe:4096", "tokenizer", "bpe:4096"),
    ("tokenizer=/any/folder", "tokenizer", "/any/folder"),
    ("betas=0.8,1", "betas", (0.8, 1.0)),
    ("betas=(0.8, 0.9)", "betas", (0.8, 0.9)),
    ("suffixes=.py,.md", "suffixes", (".py", ".md")),
    ("suffixes=.py", "suffixes", (".py",)),
    ("suffixes=()", "suffixes", ()),
    ("size=12", "size", 12),
    ("size=big", "size", "big"),
    ("model.window=1_000", "model.window", 1000),
    ("model.guide=released", "model.guide", "released"),
    ("model.encoder.remat=none", "model.encoder.remat", "none"),
    ("model.encoder.soft_cap=30", "model.encoder.soft_cap", 30.0),
    ("rescue=none", "rescue", None),
    ("parts.1.multiplier=0.5", "parts.1.multiplier", 0.5),
])
def test_override_sets_one_field_and_no_other(assignment, path, value):
    changed = override(BASE, [assignment])
    found = changed
    for name in path.split("."):
        found = found[int(name)] if name.isdigit() else getattr(found, name)
    assert found == value and type(found) is type(value)
    others = [line for line in differences(BASE, changed) if not line.startswith(f"{path}: ")]
    assert others == []


@pytest.mark.parametrize("assignment, expected", [
    ("learning_rat=1", "no field learning_rat; did you mean learning_rate? Fields: name, model"),
    ("model.encoder.layers=1", "model.encoder has no field layers"),
    ("model.encoder.layers=1", "did you mean num_layers?"),
    ("model.vocab_size=1", "model has no field vocab_size"),
    ("model.window=2.0", "model.window=2.0: expected int"),
    ("model.window=true", "expected int"),
    ("model.window=", "expected int"),
    ("shuffle=1", "expected bool"),
    ("learning_rate=fast", "expected float"),
    ("learning_rate=true", "expected float"),
    ("model.encoder.soft_cap=x", "expected float or none"),
    ("model.guide=release", "expected one of causal, released; did you mean released?"),
    ("betas=1,2,3", "expected tuple[float, float]"),
    ("betas=0.9", "expected tuple[float, float]"),
    ("model=Llama", "model is a group of fields"),
    ("parts.2.multiplier=1", "parts has no field 2"),
    ("parts.0=1", "parts.0 is a group of fields"),
    ("rescue.num_layers=1", "rescue is None, which has no fields"),
    ("name.first=x", "name is 'base', which has no fields"),
    ("name", "write it as field=value"),
    ("=3", "write it as field=value"),
    ("model.encoder.num_heads=5", "model.encoder: hidden_size 64 is no multiple of num_heads 5"),
])
def test_override_refuses_in_one_line(assignment, expected):
    assert expected in error_of(override, BASE, [assignment])


def test_override_takes_effect_together():
    """Either change alone breaks the stack's validation; both together do not."""
    pair = ["model.encoder.hidden_size=96", "model.encoder.num_heads=3"]
    for order in (pair, pair[::-1]):
        changed = override(BASE, order)
        assert (changed.model.encoder.hidden_size, changed.model.encoder.num_heads) == (96, 3)
    error_of(override, BASE, ["model.encoder.num_heads=3"])


def test_override_resolves_a_union_by_what_is_there():
    llama = dataclasses.replace(BASE, model=Llama())
    assert override(llama, ["model.vocab_size=8"]).model == Llama(vocab_size=8)
    assert "model has no field window" in error_of(override, llama, ["model.window=8"])


def test_override_of_the_same_field():
    assert override(BASE, ["name=a", "name=b"]).name == "b"
    for pair in (["model=none", "model.window=1"], ["model.window=1", "model=none"]):
        assert "keep one" in error_of(override, BASE, pair)
    assert override(BASE, []) is BASE


# --- storing ----------------------------------------------------------------------------------

stacks = st.builds(
    Stack,
    num_layers=st.integers(0, 9),
    hidden_size=st.just(64),
    num_heads=st.sampled_from([1, 2, 4]),
    remat=st.sampled_from(["none", "dots", "full"]),
    soft_cap=st.none() | st.floats(1, 100),
)
experiments = st.builds(
    Experiment,
    name=st.text(),
    model=st.builds(Hat, encoder=stacks) | st.builds(Llama, stack=stacks),
    learning_rate=st.floats(0, 1),
    shuffle=st.booleans(),
    tokenizer=st.none() | st.text(),
    betas=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    suffixes=st.lists(st.text(), max_size=3).map(tuple),
    parts=st.lists(st.builds(Part, st.text(), st.floats(0, 1)), max_size=3).map(tuple),
    rescue=st.none() | stacks,
    size=st.integers() | st.text(),
)


@given(experiments)
def test_a_config_survives_json(config):
    stored = json.loads(json.dumps(to_dict(config)))
    assert from_dict(stored, CLASSES) == config
    assert differences(stored, config) == []


@given(experiments, experiments)
def test_differences_are_empty_exactly_for_equal_configs(a, b):
    assert (differences(a, b) == []) == (a == b)
    assert (dump(a) == dump(b)) == (a == b)


def test_differences_read_as_lines():
    other = dataclasses.replace(
        BASE, model=Hat(Stack(num_layers=3)), tokenizer="bpe:64", parts=(Part("encoder"),)
    )
    assert differences(to_dict(BASE), other) == [
        "model.encoder.num_layers: 2 (checkpoint) != 3 (config)",
        "tokenizer: None (checkpoint) != 'bpe:64' (config)",
        "parts.1: Part (checkpoint) != absent (config)",
        "parts.1.name: 'head' (checkpoint) != absent (config)",
        "parts.1.multiplier: 2.0 (checkpoint) != absent (config)",
    ]
    assert differences(Hat(), Llama(), ("run", "file"))[0] == "kind: Hat (run) != Llama (file)"


def test_dump_is_one_field_a_line_in_order():
    assert dump(BASE).splitlines() == [
        "kind = Experiment",
        "name = 'base'",
        "model = Hat",
        "model.encoder = Stack",
        "model.encoder.num_layers = 2",
        "model.encoder.hidden_size = 64",
        "model.encoder.num_heads = 4",
        "model.encoder.remat = 'none'",
        "model.encoder.soft_cap = None",
        "model.guide = 'causal'",
        "model.window = 32",
        "learning_rate = 0.001",
        "shuffle = True",
        "tokenizer = None",
        "betas = (0.9, 0.95)",
        "suffixes = ()",
        "parts.0 = Part",
        "parts.0.name = 'encoder'",
        "parts.0.multiplier = 1.0",
        "parts.1 = Part",
        "parts.1.name = 'head'",
        "parts.1.multiplier = 2.0",
        "rescue = None",
        "size = 'auto'",
    ]


def stored_with(**changes) -> dict:
    return {**to_dict(BASE), **changes}


@pytest.mark.parametrize("stored, expected", [
    ({}, "kind is None, not one of Experiment"),
    (stored_with(kind="os.system"), "kind is 'os.system', not one of"),
    (stored_with(colour=1), "the config has no field colour"),
    (stored_with(model={"kind": "Hat", "windw": 1}), "did you mean window?"),
    (stored_with(model={"kind": "Hat", "window": "x"}), "model.window is 'x', expected int"),
    (stored_with(model={"kind": "Part", "name": "x"}), "expected Hat or Llama"),
    (stored_with(parts=[{"kind": "Part"}]), "parts.0 lacks the field name"),
    (stored_with(rescue={"kind": "Stack", "num_heads": 5}), "rescue: hidden_size 64 is no"),
])
def test_a_stored_config_is_validated(stored, expected):
    assert expected in error_of(lambda: from_dict(stored, CLASSES))


def test_an_older_file_takes_the_defaults_of_new_fields():
    stored = stored_with()
    del stored["shuffle"]
    assert from_dict(stored, CLASSES) == BASE


def test_nothing_is_imported_by_name():
    before = set(sys.modules)
    error_of(lambda: from_dict({"kind": "this"}, CLASSES))
    assert "this" not in set(sys.modules) - before


def test_what_a_config_cannot_hold_is_our_bug_not_the_users():
    @dataclasses.dataclass(frozen=True)
    class Odd:
        value: object = None

    with pytest.raises(TypeError):
        to_dict(Odd(value={1}))
