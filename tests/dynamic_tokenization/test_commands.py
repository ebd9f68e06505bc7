"""`hat dynamic ...` and `hat convert --method` on a small run, as a user has them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from hat import cli
from hat.inference.run import load_run
from hat.text.tokenizers import load_tokenizer, train_bpe
from hat.training import loop
from hat.training.converted_run import write_run
from hat.training.run_folder import read_experiment
from tests.dynamic_tokenization import runs
from tests.dynamic_tokenization.texts import LINES
from tests.models.toy import random_params
from tests.training import tiny

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def home(tmp_path_factory, quick_runs):
    """base/ and hyper/ are runs; text.txt and other.txt texts."""
    home = tmp_path_factory.mktemp("commands")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAT_CACHE", str(home / "cache"))
        base = runs.train_base(home)
        loop.train(runs.hypernetwork(home, base, steps=3), home / "hyper", None, runs.OPENERS)
    (home / "other.txt").write_text("".join(LINES) * 2, encoding="utf-8")
    return home


def said(capsys, *words):
    """The object that a command prints with --json, and what it told."""
    assert cli.main([*map(str, words), "--json"]) == 0
    captured = capsys.readouterr()
    return json.loads(captured.out), captured.err


def refused(capsys, *words) -> str:
    assert cli.main(list(map(str, words))) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("hat: error: ") and "\n" not in error
    return error


def test_apply_shows_tokens_and_bits(home, capsys):
    files = [home / "text.txt", home / "other.txt"]
    result, told = said(capsys, "dynamic", "apply", home / "base", "--text", *files,
                        "--reduction", "20%", "--hypernetwork", home / "hyper", "--points", 2)
    for path in files:
        shown = result["files"][str(path)]
        assert shown["positions"] <= 0.8 * shown["base_positions"] and shown["saved"] >= 0.2
        assert shown["merges"] > 0 and shown["tokens"]
    assert [(point["reduction"], point["rows"]) for point in result["curve"]] == [
        (wanted, rows) for wanted in (0.0, 0.1, 0.2)
        for rows in ("mean", "last", "suffix", "hypernetwork")
    ]
    plain = result["curve"][0]["bits_per_byte"]
    assert [p["bits_per_byte"] for p in result["curve"][1:4]] == pytest.approx([plain] * 3)
    assert len({p["bits_per_byte"] for p in result["curve"][4:]}) >= 6
    assert all(0 < p["table_bits_per_byte"] < p["bits_per_byte"] for p in result["curve"])
    evaluated, _ = said(capsys, "evaluate", "bits-per-byte", home / "base", *files)
    one_bit_a_text = 2 / sum(path.stat().st_size for path in files)
    assert plain == pytest.approx(evaluated["bits_per_byte"] + one_bit_a_text, rel=1e-6)
    assert "of it the table" in told and "\u2423" in told


def test_apply_with_a_table_from_elsewhere_and_with_a_batch(home, capsys):
    words = ["dynamic", "apply", home / "base", "--text", home / "text.txt", "--reduction", "0.1"]
    result, _ = said(capsys, *words, "--scope", "corpus", "--merges-from", home / "other.txt",
                     "--points", 1)
    assert [point["table_bits_per_byte"] for point in result["curve"]] == [0] * 6
    result, told = said(capsys, *words, "--scope", "batch")
    assert result["curve"] == [] and "no bits per byte" in told


def test_apply_refuses(home, capsys):
    words = ["dynamic", "apply", home / "base", "--text", home / "text.txt"]
    assert "largest is" in refused(capsys, *words, "--reduction", "99%")
    assert "--reduction -10% cannot be" in refused(capsys, *words, "--reduction=-10%")
    assert "write 30% or 0.3" in refused(capsys, *words, "--reduction", "much")
    assert "boundary 'line'" in refused(capsys, *words, "--boundary", "line")
    assert "--scope all is not known" in refused(capsys, *words, "--scope", "all")
    assert "--merges-from FILE goes with" in refused(capsys, *words, "--scope", "corpus")
    same = refused(capsys, *words, "--scope", "corpus", "--merges-from", home / "text.txt")
    assert "is scored too" in same
    assert "no run in" in refused(capsys, "dynamic", "apply", home, "--text", home / "text.txt")
    wrong = refused(capsys, *words, "--hypernetwork", home / "base")
    assert "is no hypernetwork" in wrong


def test_generate(home, capsys):
    words = ["dynamic", "generate", home / "base", "--text", home / "text.txt", "--tokens", 6]
    result, told = said(capsys, *words, "--vocabulary", 340, "--prompt", "def ",
                        "--hypernetwork", home / "hyper")
    assert 1 <= result["tokens"] <= 6 and 0 < result["recall"] <= 1
    assert result["base_tokens"] >= 1 and "recall@20" in told
    again, _ = said(capsys, *words, "--vocabulary", 340, "--prompt", "def ",
                    "--hypernetwork", home / "hyper", "--approximate")
    assert again["vocabulary"] == 340
    last, _ = said(capsys, *words, "--vocabulary", 340, "--prompt", "def ", "--rows", "last")
    assert 1 <= last["tokens"] <= 6
    assert "give one" in refused(capsys, *words, "--vocabulary", 340, "--rows", "last",
                                 "--hypernetwork", home / "hyper")
    assert "yields only" in refused(capsys, *words, "--vocabulary", 10**6)
    assert "none to grow" in refused(capsys, *words, "--vocabulary", 300)
    assert "--temperature -1.0" in refused(capsys, *words, "--vocabulary", 340, "--temperature=-1")


@pytest.fixture(scope="module")
def other(home):
    """A tokenizer of other merges, and a donor: a run with it."""
    folder = home / "tokenizer"
    folder.mkdir()
    train_bpe([line.encode() for line in LINES * 4], 290).save(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAT_CACHE", str(home / "cache"))
        experiment = tiny.llama(home, "data.tokenizer=" + str(folder), "model.num_tokens=290",
                                "training.steps=2", "training.samples.max_bytes=4")  # fmt: skip
        loop.train(experiment, home / "donor")
    return folder


@pytest.mark.parametrize("method", ["mean", "last", "suffix", "hypernetwork", "omp"])
def test_another_tokenizer(home, other, method, tmp_path, capsys):
    words = ["convert", home / "base", "--method", method, "--out", tmp_path / "new",
             "--tokenizer", home / "donor" if method == "omp" else other]  # fmt: skip
    words += ["--hypernetwork", home / "hyper"] if method == "hypernetwork" else []
    result, _ = said(capsys, *words)
    before, after = load_run(home / "base"), load_run(tmp_path / "new")
    its, new = before.tokenizer, load_tokenizer(other)
    assert after.model.config.num_tokens == new.vocab_size == result["tokens"]
    spelled = {its.token_bytes(token): token for token in range(its.vocab_size)}
    sides = [lambda run: np.asarray(run.params["embedding"]["table"]),
             lambda run: np.asarray(run.params["head"]["projection"]["kernel"]).T]  # fmt: skip
    shared = 0
    for side in sides:
        old, rows = side(before), side(after)
        for token in range(new.vocab_size):
            text = new.token_bytes(token)
            if text in spelled:
                shared += 1
                np.testing.assert_array_equal(rows[token], old[spelled[text]])
            elif method == "last" and side is sides[0]:
                np.testing.assert_array_equal(rows[token], old[its.encode(text)[-1]])
            elif method == "suffix" and side is sides[0]:
                longest = max((text[i:] for i in range(len(text)) if text[i:] in spelled), key=len)
                np.testing.assert_array_equal(rows[token], old[spelled[longest]])
            elif method in ("mean", "last", "suffix"):
                mean = old[its.encode(text)].astype(np.float64).mean(axis=0)
                np.testing.assert_allclose(rows[token], mean, rtol=0, atol=1e-6)
        for mine, theirs in ((new.bos, its.bos), (new.eot, its.eot), (new.pad, its.pad)):
            np.testing.assert_array_equal(rows[mine], old[theirs])
    assert shared == 2 * result["shared"] and result["new"] == new.vocab_size - result["shared"] > 0
    np.testing.assert_array_equal(
        before.params["head"]["norm"]["scale"], after.params["head"]["norm"]["scale"]
    )
    score, _ = said(capsys, "evaluate", "bits-per-byte", tmp_path / "new", home / "text.txt")
    assert 0 < score["bits_per_byte"] < 20


def test_conversions_that_cannot_be(home, other, tmp_path, capsys):
    words = ["convert", home / "base", "--out", tmp_path / "new"]
    assert "--to FORMAT is missing" in refused(capsys, *words)
    method = [*words, "--method", "omp"]
    assert "--method goes with --tokenizer" in refused(capsys, *method)
    few = refused(capsys, *method, "--tokenizer", home / "donor", "--sparsity", 1000)
    assert "spell only" in few and "--sparsity is 1000" in few
    assert "--hypernetwork RUN goes with" in refused(
        capsys, *words, "--method", "hypernetwork", "--tokenizer", other)
    experiment = read_experiment(home / "base")
    tied = dataclasses.replace(experiment.model, tie_embeddings=True)
    (tmp_path / "tied").mkdir()
    write_run(tmp_path / "tied", dataclasses.replace(experiment, model=tied),
              random_params(tied.build()))
    assert "use --method mean" in refused(capsys, "convert", tmp_path / "tied", *words[2:],
                                          "--method", "last", "--tokenizer", other)
    broken = tmp_path / "broken"
    shutil.copytree(other, broken)
    spec = json.loads((broken / "tokenizer.json").read_text())
    spec["model"]["vocab"] = {piece: token for piece, token in spec["model"]["vocab"].items()
                              if piece != "!"}  # fmt: skip
    spec["model"]["merges"] = [m for m in spec["model"]["merges"] if "!" not in m]
    (broken / "tokenizer.json").write_text(json.dumps(spec))
    found = refused(capsys, *words, "--method", "mean", "--tokenizer", broken)
    assert "no token for byte 0x21" in found
    assert not (tmp_path / "new").exists()


def test_a_config_adapts_in_low_rank_and_all_read_the_run(home, tmp_path, capsys, monkeypatch):
    """As its file says, in few steps."""
    monkeypatch.setenv("HAT_CACHE", str(tmp_path / "cache"))
    out, text = tmp_path / "adapted", home / "text.txt"
    result, _ = said(
        capsys, "train", CONFIGS / "dynamic_adaptation.py", "--out", out, "--set",
        f"base={home / 'base'}", f"data.source={text}", "training.lora.rank=2",
        "training.objective.rows=last", "training.steps=3", "training.objective.boundary=sentence",
        "training.samples.max_bytes=4",
    )  # fmt: skip
    assert result["finished"]
    before, after = load_run(home / "base"), load_run(out)
    np.testing.assert_array_equal(
        before.params["embedding"]["table"], after.params["embedding"]["table"])
    assert after.experiment.training.lora.rank == 2
    applied, _ = said(capsys, "dynamic", "apply", out, "--text", text, "--reduction", "10%",
                      "--points", 1, "--boundary", "sentence")
    scored, _ = said(capsys, "evaluate", "bits-per-byte", out, text)
    bits = applied["curve"][0]["bits_per_byte"] - applied["curve"][0]["table_bits_per_byte"]
    assert bits == pytest.approx(scored["bits_per_byte"], rel=1e-5)
    generated, _ = said(capsys, "generate", out, "--prompt", "def ", "--bytes", 4)
    assert generated
    said(capsys, "convert", out, "--to", "hf", "--out", tmp_path / "hf")
    said(capsys, "convert", tmp_path / "hf", "--to", "native", "--out", tmp_path / "back")
    backbones = [load_run(run).params["backbone"] for run in (out, tmp_path / "back")]
    jax.tree.map(np.testing.assert_array_equal, *backbones)
    counted, _ = said(capsys, "params", out)
    assert counted["low_rank"] == {"backbone": 2 * 2 * (4 * (16 + 16) + 3 * (16 + 32))}
