"""The rendered scripts, run by bash with programs of our own in place of the cluster's."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import subprocess
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.errors import UserError
from hat.launching import gke, shell, slurm, tpu_vm
from hat.launching.description import Launch, Slurm
from tests.launching.descriptions import LAUNCHES, Shell


@pytest.fixture
def bash(tmp_path) -> Shell:
    return Shell(tmp_path / "shell")


def expanded(text: str, environment: dict[str, str]) -> str:
    """`text` as a container gets it, by the rules of the Kubernetes API: $$ is $, $(NAME) is the
    variable if there is one, and everything else is itself."""
    return re.sub(
        r"\$(\$|\(([^)]*)\))",
        lambda m: "$" if m[1] == "$" else environment.get(m[2], m[0]),
        text,
    )


# --- SLURM ------------------------------------------------------------------------------------

SRUN = """\
#!/usr/bin/env bash
# Runs the command once a task, like srun of two tasks, the second of which is last.
shift
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" || exit
SLURM_PROCID=1 SLURM_LOCALID=1 "$@"
"""
SCONTROL = """\
#!{python}
import sys
if sys.argv[1:3] == ["show", "hostnames"]:
    print("node07\\nnode09")
else:
    print("scontrol", *sys.argv[1:])
"""
JOB = dict(SLURM_JOB_ID="4711", SLURM_JOB_NODELIST="node[07,09]")


def slurm_job(bash: Shell, tmp_path, name: str, **changes) -> str:
    """The job of LAUNCHES[name], in folders of this test, with hat, srun and scontrol at hand."""
    _, launch = LAUNCHES[name]
    bash.program("hat")
    bash.program("srun", SRUN)
    bash.program("scontrol", SCONTROL)
    bash.program("sleep", "#!/bin/sh\n")
    launch = dataclasses.replace(
        launch, out=str(tmp_path), slurm=Slurm(folder=str(tmp_path)), **changes
    )
    return slurm.render(launch)["job.sh"]


@pytest.mark.parametrize("name, local_devices", [
    ("slurm_node", ["0,1,2,3,4,5,6,7"] * 2), ("slurm_gpu", ["0", "1"]),
])
def test_slurm_tells_each_process_who_it_is(bash, tmp_path, name, local_devices):
    job = slurm_job(bash, tmp_path, name)
    (tmp_path / "hat-7b").mkdir()
    (tmp_path / "hat-7b" / "result.json").write_text("{}")
    result = bash.run("bash", "-c", job, **JOB)
    assert result.returncode == 0 and "requeue" not in result.stdout
    _, launch = LAUNCHES[name]
    for index, (argv, environment) in enumerate(bash.calls("hat")):
        assert argv == [
            "train", "configs/tfree_hat_7b.py", "--out", f"{tmp_path}/hat-7b",
            "--set", "training.batch_size=512",
            "--expect-processes", str(launch.gpu.processes),
            "--expect-devices", str(launch.gpu.devices),
        ]  # fmt: skip
        assert environment["HAT_COORDINATOR"] == "node07:24711"
        assert environment["HAT_NUM_PROCESSES"] == str(launch.gpu.processes)
        assert environment["HAT_PROCESS_ID"] == str(index)
        assert environment["JAX_LOCAL_DEVICE_IDS"] == local_devices[index]
    assert len(bash.calls("hat")) == 2


def test_slurm_requeues_a_run_that_has_saved(bash, tmp_path):
    result = bash.run("bash", "-c", slurm_job(bash, tmp_path, "slurm_node"), **JOB)
    assert (result.returncode, result.stdout) == (0, "scontrol requeue 4711\n")


def test_slurm_starts_a_run_that_fails_again_and_gives_up(bash, tmp_path):
    job = slurm_job(bash, tmp_path, "slurm_node", restarts=2)
    result = bash.run("bash", "-c", job, STATUSES_hat="1", **JOB)
    assert result.returncode == 1 and len(bash.calls("hat")) == 3
    result = bash.run("bash", "-c", job, STATUSES_hat="1 1 0", **JOB)
    assert (result.returncode, result.stdout) == (0, "scontrol requeue 4711\n")


# --- GKE --------------------------------------------------------------------------------------


def container_of(launch: Launch) -> dict:
    job = gke.jobset(launch)["spec"]["replicatedJobs"][0]["template"]["spec"]
    return job["template"]["spec"]["containers"][0]


def run_pod(bash: Shell, launch: Launch, **variables: str) -> subprocess.CompletedProcess:
    """What the container does, its environment and command expanded as Kubernetes does."""
    container = container_of(launch)
    given_by_us: dict[str, str] = {}
    for variable in container["env"]:
        given_by_us[variable["name"]] = expanded(variable["value"], given_by_us)
    command = [expanded(word, given_by_us) for word in container["command"]]
    return bash.run(*command, **given_by_us, **variables)


def test_a_gpu_pod_tells_its_process_who_it_is(bash, tmp_path, monkeypatch):
    monkeypatch.setattr(shell, "MOUNT", str(tmp_path))
    bash.program("hat")
    _, launch = LAUNCHES["gke_gpu"]
    run_pod(bash, launch, JOB_COMPLETION_INDEX="3")
    (argv, environment), = bash.calls("hat")
    assert argv[-4:] == ["--expect-processes", "4", "--expect-devices", "32"]
    assert environment["HAT_COORDINATOR"] == "hat-7b-workers-0-0.hat-7b:8476"
    assert (environment["HAT_NUM_PROCESSES"], environment["HAT_PROCESS_ID"]) == ("4", "3")


def test_a_tpu_pod_lets_jax_find_the_others(bash, tmp_path, monkeypatch):
    monkeypatch.setattr(shell, "MOUNT", str(tmp_path))
    bash.program("hat")
    run_pod(bash, LAUNCHES["gke_tpu"][1])
    (argv, environment), = bash.calls("hat")
    assert argv[-4:] == ["--expect-processes", "128", "--expect-devices", "512"]
    assert environment["HAT_DISTRIBUTED"] == "auto" and "HAT_COORDINATOR" not in environment


def test_the_status_of_a_pod_says_whether_the_run_is_over(bash, tmp_path, monkeypatch):
    monkeypatch.setattr(shell, "MOUNT", str(tmp_path))
    bash.program("hat")
    _, launch = LAUNCHES["gke_tpu"]
    assert run_pod(bash, launch, STATUSES_hat="3").returncode == 3
    assert run_pod(bash, launch).returncode == shell.DRAINED_STATUS
    folder = tmp_path / "my-bucket" / "runs" / "hat-7b"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    assert run_pod(bash, launch).returncode == 0


def test_a_run_that_ends_before_the_pod_looks_keeps_its_status(bash, tmp_path, monkeypatch):
    monkeypatch.setattr(shell, "MOUNT", str(tmp_path))
    bash.program("hat")
    command = [expanded(word, {}) for word in container_of(LAUNCHES["gke_tpu"][1])["command"]]
    # The pod sets its trap only after the child is over and bash has seen it.
    late = 'trap() { while kill -0 "$child" 2>/dev/null; do :; done; }; '
    for status, expected in (("3", 3), ("0", shell.DRAINED_STATUS)):
        result = bash.run(*command[:2], late + command[2], STATUSES_hat=status)
        assert (result.returncode, len(bash.calls("hat"))) == (expected, 1)


SLOW_TO_SAVE = """\
#!{python}
import os, pathlib, signal, sys, time
folder = pathlib.Path(os.environ["CALLS"]).parent
def save(*_):
    time.sleep(0.2)
    (folder / "saved").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
(folder / "ready").touch()
time.sleep(60)
"""


def test_a_pod_passes_sigterm_on_and_waits_for_the_save(bash, tmp_path, monkeypatch):
    monkeypatch.setattr(shell, "MOUNT", str(tmp_path))
    bash.program("hat", SLOW_TO_SAVE)
    command = [expanded(word, {}) for word in container_of(LAUNCHES["gke_tpu"][1])["command"]]
    folder = bash.programs.parent
    pod = subprocess.Popen(
        command, env={"PATH": f"{bash.programs}:/usr/bin:/bin", "CALLS": str(folder / "calls")}
    )
    deadline = time.monotonic() + 60
    while not (folder / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    pod.send_signal(signal.SIGTERM)
    assert pod.wait(60) == shell.DRAINED_STATUS
    assert (folder / "saved").exists()


def test_xpk_runs_the_same_command(bash, tmp_path, monkeypatch):
    monkeypatch.setattr(shell, "MOUNT", str(tmp_path))
    bash.program("xpk")
    bash.program("hat")
    _, launch = LAUNCHES["gke_tpu"]
    assert bash.run("bash", "-c", gke.render(launch)["xpk.sh"]).returncode == 0
    (argv, _), = bash.calls("xpk")
    options = dict(word.removeprefix("--").split("=", 1) for word in argv[2:])
    assert argv[:2] == ["workload", "create"] and options["workload"] == "hat-7b"
    assert (options["tpu-type"], options["num-slices"]) == ("v5litepod-256", "2")
    bash.run("bash", "-c", expanded(options["command"], {}))
    (through_xpk, environment), = bash.calls("hat")
    run_pod(bash, launch)
    (direct, expected), = bash.calls("hat")
    assert through_xpk == direct
    assert environment["LIBTPU_INIT_ARGS"] == expected["LIBTPU_INIT_ARGS"]
    assert environment["HAT_DISTRIBUTED"] == "auto"


KUBECTL = """\
#!{python}
import os, pathlib, sys
folder = pathlib.Path(os.environ["CALLS"]).parent
with (folder / "kubectl").open("a") as file:
    file.write(sys.argv[1] + " ")
if sys.argv[1] == "get":
    print(end=os.environ.get("ENDED", ""))
"""


@pytest.mark.parametrize("ended, verbs", [("", "get apply "), ("Failed", "get delete apply ")])
def test_launching_on_gke_again_goes_on(bash, ended, verbs):
    bash.program("gcloud")
    bash.program("kubectl", KUBECTL)
    script = gke.render(LAUNCHES["gke_tpu"][1])["launch.sh"]
    assert bash.run("bash", "-c", script, ENDED=ended).returncode == 0
    assert (bash.programs.parent / "kubectl").read_text() == verbs


# --- TPU VMs ----------------------------------------------------------------------------------

# A cloud in a folder: the file `state` is the request, absent without it; `script` holds the
# states that the request takes, one at each question; `files` is what the bucket holds.
GCLOUD = """\
#!{python}
import os, pathlib, sys
cloud = pathlib.Path(os.environ["CALLS"]).parent
argv = sys.argv[1:]
with (cloud / "log").open("a") as file:
    file.write(" ".join(argv[2:4] if argv[0] == "compute" else argv[1:2]) + "\\n")
script = (cloud / "script").read_text().split()
if argv[:2] == ["storage", "ls"]:
    sys.exit(argv[2].rpartition("/")[2] not in script[0])
if argv[:2] == ["storage", "cat"]:
    print("host-3: failed 4 times")
if "create" in argv:
    (cloud / "created").touch()
if "delete" in argv:
    (cloud / "created").unlink()
if "describe" in argv and "tpu-vm" in argv:
    print("PREEMPTED" if script[0] == "LOST" else "READY")
elif "describe" in argv:
    if len(script) > 1:
        (cloud / "script").write_text(" ".join(script[1:]))
    if script[0] == "DOWN":
        sys.exit("503 try again")
    if not (cloud / "created").exists():
        sys.exit("ERROR: NOT_FOUND: Resource not found")
    print({"LOST": "ACTIVE"}.get(script[0].partition("+")[0], script[0].partition("+")[0]))
"""


def babysit(bash: Shell, states: str) -> tuple[int, list[str], str]:
    """(status, verbs of gcloud that change something, standard error) over the given states."""
    bash.program("gcloud", GCLOUD)
    cloud = bash.programs.parent
    files = tpu_vm.render(LAUNCHES["tpu_vm"][1])
    for name, text in files.items():
        (cloud / name).write_text(text)
    (cloud / "script").write_text(states)
    (cloud / "log").write_text("")
    result = bash.run("bash", str(cloud / "babysit.sh"), POLL_SECONDS="0")
    verbs = [line.split()[-1] for line in (cloud / "log").read_text().splitlines()]
    return result.returncode, [v for v in verbs if v in ("create", "delete")], result.stderr


@pytest.mark.parametrize("end", ["SUSPENDED", "FAILED"])
def test_a_lost_request_is_made_again(bash, end):
    waited = "A A WAITING_FOR_RESOURCES ACTIVE"
    again = "A ACTIVE ACTIVE+result.json ACTIVE+result.json"
    status, verbs, err = babysit(bash, f"{waited} {end} {end} {again}")
    assert (status, verbs) == (0, ["create", "delete", "create", "delete"])
    assert f"the request is {end}" in err and err.endswith("finished\n")


def test_a_run_that_fails_gives_its_slices_back(bash):
    status, verbs, err = babysit(bash, "A ACTIVE ACTIVE+launch-failed.txt ACTIVE+launch-failed.txt")
    assert (status, verbs) == (1, ["create", "delete"])
    assert "host-3: failed 4 times" in err


def test_a_finished_run_asks_for_nothing(bash):
    assert babysit(bash, "A+result.json A+result.json")[:2] == (0, [])


def test_a_service_that_does_not_answer_is_asked_again(bash):
    status, verbs, err = babysit(bash, "DOWN A A ACTIVE ACTIVE+result.json ACTIVE+result.json")
    assert (status, verbs) == (0, ["create", "delete"])
    assert err.count("503 try again") >= 1


STARTUP_PROGRAMS = ("apt-get", "git", "gcsfuse", "mountpoint", "gcloud", "hostname")


def startup(bash: Shell, tmp_path, monkeypatch, **changes) -> str:
    """The startup script on a host of this test, where hat is installed."""
    monkeypatch.setattr(shell, "MOUNT", str(tmp_path / "gcs"))
    monkeypatch.setattr(tpu_vm, "CHECKOUT", str(tmp_path / "hat"))
    monkeypatch.setattr(tpu_vm, "LOG", str(tmp_path / "log"))
    for program in STARTUP_PROGRAMS:
        bash.program(program)
    bash.program("hat")
    bash.program("sleep", "#!/bin/sh\n")
    (tmp_path / "hat").mkdir()
    (tmp_path / "hat" / "installed").touch()
    path = tmp_path / "startup.sh"
    launch = dataclasses.replace(LAUNCHES["tpu_vm"][1], **changes)
    path.write_text(tpu_vm.render(launch)["startup.sh"])
    return str(path)


def test_a_host_gives_up_after_its_restarts(bash, tmp_path, monkeypatch):
    path = startup(bash, tmp_path, monkeypatch, restarts=2)
    # Ended without a result and without an error twice: another host was told to stop.
    result = bash.run("bash", path, STATUSES_hat="0 1 0 1 1")
    assert result.returncode == 1 and len(bash.calls("hat")) == 5
    (argv, _), = bash.calls("gcloud")
    assert argv == ["storage", "cp", "-", "gs://my-bucket/runs/hat-7b/launch-failed.txt"]
    argv, environment = bash.calls("hat")[0]
    assert argv[-4:] == ["--expect-processes", "128", "--expect-devices", "512"]
    assert environment["HAT_DISTRIBUTED"] == "auto"
    assert "xla_tpu" in environment["LIBTPU_INIT_ARGS"]


def test_a_host_stops_when_the_run_has_its_result(bash, tmp_path, monkeypatch):
    path = startup(bash, tmp_path, monkeypatch)
    bash.program("hat", '#!/bin/sh\nmkdir -p "$4" && touch "$4/result.json"\n')
    result = bash.run("bash", path)
    assert result.returncode == 0, result.stderr
    assert bash.run("bash", path).returncode == 0  # the next boot


def test_a_host_that_cannot_install_says_so(bash, tmp_path, monkeypatch):
    path = startup(bash, tmp_path, monkeypatch)
    (tmp_path / "hat" / "installed").unlink()
    result = bash.run("bash", path, **{"STATUSES_apt-get": "100"})
    assert result.returncode == 1
    assert bash.calls("hat") == [] and len(bash.calls("gcloud")) == 1
    assert len(bash.calls("apt-get")) == 6  # tried again before that


# --- quoting ----------------------------------------------------------------------------------

HOSTILE = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=12
) | st.sampled_from(["$(id)", "$$(A)", "`id`", "';id;'", '"', "\\", "!!", "*", "~", "${A}", "#a"])


@settings(max_examples=25)
@given(st.lists(HOSTILE, max_size=3), HOSTILE)
def test_values_arrive_as_they_were_written(tmp_path_factory, values, variable):
    """In every target, whatever the text: nothing is expanded, split or run on the way."""
    folder = tmp_path_factory.mktemp("quoting")
    bash = Shell(folder / "shell")
    for name in ("hat", "xpk"):
        bash.program(name)
    bash.program("srun", '#!/bin/sh\nshift\nSLURM_PROCID=0 SLURM_LOCALID=0 "$@"\n')
    bash.program("scontrol", SCONTROL)
    sets = tuple(f"data.source={value}" for value in values)
    changes = dict(sets=sets, environment=(f"A={variable}",), restarts=0)
    try:
        launches = {name: dataclasses.replace(LAUNCHES[name][1], **changes) for name in (
            "slurm_node", "gke_tpu", "tpu_vm")}
    except UserError:
        return  # not printable
    expected = ["train", "configs/tfree_hat_7b.py", "--out"], list(sets), variable

    def received() -> tuple:
        argv, environment = bash.calls("hat")[0]
        found = argv[argv.index("--set") + 1 : argv.index("--expect-processes")] if sets else []
        return argv[:3], found, environment["A"]

    job = dataclasses.replace(launches["slurm_node"], out=str(folder), slurm=Slurm(str(folder)))
    job = slurm.render(job)["job.sh"].replace("sleep 10", "")
    bash.run("bash", "-c", job, **JOB)
    assert received() == expected
    run_pod(bash, launches["gke_tpu"])
    assert received() == expected
    bash.run("bash", "-c", gke.render(launches["gke_tpu"])["xpk.sh"])
    command = bash.calls("xpk")[0][0][-1].removeprefix("--command=")
    bash.run("bash", "-c", expanded(command, {}))
    assert received() == expected
    # Of the startup script, the part that trains: what stands before it needs a host.
    _, cd, script = tpu_vm.render(launches["tpu_vm"])["startup.sh"].rpartition("cd /opt/hat\n")
    assert cd
    bash.run("bash", "-c", "stopping=1; hostname() { :; }; gcloud() { :; }\n" + script)
    assert received() == expected


def test_the_kubernetes_of_these_tests_expands():
    assert expanded("$(A) $$(A) $(B) $A $$", {"A": "a"}) == "a $(A) $(B) $A $"
    assert json.dumps(gke._literal("$(A) $$")) == '"$$(A) $$$$"'
