"""The commands as a user meets them: files there and back, and every mistake in one line."""

from __future__ import annotations

import email
import json
import os
import shutil

import numpy as np
import pytest

from hat.cli import main
from hat.compression import codec
from hat.text.tokenizers import train_bpe
from tests.compression.models import CONFIG, CONTEXT, tokenizer
from tests.compression.toy import HELDOUT, TEXT
from tests.inference.helpers import hat_config, learned_config, llama_config, write_run

DATA = HELDOUT[:260] + bytes(range(256))[::7]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """m1, other, hat, learned and bpe: runs; table: of another model; table12: of m1; text."""
    folder = tmp_path_factory.mktemp("compression")
    m1 = dict(tokenizer="bytes", row_length=CONTEXT + 1)
    write_run(folder / "m1", CONFIG, **m1)
    write_run(folder / "other", llama_config(), **m1)
    write_run(folder / "hat", hat_config(), splitter="words", row_length=64, row_words=32)
    write_run(folder / "learned", learned_config("cosine"), splitter="words", row_length=64)
    write_run(folder / "bpe", llama_config(num_tokens=300), tokenizer="bpe:300", row_length=48)
    train_bpe([TEXT[:20_000]], 300).save(folder / "bpe")
    for name, bits in (("table", 16), ("table9", 9)):
        (folder / name).mkdir()
        tokenizer(bits=bits).save(folder / name)
    (folder / "text").write_bytes(DATA)
    return folder


@pytest.fixture
def here(folder, tmp_path, monkeypatch):
    """A folder of its own for each test, with all of those beside it."""
    monkeypatch.setattr(codec, "LEAST_CHUNK", 64)
    monkeypatch.chdir(tmp_path)
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


def refused(capsys, *argv: str) -> str:
    """What a command says that must fail; it leaves the folder as it was."""
    before = sorted(os.listdir())
    assert main(list(argv)) == 2
    assert sorted(os.listdir()) == before
    said = capsys.readouterr().err.strip().splitlines()
    return said[-1]


def printed(capsys, *argv: str) -> dict:
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_build_encode_and_decode(here, capsys):
    built = printed(capsys, "equal-info", "build", "m1", "--window-bits", "12", "--out", "table12")
    assert built["strings"] == 4096 and built["eot"] == 4095 and built["vocab_size"] == 4096
    encoded = printed(capsys, "equal-info", "encode", "table12", "text")
    assert encoded["bytes"] == len(DATA) and (here / "text.codes").exists()
    printed(capsys, "equal-info", "decode", "table12", "text.codes", "--out", "again")
    assert (here / "again").read_bytes() == DATA
    shutil.copy("text.codes", "bad.codes")
    content = bytearray((here / "bad.codes").read_bytes())
    content[-1] ^= 1
    (here / "bad.codes").write_bytes(content)
    for argv, said in [
        (["encode", "table12", "text"], "there already"),
        (["encode", "table12", "none"], "cannot read none"),
        (["encode", "table12", "text", "--out", "no/where"], "no folder"),
        (["encode", "table12", "text", "--out", "text", "--force"], "is the input"),
        (["encode", "m1", "text", "--out", "x"], "none of tokenizer.json"),
        (["encode", "bpe", "text", "--out", "x"], "no table of windows"),
        (["decode", "table9", "text.codes", "--out", "x"], "another table"),
        (["decode", "table12", "bad.codes"], "damaged or cut short"),
        (["decode", "table12", "text", "--out", "x"], "not a file of hat equal-info encode"),
        (["decode", "table12", "again", "--out", "x"], "not a file of"),
        (["decode", "table12", "again"], "does not end in .codes"),
        (["build", "m1", "--out", "table12"], "there already"),
        (["build", "m1", "--out", "no/where"], "no folder"),
        (["build", "m1", "--out", "x", "--window-bits", "24"], "8 to 20"),
        (["build", "m1", "--out", "x", "--mode", "greedy"], "choose from"),
        (["build", "hat", "--out", "x"], "no flat byte-level Llama"),
        (["build", "bpe", "--out", "x"], "no flat byte-level Llama"),
        (["build", "none", "--out", "x"], "none"),
    ]:
        assert said in refused(capsys, "equal-info", *argv), argv
    assert main(["equal-info", "encode", "table12", "text", "--force"]) == 0


def test_a_table_trains_a_model_as_any_tokenizer_does(here, capsys):
    (here / "corpus.txt").write_bytes(HELDOUT)
    made = printed(capsys, "prepare", "corpus.txt", "--tokenizer", "table9", "--row-length", "64",
                   "--out", "rows")
    its = tokenizer(bits=9)
    assert made["tokenizer"] == its.name and made["num_ids"] == its.num_ids
    assert sum(split["bytes"] for split in made["splits"].values()) == len(HELDOUT)


@pytest.mark.parametrize("model, more", [
    ("m1", []), ("m1", ["--portable"]), ("hat", []), ("learned", []), ("bpe", []),
])  # fmt: skip
def test_compress_and_decompress(here, capsys, model, more):
    if model == "bpe":
        (here / "text").unlink()
        (here / "text").write_bytes(DATA[250:300])  # a step is slow
    data = (here / "text").read_bytes()
    result = printed(capsys, "compress", "text", "--model", model, *more)
    assert result["bytes"] == len(data) and result["compressed_bytes"] <= len(data) + 64 + 8
    assert result["model_bytes"] > 1000
    printed(capsys, "decompress", "text.hatz", "--model", model, "--out", "again")
    assert (here / "again").read_bytes() == data


def test_mistakes_with_compressed_files(here, capsys, monkeypatch):
    printed(capsys, "compress", "text", "--model", "m1", "--portable")
    content = (here / "text.hatz").read_bytes()
    (here / "short.hatz").write_bytes(content[:-3])
    (here / "later.hatz").write_bytes(content[:8] + b"\x09" + content[9:])
    flipped = bytearray(content)
    flipped[-1] ^= 4
    (here / "flipped.hatz").write_bytes(flipped)
    for argv, said in [
        (["decompress", "text.hatz", "--model", "other", "--out", "x"], "another model"),
        (["decompress", "short.hatz", "--model", "m1"], "cut short"),
        (["decompress", "later.hatz", "--model", "m1"], "version 9"),
        (["decompress", "flipped.hatz", "--model", "m1"], "damaged"),
        (["decompress", "text.hatz", "--model", "m1"], "there already"),
        (["decompress", "text", "--model", "m1"], "does not end in .hatz"),
        (["decompress", "text", "--model", "m1", "--out", "x"], "not a file of hat compress"),
        (["decompress", "none.hatz", "--model", "m1"], "cannot read"),
        (["compress", "text", "--model", "m1"], "there already"),
        (["compress", "text", "--out", "x"], "no model"),
        (["compress", "text", "--model", "none", "--out", "x"], "none"),
        (["compress", "none", "--model", "m1"], "cannot read"),
        (["compress", "text", "--model", "hat", "--portable", "--out", "x"], "no flat byte-level"),
        (["compress", "text", "--model", "m1", "--out", "no/x"], "no folder"),
        (["compress", "text", "--model", "m1", "--out", "m1"], "is a folder"),
    ]:
        assert said in refused(capsys, *argv), argv
    monkeypatch.setenv("HAT_COMPRESS_MODEL", "m1")
    assert main(["decompress", "text.hatz", "--out", "again"]) == 0
    assert main(["compress", "text", "--force"]) == 0


def test_stats_and_analyse(here, capsys):
    (here / "corpus.txt").write_bytes(TEXT)
    for bits in ("10", "12"):
        printed(capsys, "equal-info", "build", "m1", "--window-bits", bits, "--out", f"table{bits}")
    found = printed(capsys, "equal-info", "stats", "table12", "table10", "--data", "corpus.txt", "--model",
                    "m1", "--vocabulary", "500", "--heldout", "0.02")
    rows = found["spellings"]
    assert set(rows) == {"stop-cell 12", "stop-cell 10", "BPE 500", "SentencePiece 500"}
    first = rows["stop-cell 12"]
    assert first["uniform_bits_per_byte"] == pytest.approx(12 / first["bytes_per_token"])
    assert 0.5 < first["fill"] < 1.2
    assert "give the run" in refused(
        capsys, "equal-info", "stats", "table9", "--data", "corpus.txt", "--model", "other"
    )
    result = printed(capsys, "equal-info", "analyse", "m1", "table12", "--text", "text", "--out",
                     "seen", "--beginnings", "5")
    assert (here / "seen" / "analysis.png").stat().st_size > 10_000
    its = result["instability"]
    assert its["bytes"] < its["windows"] < its["arithmetic coding"]
    assert "there already" in refused(
        capsys, "equal-info", "analyse", "m1", "table12", "--text", "text", "--out", "seen"
    )


def test_distances_against_plain_forms():
    from hat.compression.analysis import distance_from_uniform, edit_distance, window_bits

    assert edit_distance(np.array([1, 2, 3]), np.array([2, 3, 4])) == 2
    assert edit_distance(np.array([], np.int64), np.array([5, 6])) == 2
    assert distance_from_uniform(np.array([0, 1] * 50, np.uint8), 1) == pytest.approx(0)
    assert distance_from_uniform(np.zeros(50, np.uint8), 3) == 3
    assert window_bits(np.array([5, 2]), 4).tolist() == [0, 1, 0, 1, 0, 0, 1, 0]


def test_bench_and_reproduce_run(here, capsys, quick_runs):
    found = printed(capsys, "bench", "compress", "--model", "m1", "--bytes", "200", "--megabytes",
                    "0.02", "--repeats", "1", "--window-bits", "9")
    assert found["table"]["bytes_per_token"] > 0.5
    assert {"gzip -9", "xz -9e", "hat", "hat --portable"} <= set(found["files"]["standard library"])
    assert found["entropy_coders"]["hat"]["over_ideal"] < 1e-3
    result = printed(capsys, "reproduce", "equal-info", "--smoke", "--out", "run", "--text",
                     os.path.dirname(email.__file__), "--arms", "bytes", "stop-16-in-8",
                     "arithmetic-in-8")
    assert set(result["results"]) == {"bytes", "stop-16-in-8", "arithmetic-in-8"}
    page = (here / "run" / "equal_info.md").read_text()
    assert page.count("\n| ") == 4 and "learned" in page and "order of the paper" in page
    assert set(result["ratios"]) == {
        "stop-16", "stop-32", "stop-64", "stop-128", "greedy-16", "arithmetic"
    }  # fmt: skip
