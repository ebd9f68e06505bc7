"""Every named config lowers for its own pod, on a machine that has none.

The step that `hat train` runs is traced and lowered for a mesh of devices that are not there. That
finds shapes and shardings that do not go together, and kernels that the platform refuses; what
only a compiler finds, `hat plan` does.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hat.config import load, override
from hat.planning.step import batch_shapes
from hat.training.program import Program
from hat.training.sharding import make_abstract_device, make_abstract_mesh, unsharded_leaves

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

# The devices of the pod, and the layout that launch/tpu.md plans for it.
PODS = {
    "quickstart": (4, ["training.batch_size=4"]),
    "quickstart_bpe": (4, ["training.batch_size=4"]),
    "quickstart_bytes": (4, ["training.batch_size=4"]),
    "equal_info_m1": (4, ["training.batch_size=4"]),
    "equal_info_m2": (4, ["training.batch_size=4"]),
    "sft": (4, ["training.batch_size=4"]),
    "hat_1b": (8, []),
    "hat_2025_1b": (64, ["training.accumulation_steps=4"]),
    "hat_2025_3b": (256, ["training.accumulation_steps=4"]),
    "hat_2025_7b": (256, ["training.accumulation_steps=4"]),
    "tfree_hat_7b": (256, ["model.remat=attention", "training.accumulation_steps=2"]),
    "tfree_hat_8b_llama": (256, ["training.accumulation_steps=4"]),
    "llama_to_hat": (256, ["training.accumulation_steps=4"]),
    "tfree_hat_70b": (512, [
        "model.remat=dots", "training.accumulation_steps=2",
        "training.mesh.replica=8", "training.mesh.fsdp=64",
    ]),
}

# Their teacher, or the run that they depart from, must be on the disk; without it, the first is
# llama_to_hat.
NEEDS_A_RUN = {
    "llama_to_hat_staged", "llama_to_hat_small", "dpo", "hypernetwork", "hypernetwork_bytes",
    "dynamic_adaptation",
}  # fmt: skip


def test_every_named_config_has_its_pod():
    assert set(PODS) | NEEDS_A_RUN == {path.stem for path in CONFIGS.glob("*.py")}


@pytest.mark.parametrize("name", PODS)
def test_it_lowers(name):
    devices, changes = PODS[name]
    experiment = override(load(CONFIGS / f"{name}.py"), changes)
    mesh = make_abstract_mesh(
        experiment.training.mesh, devices, make_abstract_device("TPU v5", "tpu")
    )
    program = Program(experiment, [batch_shapes(experiment)], mesh)
    (traced,) = program.traced_steps.values()
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert f"mhlo.num_partitions = {devices} " in text
    assert unsharded_leaves(program.state_shardings, program.abstract_state) == []
    # The kernels are in it: one call at least forward and two backward for every stack.
    assert len(re.findall("tpu_custom_call", text)) >= 3
