from __future__ import annotations

import argparse
import dataclasses
import json
import sys

import pytest

from hat.commands import prepare
from hat.data.config import DataConfig
from hat.errors import UserError


def run(*arguments: str) -> dict:
    parser = argparse.ArgumentParser()
    prepare.add_arguments(parser)
    return prepare.run(parser.parse_args([str(argument) for argument in arguments]))


def test_prints_a_table_and_returns_the_info(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"body": "one two three four"}\nbad\n' * 50)
    result = run(
        tmp_path / "a.jsonl", "--out", tmp_path / "out", "--splitter", "spaces",
        "--text-field", "body", "--row-length", "64", "--row-words", "30",
        "--heldout", "0.2", "--validation", "0.1",
    )  # fmt: skip
    written = json.loads((tmp_path / "out/corpus.json").read_text())
    assert json.loads(json.dumps(result)) == written
    assert [result["splits"][s]["documents"] for s in ("train", "validation", "heldout")] == [
        35, 5, 10
    ]  # fmt: skip
    out, err = capsys.readouterr()
    assert "packing 100%" in err and "skipped a.jsonl:2" in err
    assert "skipped: 50 lines that are not JSON" in out
    share = result["splits"]["train"]["position_fill"]
    assert f"{share:.1%}" in out


def test_strict(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\nbad\n')
    with pytest.raises(UserError, match="a.jsonl:2"):
        run(tmp_path / "a.jsonl", "--out", tmp_path / "out", "--tokenizer", "bytes", "--strict")


def test_imports_nothing_heavy():
    """`hat --help` builds every parser."""
    import subprocess

    code = (
        "import sys, argparse; from hat.commands import prepare; "
        "prepare.add_arguments(argparse.ArgumentParser()); "
        "print(sorted({'jax', 'numba', 'grain', 'tokenizers', 'pyarrow'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_shards(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"text": "one two"}\n{"text": "three"}\n' * 10)
    options = ["--tokenizer", "bytes", "--heldout", "0.1"]
    for name, more in [("a", ["--shards", "2"]), ("b", ["--workers", "1", "--deduplicate"])]:
        run(tmp_path / "a.jsonl", "--out", tmp_path / name, *options, *more)
    first, second = (json.loads((tmp_path / n / "corpus.json").read_text()) for n in "ab")
    assert first["sharding"] == {"shards": 2, "deduplicate": False}
    assert second["sharding"] == {"shards": 1, "deduplicate": True}
    assert second["splits"]["train"]["documents"] == 2
    assert "skipped: 18 exact copies" in capsys.readouterr().out


def test_errors_speak_of_arguments(tmp_path):
    fields = {f"data.{field.name}" for field in dataclasses.fields(DataConfig)}
    assert set(prepare.ARGUMENTS) == fields - {"data.mixture"}
    with pytest.raises(UserError, match="^/missing: no such file or folder: set SOURCE to text"):
        run("/missing", "--out", tmp_path / "out")
    with pytest.raises(UserError, match="^--row-length is 2"):
        run("stdlib", "--out", tmp_path / "out", "--row-length", "2")


@pytest.mark.parametrize("options, told", [
    (["--shards", "0"], "0 shards cannot be: give 1 to 99,999"),
    (["--workers", "0"], "0 workers cannot be"),
    (["--beam-options=--runner=X"], "--beam-options is of --runner beam"),
    (["--runner", "beam", "--workers", "2"], "--workers is of --runner local"),
])  # fmt: skip
def test_options_that_cannot_be(tmp_path, options, told):
    with pytest.raises(UserError, match=told):
        run("stdlib", "--out", tmp_path / "out", *options)


def test_beam_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "hat.data.beam_runner", raising=False)
    with pytest.raises(UserError, match=r"needs Apache Beam .*pip install -e '.\[beam\]'"):
        run("stdlib", "--out", tmp_path / "out", "--runner", "beam")
