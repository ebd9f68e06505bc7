"""`hat plan` as its user runs it: by formula anywhere, by compiling where libtpu is."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from hat.cli import main

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = str(ROOT / "configs" / "quickstart.py")
SMALL = ["training.batch_size=8", "data.row_length=256", "data.row_words=64"]

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="needs libtpu, which `pip install -e '.[tpu]'` installs on any machine",
)


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(["plan", QUICKSTART, *arguments, "--set", *SMALL])
    return status, *capsys.readouterr()


def test_a_cluster_by_formula(capsys):
    status, out, err = run(capsys, "--topology", "h100:8", "--json")
    assert status == 0
    plan = json.loads(out)
    assert plan["topology"] == "h100:8" and plan["mesh"] == {"replica": 1, "fsdp": 8, "tensor": 1}
    assert plan["fits"] and not plan["compiled"] and 0 < plan["mfu"] < 1
    assert plan["uncounted"] == []  # cuDNN's kernels are counted by formula
    assert plan["seconds"]["step"] >= max(plan["seconds"][name] for name in ("compute",))
    assert "predicted" in err and "never measured" in err


def test_a_sweep_by_formula(capsys):
    status, out, _ = run(capsys, "--topology", "v5e:2x2", "--formula", "--sweep", "--top", "3",
                         "--json")  # fmt: skip
    plans = json.loads(out)["plans"]
    assert status == 0 and len(plans) == 3
    speeds = [plan["bytes_per_second"] for plan in plans]
    assert speeds == sorted(speeds, reverse=True)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--topology", "v5p:9x9x9", "--formula"], "no such pod; nearest are v5p:"),
        (["--topology", "v7:2x2"], "no chip 'v7'"),
        (["--topology", "h100:8", "--set", "training.mesh.fsdp=3"], "does not fit 8 devices"),
        (["--topology", "h100:32"], "8 rows at a time, which do not divide over 32 devices"),
        (["--topology", "v5e:2x2", "--formula", "--set", "model.backbone.hidden_size=131072",
          "model.backbone.num_heads=1024", "model.connector.hidden_size=131072"],
         "GB of HBM a chip"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(capsys, arguments, complaint):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert complaint in err.splitlines()[-1] and err.count("hat: error") == 1


def test_without_libtpu(capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "libtpu" else find(n))
    status, _, err = run(capsys, "--topology", "v5e:2x2")
    assert status == 2 and len(err.splitlines()) == 1
    assert "pip install" in err and "--formula" in err


@needs_libtpu
def test_a_pod_by_compiling(tmp_path):
    """A process of its own, since libtpu never leaves one; the second time from the cache."""
    command = [sys.executable, "-m", "hat", "plan", QUICKSTART, "--topology", "v5e:2x2", "--json",
               "--set", *SMALL, "model.encoder.num_layers=1", "model.decoder.num_layers=1"]
    environment = {"HAT_CACHE": str(tmp_path), "PYTHONPATH": ":".join(filter(None, sys.path))}

    def plan() -> dict:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    first = plan()
    (cached,) = (tmp_path / "plans").iterdir()
    written = cached.stat().st_mtime_ns
    assert first["compiled"] and first["fits"] and first["collectives"]
    assert 0 < first["memory_bytes"]["temporaries"] < 2**34
    assert plan() == first and cached.stat().st_mtime_ns == written
