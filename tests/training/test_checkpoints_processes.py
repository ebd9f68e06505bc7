"""Checkpoints in real processes: killed, out of room, and two of one run."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest

from hat.training.checkpoints import Checkpoints
from hat.training.config import CheckpointConfig
from tests.distributed import processes

CHILD = """
import os, signal, sys
import jax, jax.numpy as jnp
from hat.errors import UserError
from hat.training.checkpoints import Checkpoints
from hat.training.config import CheckpointConfig

def state(step, rows):
    return {"params": {"kernel": jax.random.normal(jax.random.key(step), (rows, 1024))}}

checkpoints = Checkpoints(sys.argv[1], CheckpointConfig(keep_recent=1))
checkpoints.save(1, state(1, 16), {"index": 1})
checkpoints.wait()
"""


# One device, and the tests' own optimisation: the child draws the very numbers that they draw.
ENVIRONMENT = processes.environment(Path("unused"))


def run_child(out_dir: Path, body: str, *prefix: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*prefix, sys.executable, "-c", CHILD + textwrap.dedent(body), str(out_dir)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def child_state(step: int, rows: int):
    return {"params": {"kernel": jax.random.normal(jax.random.key(step), (rows, 1024))}}


def abstract(state):
    return jax.eval_shape(lambda: state)


def assert_equal(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


# --- killed ---------------------------------------------------------------------------------------

KILL_AT_THE_LAST_MOMENT = """
rename = os.rename
def killed(source, target, **kwargs):  # all is written, only the name is not final
    if os.path.basename(os.fspath(target)) == "2":
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(source, target, **kwargs)
os.rename = killed
checkpoints.save(2, state(2, 16), {"index": 2}, force=True)
checkpoints.wait()
"""

KILL_WHILE_WRITING = """
checkpoints.save(2, state(2, 32768), {"index": 2}, force=True)  # 128 MB
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    "body", [KILL_AT_THE_LAST_MOMENT, KILL_WHILE_WRITING], ids=["last moment", "while writing"]
)
def test_kill_9_during_a_save_leaves_the_previous_one(tmp_path, body):
    child = run_child(tmp_path, body)
    assert child.returncode == -signal.SIGKILL, child.stderr
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert "1" in left and "2" not in left
    expected = child_state(1, 16)
    reader = Checkpoints(tmp_path, read_only=True)
    assert reader.latest_step() == 1
    assert_equal(reader.restore_params(abstract(expected["params"]))[0], expected["params"])
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == left

    checkpoints = Checkpoints(tmp_path, CheckpointConfig(keep_recent=2))
    state, meta = checkpoints.restore(abstract(expected))
    assert_equal(state, expected)
    assert meta == {"index": 1}
    assert checkpoints.save(2, child_state(2, 16), {"index": 2}, force=True)
    checkpoints.close()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "2"]
    assert_equal(Checkpoints(tmp_path).restore(abstract(expected))[0], child_state(2, 16))


# --- out of room ----------------------------------------------------------------------------------

FULL = """
LIMIT
checkpoints.save(2, state(2, 8192), {"index": 2}, force=True)  # 32 MB
try:
    while True:
        checkpoints.check_errors()
except UserError as error:
    print(error)
checkpoints.close()  # says nothing twice
found, meta = checkpoints.restore(jax.eval_shape(lambda: state(1, 16)))
print(checkpoints.steps(), meta)
"""


def assert_full_disk_is_one_line(child, words):
    assert child.returncode == 0, child.stderr
    error, rest = child.stdout.strip().split("\n")
    assert "checkpoint of step 2 could not be written" in error
    assert words in error
    assert "step 1 is complete" in error
    assert rest == "[1] {'index': 1}"
    assert "Traceback" not in child.stderr


def test_file_that_cannot_grow_is_one_line_and_loses_nothing(tmp_path):
    limit = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
"""
    child = run_child(tmp_path, FULL.replace("LIMIT", limit))
    assert_full_disk_is_one_line(child, "File too large")


def test_full_disk_is_one_line_and_loses_nothing(tmp_path):
    probe = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=8m none {tmp_path}"
    try:
        allowed = subprocess.run([*probe, mount], capture_output=True).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("this machine does not let us mount a small file system")
    child = run_child(
        tmp_path / "run",
        FULL.replace("LIMIT", ""),
        *probe,
        mount + ' && exec "$@"',
        "sh",
    )
    assert_full_disk_is_one_line(child, "No space left on device")


# --- two processes of one run ---------------------------------------------------------------------

TWO = """
import os, sys
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
out_dir, port, process = sys.argv[1], sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(f"localhost:{port}", 2, process)
from hat.training.checkpoints import Checkpoints
from hat.training.config import CheckpointConfig, MeshConfig
from hat.training.sharding import make_mesh

rows = NamedSharding(make_mesh(MeshConfig()), PartitionSpec("fsdp"))
ones = jax.jit(lambda: jnp.ones((2, 8)), out_shardings=rows)()
checkpoints = Checkpoints(out_dir, CheckpointConfig(every_seconds=1))
saved, step = [], 0
while len(saved) < 3:  # the clocks are asked at different moments; the answers are the same
    step += 1
    if checkpoints.save(step, {"params": ones * step}, {"index": step}):
        saved.append(step)
checkpoints.close()
from jax.experimental.multihost_utils import sync_global_devices
if process == 0:
    manifest = os.path.join(out_dir, "checkpoints", str(saved[-1]), "state", "manifest.ocdbt")
    os.truncate(manifest, 20)
sync_global_devices("damaged")
checkpoints = Checkpoints(out_dir)
abstract = {"params": jax.ShapeDtypeStruct((2, 8), jnp.float32, sharding=rows)}
state, meta = checkpoints.restore(abstract)
value = float(state["params"].addressable_shards[0].data[0, 0])
print("RESULT", saved, value, meta, checkpoints.steps(), flush=True)
checkpoints.close()
"""


def test_two_processes_decide_alike_and_fall_back_alike(tmp_path):
    port = processes.free_port()
    children = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, str(tmp_path), str(port), str(process)],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    try:
        outputs = [child.communicate(timeout=240) for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], outputs
    results = [
        [line for line in out.splitlines() if line.startswith("RESULT")] for out, _ in outputs
    ]
    assert results[0] == results[1]
    saved = [path.name for path in (tmp_path / "checkpoints").glob("[0-9]*")]
    assert len(saved) == 1  # of the newest two, the damaged one was put aside
    step = int(saved[0])
    assert results[0][0].endswith(f"{float(step)} {{'index': {step}}} [{step}]")
    assert [err.count("is damaged") for _, err in outputs] == [1, 0]
