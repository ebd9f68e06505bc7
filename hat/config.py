"""Configs are frozen dataclasses inside frozen dataclasses: reading, changing, printing them.

A config file is ordinary Python and describes one experiment:

    # configs/mine.py
    def config() -> Experiment:
        return Experiment(name="mine", model=HatConfig(...), ...)

It may derive from a neighbour: `replace(load(Path(__file__).with_name("base.py")), name="mine")`.
Nothing here knows what an experiment is. Everything a user can get wrong raises `UserError`.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import sys
import traceback
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hat.errors import UserError

KIND = "kind"  # the key under which `to_dict` stores the class of a dataclass


def load(path: str | Path) -> Any:
    """The frozen dataclass that `config()` of the Python file `path` returns.

    UserError, naming file and line: no such file, no function `config`, an exception inside, a
    result that is not a frozen dataclass.
    """
    path = Path(path)
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read the config {path}: {error.strerror}; give the path of a Python file "
            "such as configs/quickstart.py"
        ) from None
    # A module of its own in sys.modules, so that dataclasses defined in the file can resolve
    # their annotations; executed by hand, so that no __pycache__ appears beside the configs.
    module = types.ModuleType(f"hat_config:{path.resolve()}")
    module.__file__ = str(path.resolve())
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
        function = module.__dict__.get("config")
        if not callable(function):
            raise UserError(f"{path} has no function config(); define one that returns a config")
        config = function()
    except SyntaxError as error:
        raise UserError(f"{error.filename}:{error.lineno}: {error.msg}") from None
    except Exception as error:
        if isinstance(error, UserError) and not _line_in(error, path):
            raise
        message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise UserError(f"{path}:{_line_in(error, path)}: {message}") from error
    if not _is_config(config) or not type(config).__dataclass_params__.frozen:
        raise UserError(
            f"{path}: config() returned {type(config).__name__}; return a frozen dataclass "
            "such as hat.training.experiment.Experiment"
        )
    return config


def _line_in(error: Exception, path: Path) -> int | None:
    """The innermost line of `path` that `error` passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((f.lineno for f in reversed(frames) if f.filename == str(path)), None)


# --- changing ---------------------------------------------------------------------------------


def override(config: Any, assignments: Iterable[str]) -> Any:
    """`config` with `a.b=value` assignments applied, types checked and validation run again.

    A path may index a tuple of configs (`training.optimizer.parts.0.multiplier=0.1`). Values are
    Python literals, bare words for strings, `none`, `true`, `false`, and `1,2` for tuples. All
    assignments take effect together, so that fields that must agree can be changed at once; the
    last of two for the same field wins.
    UserError: no `=`, an unknown field (the nearest and all known are named), a value of another
    type, a value that the config's own validation refuses.
    """
    changes: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise UserError(f"--set {assignment}: write it as field=value, such as training.seed=1")
        *groups, last = path.strip().split(".")
        node = changes
        for depth, name in enumerate(groups):
            node = node.setdefault(name, {})
            if not isinstance(node, dict):
                whole = ".".join(groups[: depth + 1])
                raise UserError(f"--set {whole} and --set {path} contradict each other; keep one")
        if isinstance(node.get(last), dict):
            raise UserError(f"--set {path} and fields inside {path} are both set; keep one")
        node[last] = text.strip()
    return _replace(config, changes, "") if changes else config


def _replace(value: Any, changes: Mapping[str, Any], path: str) -> Any:
    if _is_config(value):
        hints = typing.get_type_hints(type(value))
        known = [field.name for field in dataclasses.fields(value)]
        current = {name: getattr(value, name) for name in known}
    elif isinstance(value, tuple) and any(map(_is_config, value)):
        hints = {}
        known = [str(i) for i in range(len(value))]
        current = dict(zip(known, value))
    else:
        some = next(iter(changes))
        raise UserError(
            f"--set {path}.{some}: {path} is {_show(value)}, which has no fields; "
            f"set {path} itself, or change it in the config file"
        )
    new = {}
    for name, change in changes.items():
        where = f"{path}.{name}" if path else name
        if name not in current:
            raise UserError(f"--set {where}: {_unknown(name, known, path)}")
        if isinstance(change, dict):
            new[name] = _replace(current[name], change, where)
        else:
            new[name] = _parse(change, hints.get(name, type(current[name])), where)
    if isinstance(value, tuple):
        return tuple({**current, **new}.values())
    return _build(lambda: dataclasses.replace(value, **new), path)


def _build(make: typing.Callable[[], Any], path: str) -> Any:
    """`make()`; what the config's own validation refuses names the place."""
    try:
        return make()
    except UserError as error:
        raise UserError(f"{path}: {error}" if path else str(error)) from None
    except ValueError as error:
        raise UserError(f"{path or 'config'}: {error}") from error


def _unknown(name: str, known: Sequence[str], path: str) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else "."
    return f"{path or 'the config'} has no field {name}{hint} Fields: {', '.join(known)}"


# --- types ------------------------------------------------------------------------------------

_WORDS = {"none": None, "true": True, "false": False}


class _Mismatch(Exception):
    """A value that does not fit its annotation."""


def _parse(text: str, annotation: Any, where: str) -> Any:
    """`text` of the command line as a value of type `annotation`: its first reading that fits."""
    split = tuple(_literal(part.strip()) for part in text.split(",") if part.strip())
    for reading in (_literal(text), text, split):
        try:
            return _coerce(reading, annotation, where, {})
        except _Mismatch:
            continue
    if any(map(dataclasses.is_dataclass, _alternatives(annotation))):
        raise UserError(f"--set {where}: {where} is a group of fields; set the fields inside it")
    choices = [str(c) for a in _alternatives(annotation) for c in _choices(a)]
    near = difflib.get_close_matches(text, choices, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f"--set {where}={text}: expected {type_name(annotation)}{hint}")


def _literal(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; of anything else, itself."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _choices(annotation: Any) -> tuple[Any, ...]:
    return typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()


def type_name(annotation: Any) -> str:
    """`annotation` in words for a message: `int`, `float or none`, `one of adamw, muon`."""
    names = []
    for member in _alternatives(annotation):
        if member is type(None):
            names.append("none")
        elif _choices(member):
            names.append("one of " + ", ".join(map(str, _choices(member))))
        elif typing.get_origin(member) is tuple:
            names.append("tuple[" + ", ".join(
                "..." if a is ... else type_name(a) for a in typing.get_args(member)
            ) + "]")
        else:
            names.append(member.__name__)
    return " or ".join(names)


def _coerce(value: Any, annotation: Any, where: str, classes: Mapping[str, type]) -> Any:
    """`value` (a Python literal, or JSON) as a value of type `annotation`, or _Mismatch.

    An int stands for a float; a list stands for a tuple; a dict tagged with its kind stands for
    that dataclass. Nothing else is converted: a bool is no int, and 2.0 is no int.
    """
    alternatives = _alternatives(annotation)
    if len(alternatives) > 1:
        for member in alternatives:
            try:
                return _coerce(value, member, where, classes)
            except _Mismatch:
                continue
        raise _Mismatch
    if typing.get_origin(annotation) is typing.Literal:
        for choice in _choices(annotation):
            if value == choice and type(value) is type(choice):
                return value
        raise _Mismatch
    if typing.get_origin(annotation) is tuple:
        return _coerce_tuple(value, typing.get_args(annotation), where, classes)
    if dataclasses.is_dataclass(annotation):
        if isinstance(value, Mapping) and value.get(KIND) == annotation.__name__:
            return _from_dict(value, classes, where)
        raise _Mismatch
    if annotation is float and type(value) is int:
        return float(value)
    if annotation in (int, float, str, bool, type(None)):
        if type(value) is annotation:
            return value
        raise _Mismatch
    raise TypeError(f"{where}: configs cannot hold fields of type {annotation}")


def _coerce_tuple(value: Any, items: tuple, where: str, classes: Mapping[str, type]) -> tuple:
    if not isinstance(value, (list, tuple)):
        raise _Mismatch
    if len(items) == 2 and items[1] is ...:
        items = (items[0],) * len(value)
    if len(items) != len(value):
        raise _Mismatch
    return tuple(
        _coerce(item, annotation, f"{where}.{index}", classes)
        for index, (item, annotation) in enumerate(zip(value, items))
    )


# --- storing ----------------------------------------------------------------------------------


def to_dict(config: Any) -> Any:
    """`config` as JSON: a dataclass becomes a dict with its class name under "kind" and every
    field in the order of declaration, a tuple becomes a list."""
    if _is_config(config):
        fields = {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {KIND: type(config).__name__, **fields}
    if isinstance(config, (list, tuple)):
        return [to_dict(item) for item in config]
    if config is None or isinstance(config, (bool, int, float, str)):
        return config
    raise TypeError(f"configs cannot hold values of type {type(config).__name__}")


def from_dict(data: Mapping[str, Any], classes: Iterable[type]) -> Any:
    """The config that `to_dict` stored. Only `classes` can be built: nothing is imported by name.

    A field that is absent takes its default, so that an older file still loads.
    UserError: an unknown kind or field, a missing field without a default, a value of another
    type, a value that the config's own validation refuses.
    """
    return _from_dict(data, {c.__name__: c for c in classes}, "")


def _from_dict(data: Mapping[str, Any], classes: Mapping[str, type], path: str) -> Any:
    kind = data.get(KIND) if isinstance(data, Mapping) else None
    if kind not in classes:
        raise UserError(
            f"{path or 'stored config'}: kind is {kind!r}, not one of "
            f"{', '.join(sorted(classes))}; another version of hat wrote it"
        )
    cls = classes[kind]
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values = {}
    for name, value in data.items():
        where = f"{path}.{name}" if path else name
        if name == KIND:
            continue
        if name not in fields:
            raise UserError(f"stored config: {_unknown(name, list(fields), path)}")
        try:
            values[name] = _coerce(value, hints[name], where, classes)
        except _Mismatch:
            raise UserError(
                f"stored config: {where} is {_show(value)}, expected {type_name(hints[name])}"
            ) from None
    for name, field in fields.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise UserError(f"stored config: {path or kind} lacks the field {name}")
    return _build(lambda: cls(**values), path)


def dump(config: Any) -> str:
    """The text of `config` for golden files and people: one `a.b = value` a line, in the order of
    declaration; every config has a line with its class name before its fields."""
    return "".join(f"{path} = {_show(value)}\n" for path, value in _leaves(config, ""))


def differences(a: Any, b: Any, names: tuple[str, str] = ("checkpoint", "config")) -> list[str]:
    """Where two configs (dataclasses, or what `to_dict` made of them) differ: one line a field,
    such as `model.encoder.num_layers: 2 (checkpoint) != 3 (config)`."""
    left, right = dict(_leaves(a, "")), dict(_leaves(b, ""))
    return [
        f"{path}: {_show(left.get(path, _ABSENT))} ({names[0]}) != "
        f"{_show(right.get(path, _ABSENT))} ({names[1]})"
        for path in {**left, **right}
        if left.get(path, _ABSENT) != right.get(path, _ABSENT)
    ]


class _Bare(str):
    """Text among the leaves that is no string of the config: a class name, or absence."""


_ABSENT = _Bare("absent")


def _leaves(value: Any, path: str) -> Iterable[tuple[str, Any]]:
    """(path, value) of every field; a tuple is one leaf unless it holds configs."""
    value = to_dict(value) if _is_config(value) else value
    if isinstance(value, Mapping):
        yield path or KIND, _Bare(value.get(KIND))
        for name in value:
            if name != KIND:
                yield from _leaves(value[name], f"{path}.{name}" if path else name)
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}.{index}")
    else:
        yield path, tuple(value) if isinstance(value, list) else value


def _show(value: Any) -> str:
    return str(value) if isinstance(value, _Bare) else repr(value)


def _is_config(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)
