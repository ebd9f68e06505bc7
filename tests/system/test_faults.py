"""What a run survives without a person: kill -9 anywhere, damaged checkpoints, a stuck loader, a
second run on its folder; and that nothing but the seed decides its losses."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from hat.errors import UserError
from hat.inference.run import load_run
from hat.training import loop, run_folder
from hat.training.metrics import read_metrics
from hat.training.watchdog import TRY_AGAIN
from tests.distributed import processes
from tests.training import tiny

KILLS = 20
SAVE_EVERY = 2

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HAT_CACHE", str(tmp_path / "cache"))


def small(folder: Path, *changes: str):
    return tiny.one_layer(folder, "training.log_every_steps=1", *changes)


def test_kill_9_at_random_instants_costs_at_most_a_save_and_never_a_person(tmp_path):
    changes = ("training.steps=12", f"training.checkpoint.every_steps={SAVE_EVERY}")
    config = processes.write_config(tmp_path, "training.log_every_steps=1", *changes)
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("killed.py"), config, tmp_path, str(KILLS), "0"],
        # Its own compile cache, so that a death while it is written is among those tried.
        env=processes.environment(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "xla")),
        capture_output=True, text=True, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    whole = found["whole"]
    assert whole["status"] == 0 and whole["step"] == 12
    attempts = [attempt for run in found["runs"] for attempt in run["attempts"]]
    killed = [attempt for attempt in attempts if attempt["status"] == -signal.SIGKILL]
    assert len(killed) >= KILLS
    phases = {attempt["kill"]["phase"] for attempt in killed}
    assert phases == {"prepare", "restore", "save", "step"}
    for run in found["runs"]:
        reached = 0  # the last step that an earlier attempt began
        for attempt in run["attempts"]:
            # A death may come before anything is restored; else it goes on where it was saved,
            if attempt["from"] is not None:
                assert attempt["from"] == attempt["saved"], attempt
            # of which at most the save under way and the interval before it are lost.
            assert attempt["saved"] >= min(reached, 12) - 2 * SAVE_EVERY, attempt
            assert "error" not in attempt and attempt["status"] in (0, -signal.SIGKILL), attempt
            reached = max(reached, attempt["step"] or 0)
        last = run["attempts"][-1]
        assert last["status"] == 0
        # Every bit of the state and of the held-out score, as if nothing had happened.
        assert (last["digest"], last["heldout"]) == (whole["digest"], whole["heldout"])
        assert run["steps"] == [*range(1, 13), 12]  # one history; the held-out line comes last


def test_the_same_seed_gives_the_same_bits(tmp_path):
    experiment = small(tmp_path, "training.steps=50")
    runs = []
    for name in ("first", "second"):
        loop.train(experiment, tmp_path / name)
        lines = read_metrics(tmp_path / name / "metrics.jsonl")
        runs.append([(line["loss"], line["grad_norm"]) for line in lines if "loss" in line])
    assert len(runs[0]) == 50 and runs[0] == runs[1]
    loop.train(small(tmp_path, "training.steps=1", "training.seed=1"), tmp_path / "other")
    assert read_metrics(tmp_path / "other" / "metrics.jsonl")[0]["loss"] != runs[0][0][0]


def shards(step: Path) -> list[Path]:
    """The files that hold the arrays, largest first."""
    files = (path for path in (step / "state").rglob("*") if path.is_file())
    return sorted(files, key=lambda path: path.stat().st_size, reverse=True)


@pytest.mark.parametrize("damage", ["files cut short", "a shard missing", "meta missing"])
def test_a_damaged_newest_checkpoint_costs_one_interval_and_a_warning(tmp_path, capsys, damage):
    changes = ("training.steps=6", "training.checkpoint.every_steps=2")
    experiment, out = small(tmp_path, *changes), tmp_path / "run"
    loop.train(experiment, out)
    expected = jax.tree.map(np.asarray, load_run(out).params)
    newest = out / "checkpoints" / "6"
    if damage == "files cut short":  # all: Orbax keeps pieces twice, and reads one of the two
        for victim in shards(newest):
            os.truncate(victim, victim.stat().st_size // 2)
    elif damage == "a shard missing":
        shards(newest)[0].unlink()
    else:
        shutil.rmtree(newest / "meta")
    capsys.readouterr()
    result = loop.train(experiment, out)
    error = capsys.readouterr().err
    assert error.count("warning: checkpoint") == 1 and "checkpoints/6 is damaged" in error
    assert "training from step 4" in error
    assert result["step"] == 6
    jax.tree.map(np.testing.assert_array_equal, load_run(out).params, expected)


STUCK = """
import sys, threading
from hat.cli import main
from hat.data.loader import Loader
whole = Loader.batch
def batch(self, index):
    if index == 3:
        threading.Event().wait()  # a file system that does not answer
    return whole(self, index)
Loader.batch = batch
sys.exit(main())
"""


def test_a_loader_that_hangs_ends_the_process_and_the_same_command_goes_on(tmp_path):
    # A limit that the step keeps on a busy machine, and that is short of the three evaluations,
    # samples and saves together with the compilation: none of these counts.
    config = processes.write_config(
        tmp_path, "training.steps=6", "training.stall_seconds=15",
        "training.checkpoint.every_steps=1",
    )  # fmt: skip
    words = ["train", str(config), "--out", str(tmp_path / "run"), "--json"]
    ((status, _, error),) = processes.finish(
        processes.start(1, words, tmp_path / "cache", program=STUCK)
    )
    assert status == TRY_AGAIN, error
    assert "no step for 15 seconds (training.stall_seconds) in step 3" in error
    (report,) = (tmp_path / "run").glob("stall-*-process-0.txt")
    assert "in batch" in report.read_text()  # the loader's thread, where it waits
    ((status, output, error),) = processes.finish(processes.start(1, words, tmp_path / "cache"))
    assert status == 0, error
    assert "training from step 3" in error and json.loads(output)["step"] == 6


# --- two runs on one folder -----------------------------------------------------------------------


def test_a_second_run_on_the_same_folder_is_refused_until_the_first_ends(tmp_path):
    experiment, out = small(tmp_path), tmp_path / "run"
    with run_folder.open_run(out, experiment):
        with pytest.raises(UserError, match=f"is being trained by process {os.getpid()} on "):
            with run_folder.open_run(out, experiment):
                pass
    with run_folder.open_run(out, experiment) as changed:
        assert changed == []


DYING = """
import os, signal, sys
from pathlib import Path
from hat.training.run_folder import open_run
from tests.training import tiny
with open_run(Path(sys.argv[2]), tiny.one_layer(Path(sys.argv[1]), "training.log_every_steps=1")):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_lock_of_a_dead_process_is_no_lock(tmp_path):
    experiment, out = small(tmp_path), tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", DYING, tmp_path, out], env=processes.environment(tmp_path)
    )
    assert done.returncode == -signal.SIGKILL
    left = (out / "lock").read_text()
    assert left.startswith("process ") and f"process {os.getpid()} on" not in left
    with run_folder.open_run(out, experiment):
        assert f"process {os.getpid()} on" in (out / "lock").read_text()


def test_a_holder_on_another_host_is_waited_for_while_it_may_be_dead(tmp_path, monkeypatch):
    experiment, out = small(tmp_path), tmp_path / "run"
    out.mkdir()
    with (out / "lock").open("a+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write("process 7 on elsewhere\n")
        other.flush()
        waited = []

        def sleep(seconds):
            waited.append(seconds)
            if len(waited) == 3:  # the file server's lease has ended
                fcntl.flock(other, fcntl.LOCK_UN)

        monkeypatch.setattr(run_folder.time, "sleep", sleep)
        with run_folder.open_run(out, experiment):
            assert len(waited) == 3
    with (out / "lock").open("a+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.truncate(0)
        other.write("process 7 on elsewhere\n")
        other.flush()
        monkeypatch.setattr(run_folder, "LEASE_SECONDS", 0.0)
        with pytest.raises(UserError, match="is being trained by process 7 on elsewhere"):
            with run_folder.open_run(out, experiment):
                pass


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
    def refuse(*args):
        raise OSError(45, "Operation not supported")

    monkeypatch.setattr(run_folder.fcntl, "flock", refuse)
    with run_folder.open_run(tmp_path / "run", small(tmp_path)):
        pass
    assert "without locks (Operation not supported)" in capsys.readouterr().err
