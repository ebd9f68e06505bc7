"""Parameters are created where they live: a host never holds a second copy of them."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.distributed import processes

# The peak is that of a process of its own, interpreter and JAX included. Every part is frozen, so
# the state is the parameters alone; moments would lie beside them, split in the same way.
PROGRAM = r"""
import dataclasses, json, re, resource
from pathlib import Path
import jax
from hat.config import load, override
from hat.text.rows import empty_row, expand_words
from hat.training.config import PartConfig
from hat.training.program import Program

def peak_bytes():
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss begins with what the process that started this one has held
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text()).group(1)) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

backbone = dict(hidden_size=1536, num_layers=26, num_heads=16, num_kv_heads=8,
                intermediate_size=6144)
experiment = override(load("configs/tfree_hat_7b.py"), [
    "training.batch_size=8",
    *(f"model.backbone.{name}={value}" for name, value in backbone.items()),
])
parts = tuple(PartConfig(name, multiplier=0.0) for name in experiment.model.build().parts)
optimizer = dataclasses.replace(experiment.training.optimizer, parts=parts)
experiment = dataclasses.replace(
    experiment, training=dataclasses.replace(experiment.training, optimizer=optimizer)
)
row = expand_words(empty_row(has_words=True), 64, 32)
program = Program(experiment, [{name: (8, *values.shape) for name, values in row.items()}])
state = jax.block_until_ready(program.init())
leaves = jax.tree.leaves(state.params)
print(json.dumps({
    "parameters": sum(leaf.size for leaf in leaves),
    "bytes": sum(leaf.nbytes for leaf in leaves),
    "state_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
    "largest_share": max(
        leaf.addressable_shards[0].data.nbytes / leaf.nbytes
        for leaf in leaves if leaf.nbytes > 2**20
    ),
    "devices": jax.device_count(),
    "peak": peak_bytes(),
}))
"""


def test_a_billion_parameters_are_initialised_where_they_live(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        # Optimised, unlike other tests: a billion numbers are drawn.
        env=processes.environment(tmp_path, XLA_FLAGS=f"{processes.DEVICES}=8"),
        cwd=processes.ROOT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["devices"] == 8 and found["parameters"] > 1e9
    assert found["largest_share"] == 1 / 8
    assert found["state_bytes"] < 1.001 * found["bytes"]  # nothing but the parameters
    # Measured: 1.22, of which 0.12 are the interpreter, JAX and the compiler.
    assert found["peak"] < 1.3 * found["bytes"], found
