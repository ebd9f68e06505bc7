"""What is read of a compiler that may be stopped, fail or write other files; no libtpu needed."""

from __future__ import annotations

import json

import pytest

from hat.planning.compiler import RESULT, Overflow, Program, _laid_out, _result

REPORT = "Memory Space: default (color=0)\nTotal bytes: 25166336 (24.00MiB)\n\nMemory Space: vmem\n"


def test_a_program_counts_once_all_of_it_is_written(tmp_path):
    def write(name: str, text: str) -> Program | None:
        (tmp_path / f"module_0000.jit_step.after_{name}.txt").write_text(text)
        return _laid_out(tmp_path)

    assert _laid_out(tmp_path) is None
    assert write("optimizations_before_buffer_assignment", "HloModule early") is None
    assert write("optimizations", "HloModule jit_step") is None
    assert write("optimizations-memory-usage-report", REPORT) is None
    found = write("optimizations_after_buffer_assignment", "HloModule jit_st")
    assert found == Program("HloModule jit_step", 25166336.0)
    assert write("optimizations-memory-usage-report", "other words") is None


def test_the_end_of_a_compiler(tmp_path):
    (tmp_path / "output").write_text("".join(f"line {i}\n" for i in range(30)))
    with pytest.raises(RuntimeError, match="ended with -6\nline 10\n(.*\n)*line 29"):
        _result(tmp_path, -6)
    (tmp_path / RESULT).write_text(json.dumps({"text": "HloModule", "hbm_bytes": 3.0}))
    assert _result(tmp_path, 0) == Program("HloModule", 3.0)
    (tmp_path / RESULT).write_text(json.dumps({"needed": 4.0}))
    with pytest.raises(Overflow) as overflow:
        _result(tmp_path, 0)
    assert overflow.value.args == (4.0,)
