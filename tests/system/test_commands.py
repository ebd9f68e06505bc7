"""The commands of a newcomer, one after the other, on a tiny model: what they print and leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hat.cli import main
from tests.distributed import processes
from tests.training import tiny

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(autouse=True)
def cache(folder, monkeypatch):
    monkeypatch.setenv("HAT_CACHE", str(folder / "cache"))


@pytest.fixture(scope="module")
def config(folder):
    tiny.text(folder)
    path = folder / "tiny.py"
    path.write_text(
        "from pathlib import Path\n"
        "from tests.training import tiny\n"
        "def config():\n"
        f"    return tiny.experiment(Path({str(folder)!r}), 'training.samples.max_bytes=8')\n"
    )
    return path


def call(capsys, *words) -> dict:
    """The JSON object of a command that succeeds."""
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def trained(folder, config):
    out = folder / "run"
    os.environ["HAT_CACHE"] = str(folder / "cache")
    assert main(["train", str(config), "--out", str(out)]) == 0
    return out


def test_train_prints_its_result_and_resumes(capsys, config, trained):
    result = call(capsys, "train", config, "--out", trained)
    assert result["step"] == 20 and result["finished"]
    assert Path(result["plot"]).stat().st_size > 10_000
    assert 0 < result["heldout_bits_per_byte"] < 9


def test_generate_continues_any_bytes(capsys, trained):
    result = call(capsys, "generate", trained, "--prompt", "def é", "--bytes", 5, "-n", 2, "--seed", 3)
    assert len(result["samples"]) == 2
    for sample in result["samples"]:
        assert bytes.fromhex(sample["prompt_hex"]) == "def é".encode()
        assert len(bytes.fromhex(sample["text_hex"])) <= 5
    again = call(capsys, "generate", trained, "--prompt", "def é", "--bytes", 5, "-n", 2, "--seed", 3)
    assert again == result


def test_evaluate_scores_files(capsys, trained, folder, tmp_path):
    noise = tmp_path / "noise.bin"
    noise.write_bytes(bytes(range(256)) * 2)
    result = call(capsys, "evaluate", "bits-per-byte", trained, folder / "text.txt", noise)
    text, random = result["files"]
    assert text["bits_per_byte"] < random["bits_per_byte"]
    total = text["bits_per_byte"] * text["bytes"] + random["bits_per_byte"] * random["bytes"]
    assert result["bits_per_byte"] == pytest.approx(total / result["bytes"])


def test_bench_train_names_every_part(capsys, config, tmp_path):
    trace = tmp_path / "trace"
    result = call(capsys, "bench", "train", config, "--repeats", 2, "--profile", trace)
    assert list(trace.rglob("*.xplane.pb"))
    parts = {"encoder", "connector", "backbone", "decoder", "head", "optimizer", "loader"}
    assert set(result["parts"]) == parts
    assert result["bytes_per_second"] > 0
    assert result["flops_per_byte"] == pytest.approx(
        sum(part["flops_per_byte"] for part in result["parts"].values())
    )


def test_bench_quickstart_compares_configs(capsys, folder, tmp_path, monkeypatch):
    config = processes.write_config(tmp_path)
    for name, value in processes.environment(folder / "cache").items():
        monkeypatch.setenv(name, value)  # of the processes that it starts
    out = tmp_path / "out"
    words = ("bench", "quickstart", config, "--seeds", 2, "--out", out, "--set", "training.steps=2")
    row = call(capsys, *words)["results"]["tiny"]
    assert len(row["bits_per_byte"]) == 2 and row["steps"] == 2
    assert row["spread"] == pytest.approx(abs(row["bits_per_byte"][0] - row["bits_per_byte"][1]))
    finished = sorted(out.glob("*/result.json"))
    before = [path.stat().st_mtime_ns for path in finished]
    call(capsys, *words)
    assert [path.stat().st_mtime_ns for path in finished] == before  # nothing was trained again


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "{config}", "--set", "training.sed=1"), "did you mean seed?"),
        (("train", "{config}", "--set", "data.source=/nowhere"), "/nowhere"),
        (("train", "{config}", "--set", "data.source={empty}"), "{empty}"),
        (("train", "{config}", "--out", "{run}", "--set", "model.guide_init=0.5"), "guide_init"),
        (("generate", "{empty}", "--prompt", "a"), "config.json"),
        (("evaluate", "bits-per-byte", "{run}", "{empty}/none.txt"), "none.txt"),
        (("params", "{empty}/none.py"), "none.py"),
    ],
)
def test_mistakes_are_one_line(capsys, config, trained, tmp_path, words, said):
    (tmp_path / "empty").mkdir()
    names = {"config": config, "empty": tmp_path / "empty", "run": trained}
    words = [word.format(**names) for word in words]
    if words[0] == "train" and "--out" not in words:
        words += ["--out", str(tmp_path / "out")]
    capsys.readouterr()
    assert main(words) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hat: error:")]
    assert len(errors) == 1 and said.format(**names) in errors[0]


def test_a_killed_run_resumes_where_it_saved(folder, tmp_path):
    """SIGKILL in the middle of a run that saves every other step; the same command finishes it,
    with the losses of a run that was never killed."""
    config = processes.write_config(tmp_path)
    environment = processes.environment(folder / "cache")
    steps = ("training.steps=60", "training.log_every_steps=1")

    def command(out, *changes):
        words = ["train", str(config), "--out", str(out), "--set", *steps, *changes]
        return [sys.executable, "-m", "hat", *words]

    saving = "training.checkpoint.every_steps=2"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(whole), env=environment, check=True, capture_output=True)
    process = subprocess.Popen(
        command(killed, saving), env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    checkpoints = killed / "checkpoints"
    deadline = time.monotonic() + 300
    while not (checkpoints / "6").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    saved = [int(path.name) for path in checkpoints.iterdir() if path.name.isdigit()]
    assert saved, "killed before anything was saved"
    done = subprocess.run(command(killed, saving), env=environment, check=True, capture_output=True)
    assert b"training from step" in done.stderr
    results = [json.loads((out / "result.json").read_text()) for out in (whole, killed)]
    assert results[0]["heldout_bits_per_byte"] == results[1]["heldout_bits_per_byte"]
    assert [r["step"] for r in results] == [60, 60]
