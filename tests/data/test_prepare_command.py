from __future__ import annotations

import argparse
import json

import pytest

from hat.commands import prepare
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
    import sys

    code = (
        "import sys, argparse; from hat.commands import prepare; "
        "prepare.add_arguments(argparse.ArgumentParser()); "
        "print(sorted({'jax', 'numba', 'grain', 'tokenizers', 'pyarrow'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
