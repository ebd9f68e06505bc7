from __future__ import annotations

import argparse

from hat.benchmarks import prepare


def test_table(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("Größe, 你好!\n" * 200)
    (tmp_path / "b.jsonl").write_text('{"text": "one two three"}\nbad\n' * 20)
    parser = argparse.ArgumentParser()
    prepare.add_arguments(parser)
    options = ["--source", str(tmp_path), "--row-length", "64", "--row-words", "30"]
    result = prepare.run(parser.parse_args([*options, "--repeats", "1"]))
    assert result["documents"] == 21
    assert result["bytes"] == (tmp_path / "a.txt").stat().st_size + 20 * len("one two three")
    assert result["rows"] >= result["bytes"] / 64
    rates = result["megabytes_per_second_per_core"]
    assert list(rates) == ["reading", "splitting", "packing", "writing", "whole"]
    out = capsys.readouterr().out
    assert all(f"{stage:10} {rate:8.1f} MB/s per core" in out for stage, rate in rates.items())
    assert result["config"]["row_length"] == 64
