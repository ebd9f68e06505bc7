"""`hat launch` as its user meets it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hat.cli import main
from hat.launching import local
from hat.launching.description import Launch, Local

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = "launch/example.toml"
STEPS = '"training.steps=1", "training.seconds=none"'


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def fails(capsys, *argv: str) -> str:
    assert main(["launch", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


@pytest.mark.parametrize("argv, message", [
    (["gcp", EXAMPLE], "invalid choice: 'gcp'"),
    (["local", "none.toml"], "cannot read the run description none.toml"),
    (["tpu-vm", EXAMPLE], "give --write DIR, or --print"),
    (["tpu-vm", EXAMPLE, "--print", "--write", "x"], "not allowed with argument --print"),
    (["slurm", EXAMPLE], "has no [gpu]"),
    (["local", EXAMPLE], "--set out=runs"),
    (["gke", EXAMPLE, "--set", "gke.imag=x"], "gke has no field imag; did you mean image?"),
    (["gke", EXAMPLE, "--set", "tpu.topology=v5e:3x3"], "topology 'v5e:3x3' does not exist"),
    (["gke", EXAMPLE, "--set", "config=configs/none.py", "--print"], "cannot read the config"),
    (["gke", EXAMPLE, "--set", "config=hat/errors.py", "--print"], "has no function config()"),
    (["gke", EXAMPLE, "--set", 'sets=("training.sed=1",)', "--print"], "did you mean seed?"),
    (["gke", EXAMPLE, "--set", f'sets=("training.batch_size=3", {STEPS})', "--print"],
     "do not divide over 16 devices"),
    (["gke", EXAMPLE, "--set", f'sets=("training.mesh.fsdp=5", {STEPS})', "--print"],
     "does not fit 16 devices"),
    (["gke", EXAMPLE, "--set", 'sets=("training.batch_size=16",)', "--print"],
     "training.seconds=240: the clocks of 4 processes differ"),
])  # fmt: skip
def test_a_mistake_is_one_line(argv, message, capsys):
    assert message in fails(capsys, *argv)


def test_print_shows_and_write_writes_the_same(capsys, tmp_path):
    assert main(["launch", "tpu-vm", EXAMPLE, "--print", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["processes"], printed["devices"]) == (4, 16)
    assert printed["out"] == "gs://my-bucket/runs/quickstart-pod"
    folder = tmp_path / "new" / "folder"
    for _ in range(2):  # writing over it is the same again
        assert main(["launch", "tpu-vm", EXAMPLE, "--write", str(folder)]) == 0
    assert {path.name: path.read_text() for path in folder.iterdir()} == printed["files"]
    assert all(path.stat().st_mode & stat.S_IXUSR for path in folder.iterdir())


def launch(**changes) -> Launch:
    return Launch(name="a", config="c.py", out="runs", **changes)


def test_local_processes_share_a_coordinator_and_nothing_else():
    inherited = {"HOME": "/home/me", "HAT_DISTRIBUTED": "auto", "HAT_PROCESS_ID": "9"}
    two = launch(local=Local(processes=2, devices_per_process=4), environment=("A=1",))
    first, second = local.processes(two, 4711, inherited)
    assert first.argv == second.argv and first.argv[:4] == [sys.executable, "-m", "hat", "train"]
    assert first.argv[-4:] == ["--expect-processes", "2", "--expect-devices", "8"]
    assert second.environment == {
        "HOME": "/home/me", "A": "1", "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "HAT_COORDINATOR": "localhost:4711", "HAT_NUM_PROCESSES": "2", "HAT_PROCESS_ID": "1",
    }  # fmt: skip
    assert dict(first.environment, HAT_PROCESS_ID="1") == second.environment


def test_local_processes_share_the_gpus():
    two = launch(local=Local(processes=2, devices_per_process=2, platform="cuda"))
    found = [p.environment["JAX_LOCAL_DEVICE_IDS"] for p in local.processes(two, 1, {})]
    assert found == ["0,1", "2,3"]


def test_two_processes_really_train(tmp_path):
    """`hat launch local` of a tiny run: two processes of gloo, one result; again, the same."""
    config = tmp_path / "tiny.py"
    config.write_text(
        "from pathlib import Path\n"
        "from tests.training import tiny\n"
        "def config():\n"
        f"    return tiny.one_layer(Path({str(tmp_path)!r}), 'training.steps=4',\n"
        "                          'training.samples.prompts=()')\n"
    )
    run = tmp_path / "run.toml"
    run.write_text(
        f'name = "tiny"\nconfig = "{config}"\nout = "{tmp_path}/runs"\nrestarts = 0\n'
        '[local]\nprocesses = 2\n'
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HAT_CACHE": str(tmp_path / "cache")}
    environment.pop("XLA_FLAGS", None)
    command = [sys.executable, "-m", "hat", "launch", "local", str(run), "--json"]
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["processes"] == 2
        result = json.loads((tmp_path / "runs" / "tiny" / "result.json").read_text())
        assert result["finished"] and result["step"] == 4
        assert "[0] " in done.stderr
