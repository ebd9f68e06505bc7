"""`hat byte-exact` as its users meet it: good input, bad input."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from hat import cli
from hat.byte_exact.model import chosen
from hat.byte_exact.run import load_byte_model, load_tokenized
from hat.errors import UserError
from hat.training.converted_run import write_run
from tests.byte_exact.families import tokenizer, with_fill_in
from tests.byte_exact.llamas import random_llama
from tests.models.toy import random_params
from tests.training import tiny

TEXT = "the  théatre\n".encode()


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Two Llamas over different tokenizers and a HAT, with random parameters."""
    home = tmp_path_factory.mktemp("runs")
    found = {}
    for name, its in (("one", with_fill_in()), ("two", tokenizer("sentencepiece"))):
        model, params = random_llama(its)
        experiment = tiny.llama(home, "training.mesh.fsdp=1")
        experiment = dataclasses.replace(experiment, model=model.config)
        found[name] = home / name
        found[name].mkdir()
        write_run(found[name], experiment, params)
        its.save(found[name])
    experiment = tiny.experiment(home, "training.mesh.fsdp=1")
    found["hat"] = home / "hat"
    found["hat"].mkdir()
    write_run(found["hat"], experiment, random_params(experiment.model.build(), 1))
    return found


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT)
    return path


def hat_json(capsys, *words) -> dict:
    assert cli.main([*map(str, words), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refused(capsys, *words) -> str:
    assert cli.main(list(map(str, words))) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    return error[0]


def test_score_shows_the_three_laws(runs, file, capsys, tmp_path):
    found = hat_json(capsys, "byte-exact", "score", runs["one"], file, "--law", "table")
    laws = found["laws"]
    assert found["bytes"] == len(TEXT) and set(laws) == {"canonical", "all", "last-free"}
    for law in ("canonical", "last-free"):
        rows = load_tokenized(runs["one"], law).logprobs(TEXT)
        nats = -chosen(rows, TEXT).sum()
        assert laws[law]["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(TEXT))
        assert laws[law]["bits_per_byte"] == pytest.approx(laws[law]["least_bits_per_byte"])
    # A law that counts more covers gives more probability.
    assert laws["all"]["least_bits_per_byte"] <= laws["all"]["bits_per_byte"]
    assert laws["all"]["bits_per_byte"] <= laws["canonical"]["bits_per_byte"] + 1e-6
    assert 0 < laws["canonical"]["mean_lost"] <= laws["canonical"]["most_lost"] < 1
    out = tmp_path / "bytes.tsv"
    cli.main(["byte-exact", "score", str(runs["one"]), str(file), "--out", str(out)])
    lines = [line.split("\t") for line in out.read_text().splitlines()]
    assert [line[0] for line in lines[1:]] == [*(f"{byte:02x}" for byte in TEXT), "end"]
    total = sum(float(line[1]) for line in lines[1:])
    assert total == pytest.approx(laws["canonical"]["nats"], abs=1e-4)
    shown = capsys.readouterr().out
    assert "canonical" in shown and "bits/byte" in shown
    assert "is there already" in refused(
        capsys, "byte-exact", "score", runs["one"], file, "--out", out)


def test_score_given_what_stands_before(runs, file, capsys):
    words = ("byte-exact", "score", runs["two"], file)
    given = hat_json(capsys, *words, "--given", " x")["laws"]["canonical"]
    rows = load_tokenized(runs["two"]).logprobs(b" x" + TEXT)
    nats = -chosen(rows, b" x" + TEXT)[2:].sum()
    assert given["nats"] == pytest.approx(nats)


def test_score_a_hat(runs, file, capsys):
    found = hat_json(capsys, "byte-exact", "score", runs["hat"], file)["laws"]
    assert set(found) == {"none"} and 0 <= found["none"]["most_lost"] < 1e-5
    model = load_byte_model(runs["hat"])
    session, rows = model.session(), model.logprobs(TEXT)
    for t in range(len(TEXT) + 1):  # the same interface, the same numbers
        np.testing.assert_allclose(session.logprobs(), rows[t], atol=1e-4)
        if t < len(TEXT):
            other = session.fork()
            other.push(0xFF)
            session.push(TEXT[t])


def test_generate_from_anywhere(runs, capsys, tmp_path):
    """Mid-word, mid-character, from nothing; in tokens and in bytes; a special token's text."""
    options = ("--bytes", 12, "-n", 2, "--seed", 3)
    prompt = tmp_path / "prompt"
    for text in ("the thea".encode(), "é".encode()[:1], b"", b"<|end_of_text|>"):
        prompt.write_bytes(text)
        for more in ((), ("--each-byte",), ("--law", "last-free")):
            found = hat_json(capsys, "byte-exact", "generate", runs["one"], "--prompt-file",
                             prompt, *options, *more)["samples"]
            assert len(found) == 2 and all(s["prompt_hex"] == text.hex() for s in found)
            for sample in found:
                size = len(bytes.fromhex(sample["text_hex"]))
                assert size == 12 or sample["ended"]
    again = hat_json(capsys, "byte-exact", "generate", runs["one"], "--prompt", "th", *options)
    assert again == hat_json(capsys, "byte-exact", "generate", runs["one"], "--prompt", "th",
                             *options)


def test_fill_in_the_middle(runs, capsys):
    words = ("byte-exact", "generate", runs["one"], "--fim", "def f(x): ret", "\n\n", "--bytes", 8)
    found = hat_json(capsys, *words)["samples"]
    assert bytes.fromhex(found[0]["prompt_hex"]) == b"def f(x): ret"
    error = refused(capsys, "byte-exact", "generate", runs["two"], "--fim", "a", "b")
    assert "fim_prefix" in error
    assert "needs a tokenized model" in refused(
        capsys, "byte-exact", "generate", runs["hat"], "--fim", "a", "b")
    assert "needs a tokenized model" in refused(
        capsys, *map(str, words), "--each-byte")


def test_ensembles_of_any_models(runs, file, capsys):
    members = (runs["one"], runs["two"], runs["hat"])
    for mode in ("mean", "product", "proxy"):
        words = ("byte-exact", "ensemble", *members, "--mode", mode)
        sample = hat_json(capsys, *words, "--prompt", "the th", "--bytes", 6)["samples"][0]
        assert len(bytes.fromhex(sample["text_hex"])) == 6 or sample["ended"]
        scored = hat_json(capsys, *words, "--score", file)["models"]
        assert set(scored) == {*map(str, members), mode}
        if mode == "mean":
            bits = [scored[str(m)]["normalised_bits_per_byte"] for m in members]
            assert min(bits) - 1 <= scored[mode]["normalised_bits_per_byte"] <= max(bits)


@pytest.mark.parametrize("words, error", [
    (["score", "one", "FILE", "--law", "some"], "law 'some' is none of"),
    (["score", "one", "EMPTY"], "is empty"),
    (["score", "one", "MISSING"], "cannot read"),
    (["score", "MISSING", "FILE"], "MISSING"),
    (["score", "one", "FILE", "--law", "table", "--out", "x"], "--out goes with one law"),
    (["generate", "one"], "give one of --prompt"),
    (["generate", "one", "--prompt", "a", "--fim", "a", "b"], "give one of --prompt"),
    (["generate", "one", "--prompt", "a", "--temperature", "-1"], "temperature"),
    (["ensemble", "one", "two", "--mode", "proxy", "--prompt", "a"], "a base, an expert"),
    (["ensemble", "one", "--weights", "0.5", "--prompt", "a"], "not 1 shares of 1"),
    (["ensemble", "one", "--weights", "nan", "--prompt", "a"], "not 1 shares of 1"),
    (["ensemble", "one", "--alpha", "nan", "--prompt", "a"], "give a finite number"),
    (["ensemble", "one", "--prompt", "a", "--score", "FILE"], "takes no prompt"),
])  # fmt: skip
def test_mistakes(words, error, runs, file, capsys, tmp_path):
    empty = tmp_path / "empty"
    empty.touch()
    places = {"FILE": file, "EMPTY": empty, "MISSING": tmp_path / "MISSING", **runs}
    words = [str(places.get(word, word)) for word in words]
    assert error in refused(capsys, "byte-exact", *words)


def test_a_hat_has_no_law(runs):
    with pytest.raises(UserError, match="is a HAT"):
        load_tokenized(runs["hat"])


def test_a_long_text_of_a_hat_is_scored_in_pieces(runs):
    model = load_byte_model(runs["hat"])
    text = TEXT * 12  # rows of 64 ids
    rows = model.logprobs(text)
    assert rows.shape == (len(text) + 1, 257) and jax.device_count() > 0
    short = model.logprobs(text[:20])
    np.testing.assert_allclose(rows[:20], short[:20], atol=1e-4)
    assert np.abs(np.exp(rows).sum(axis=1) - 1).max() < 1e-5
