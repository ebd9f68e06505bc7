from __future__ import annotations

import argparse

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hat.benchmarks import split
from hat.errors import UserError
from hat.text.splitters import WordRule


@given(
    st.binary(max_size=40)
    | st.text(st.characters(max_codepoint=127), max_size=60).map(str.encode)
    | st.text("aB1 _.'\n\r\té你🙂\u0301", max_size=40).map(str.encode)
)
def test_pure_python_formulations_are_exact(data):
    expected = np.flatnonzero(WordRule().split(np.frombuffer(data, np.uint8)).starts).tolist()
    assert split.table_starts(data) == expected
    assert split.expression_starts(data) == expected


def test_table(tmp_path):
    parser = argparse.ArgumentParser()
    split.add_arguments(parser)
    (tmp_path / "text").write_text("Größe, 你好!\n" * 50)
    arguments = ["--megabytes", "0.02", "--repeats", "1", "--text", str(tmp_path / "text")]
    result = split.run(parser.parse_args(arguments))
    assert len(result["texts"]) == 5
    for row in result["texts"]:
        assert 20_000 - 3 < row["bytes"] <= 20_000  # whole characters
        assert row["same_word_count"]
        assert row["ratio"] > 0 and row["python"] in ("tables", "regular expression")

    with pytest.raises(UserError, match="nowhere"):
        split.run(parser.parse_args(["--megabytes", "0.01", "--text", str(tmp_path / "nowhere")]))
