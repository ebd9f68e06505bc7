"""Runs of two and four real processes: resumed on others, stopped, frozen, killed, refused."""

from __future__ import annotations

import hashlib
import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from hat.cli import main
from hat.data.loader import Loader
from hat.training import loop
from hat.training.checkpoints import Checkpoints
from hat.training.metrics import read_metrics
from hat.training.watchdog import TRY_AGAIN
from tests.distributed import processes
from tests.training import tiny

CONSTANT = (  # so that a run may grow longer, and its learning rates stay
    "training.schedule.name=constant",
    "training.schedule.warmup_fraction=0",
    "training.log_every_steps=1",
)

# `hat`, whose loader leaves a hash of every row that goes to the devices.
RECORDING = """
import hashlib, os, sys, threading
from pathlib import Path
import jax
from hat.cli import main
from hat.data.loader import Loader
whole = Loader.batch
def batch(self, index):
    rows = whole(self, index)
    if threading.current_thread().name == "hat-loader":
        lines = [hashlib.sha256(row.tobytes()).hexdigest() for row in rows["tokens"]]
        name = f"{index}-{jax.process_index()}"
        Path(os.environ["ROWS"], name).write_text("\\n".join(lines))
    return rows
Loader.batch = batch
sys.exit(main())
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HAT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(out / "metrics.jsonl") if "loss" in line]


def test_one_four_and_two_processes_train_on_the_same_rows_in_the_same_order(tmp_path, cache):
    config, out = processes.write_config(tmp_path, *CONSTANT), tmp_path / "run"
    segments = [  # (processes, devices of each, steps of the run, mesh)
        (1, 1, 3, ("training.mesh.fsdp=1",)),
        (4, 2, 6, ("training.mesh.fsdp=4", "training.mesh.tensor=2")),
        (2, 1, 9, ("training.mesh.replica=2", "training.mesh.fsdp=1", "training.samples.prompts=a,b")),
    ]
    seen, began = [], 0
    for count, devices, steps, mesh in segments:
        rows = tmp_path / f"rows-{count}"
        rows.mkdir()
        words = ["train", str(config), "--out", str(out), "--json"]
        words += ["--expect-processes", str(count), "--expect-devices", str(count * devices)]
        words += ["--set", f"training.steps={steps}", *mesh]
        done = processes.finish(processes.start(
            count, words, cache, devices=devices, program=RECORDING, ROWS=str(rows)
        ))  # fmt: skip
        assert [status for status, _, _ in done] == [0] * count, done
        # Standard output is one JSON object, whatever gloo has to say.
        results = [json.loads(output) for _, output, _ in done]
        assert [result["step"] for result in results] == [steps] * count
        for index in range(began, steps):
            shares = [(rows / f"{index}-{process}").read_text() for process in range(count)]
            seen.append("\n".join(shares).split("\n"))
        began = steps

    assert (out / "samples.txt").read_text().count("=== step 9") == 2

    experiment = tiny.one_layer(tmp_path, *CONSTANT, "training.steps=9")
    corpus = loop.prepare_corpus(experiment)
    loader = Loader(corpus, experiment.training.batch_size, experiment.training.seed)
    expected = [
        [hashlib.sha256(row.tobytes()).hexdigest() for row in loader.batch(index)["tokens"]]
        for index in range(9)
    ]
    assert seen == expected
    whole = loop.train(experiment, tmp_path / "whole")
    assert whole["bytes"] == results[0]["bytes"]
    # Float32, summed in another order on every mesh.
    np.testing.assert_allclose(losses(out), losses(tmp_path / "whole"), rtol=1e-4)


def wait_for_steps(out: Path, started: list, steps: int) -> None:
    deadline = time.monotonic() + 200
    metrics = out / "metrics.jsonl"
    while not metrics.exists() or len(read_metrics(metrics)) < steps:
        assert time.monotonic() < deadline and all(p.poll() is None for p in started)
        time.sleep(0.05)


def test_sigterm_to_one_of_two_saves_and_ends_both_and_others_are_kept_out(
    tmp_path, cache, capsys
):
    config, out = processes.write_config(tmp_path, *CONSTANT), tmp_path / "run"
    words = ["train", str(config), "--out", str(out), "--json"]
    endless = [*words, "--set", "training.steps=1000000"]
    started = processes.start(2, endless, cache)
    try:
        wait_for_steps(out, started, 2)
        before = (out / "config.json").read_bytes()
        assert main(words) == 2
        error = capsys.readouterr().err
        assert f"{out} is being trained by process {started[0].pid} on" in error
        refused = processes.finish(processes.start(2, words, cache))
        assert [status for status, _, _ in refused] == [2, 2], refused
        assert "is being trained by" in refused[0][2]
        assert "process 0 cannot go on; its own message says why" in refused[1][2]
        assert (out / "config.json").read_bytes() == before
        started[1].send_signal(signal.SIGTERM)  # the second alone
    finally:
        done = processes.finish(started) if started[0].poll() is None else []
    assert [status for status, _, _ in done] == [0, 0], done
    results = [json.loads(output) for _, output, _ in done]
    assert not results[0]["finished"] and results[0]["step"] == results[1]["step"]
    assert "saved; the same command resumes" in done[0][2]
    assert Checkpoints(out, read_only=True).latest_step() == results[0]["step"]


@pytest.mark.parametrize("fault", [signal.SIGSTOP, signal.SIGKILL], ids=["frozen", "dead"])
def test_a_partner_that_is_gone_ends_the_run_for_its_launcher_to_restart(tmp_path, cache, fault):
    """Frozen: the watchdog notices. Dead: gloo does at once, JAX's heartbeats elsewhere."""
    config, out = processes.write_config(tmp_path, *CONSTANT), tmp_path / "run"
    words = ["train", str(config), "--out", str(out)]
    words += ["--set", "training.steps=1000000", "training.stall_seconds=20"]
    started = processes.start(2, words, cache)
    try:
        wait_for_steps(out, started, 2)
        started[1].send_signal(fault)
        _, error = started[0].communicate(timeout=200)
    finally:
        started[1].kill()
        processes.finish(started[1:])
        started[0].kill()
    assert started[0].returncode == TRY_AGAIN, error
    if fault == signal.SIGSTOP:
        (report,) = out.glob("stall-*-process-0.txt")
        assert "in train" in report.read_text()  # the main thread's stack
    else:
        assert error.endswith(
            "hat: error: process 0 of 2 failed, perhaps because another died; start again to "
            "resume\n"
        )
