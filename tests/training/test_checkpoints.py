from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hat.config import differences
from hat.errors import UserError
from hat.training.checkpoints import Checkpoints
from hat.training.config import CheckpointConfig, MeshConfig, OptimizerConfig, PartConfig
from hat.training.optimizer import make_optimizer
from hat.training.sharding import make_mesh, param_shardings, state_shardings

# What tensorstore had under way when it met damage, it drops noisily, at some later moment.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
needs_8_devices = pytest.mark.skipif(jax.device_count() != 8, reason="needs 8 virtual devices")

AXES = {
    "encoder": {"kernel": ("layers", "embed", "mlp"), "scale": ("layers", "embed")},
    "head": {"kernel": ("embed", "vocab")},
}


class State(NamedTuple):
    step: Any
    params: Any
    opt_state: Any


def make_state(step: int, config: OptimizerConfig = OptimizerConfig()) -> State:
    """A state with other values in every leaf at every step."""
    rng = np.random.default_rng(step)

    def fill(leaf):
        return jnp.asarray(rng.normal(size=leaf.shape) * 10, leaf.dtype)

    sizes = {
        "encoder": {"kernel": np.zeros((2, 16, 32)), "scale": np.zeros((2, 16))},
        "head": {"kernel": np.zeros((16, 24))},
    }
    params = jax.tree.map(lambda leaf: fill(leaf.astype(np.float32)), sizes)
    state = jax.eval_shape(make_optimizer(config, AXES).init, params)
    return State(jnp.int32(step), params, jax.tree.map(fill, state))


def abstract(state):
    return jax.eval_shape(lambda: state)


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def save_now(checkpoints: Checkpoints, step: int, **meta) -> State:
    state = make_state(step)
    assert checkpoints.save(step, state, {"index": step, **meta}, force=True)
    checkpoints.wait()
    return state


# --- values ---------------------------------------------------------------------------------------


def test_nothing_to_restore(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run")
    assert checkpoints.restore(abstract(make_state(0))) is None
    assert checkpoints.latest_step() is None
    checkpoints.close()
    reader = Checkpoints(tmp_path / "nowhere", read_only=True)
    with pytest.raises(UserError, match="no checkpoint"):
        reader.restore_params(abstract(make_state(0).params))
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "config",
    [
        OptimizerConfig(moment_dtype="bfloat16"),
        OptimizerConfig(
            name="muon", parts=(PartConfig("encoder", 0.5, 10), PartConfig("head", 0.0))
        ),
    ],
    ids=["adamw", "muon"],
)
def test_exact_values_structure_and_meta(tmp_path, config, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints = Checkpoints("run")  # a relative path is as good
    state = make_state(3, config)
    meta = {"index": 7, "elapsed_seconds": 1.5, "experiment": {"model": {"sizes": (1, 2)}}}
    checkpoints.save(3, state, meta)
    checkpoints.close()
    found, found_meta = Checkpoints("run").restore(abstract(state))
    assert_equal(found, state)
    assert isinstance(found.step, jax.Array)
    assert found_meta == json.loads(json.dumps(meta))


@needs_8_devices
def test_restore_onto_another_mesh(tmp_path):
    state = make_state(5)

    def placed(mesh):
        params = param_shardings(mesh, AXES, abstract(state.params))
        shardings = state_shardings(mesh, abstract(state), abstract(state.params), params)
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            abstract(state),
            shardings,
        )

    shapes = [
        make_mesh(MeshConfig(tensor=2)),
        make_mesh(MeshConfig(replica=2, fsdp=2, tensor=2)),
        make_mesh(MeshConfig(), jax.devices()[:1]),
    ]
    before = placed(shapes[0])
    checkpoints = Checkpoints(tmp_path)
    split = jax.device_put(state, jax.tree.map(lambda leaf: leaf.sharding, before))
    checkpoints.save(5, split, {}, force=True)
    checkpoints.wait()
    for mesh in shapes:
        wanted = placed(mesh)
        found, _ = checkpoints.restore(wanted)
        assert_equal(found, state)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            assert a.sharding == b.sharding
    checkpoints.close()


def test_saved_arrays_may_be_donated_at_once(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    state = make_state(1)
    copy = jax.tree.map(np.array, state)
    checkpoints.save(1, state, {})
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    for _ in range(20):  # writes over the buffers while the save still runs
        state = step(state)
    checkpoints.wait()
    found, _ = checkpoints.restore(abstract(make_state(1)))
    assert_equal(found, copy)
    checkpoints.close()


def test_params_alone_converted_and_placed(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    save_now(checkpoints, 1)
    state = save_now(checkpoints, 2, note="here")
    checkpoints.close()
    reader = Checkpoints(tmp_path, read_only=True)
    params, meta = reader.restore_params(abstract(state.params))
    assert_equal(params, state.params)
    assert meta == {"index": 2, "note": "here"}
    half = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), abstract(state.params)
    )
    assert_equal(
        reader.restore_params(half)[0],
        jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state.params),
    )
    with pytest.raises(UserError, match=r"params/head/bias missing -> float32\[3\]"):
        reader.restore_params(
            {"head": {**state.params["head"], "bias": jax.ShapeDtypeStruct((3,), jnp.float32)}}
        )
    assert not reader.save(3, state, {})


# --- when and which -------------------------------------------------------------------------------


def test_by_time_and_by_step(tmp_path):
    config = CheckpointConfig(every_seconds=100_000, keep_recent=2, every_steps=4)
    checkpoints = Checkpoints(tmp_path, config)
    saved = []
    for step in range(1, 14):
        if checkpoints.save(step, make_state(step), {}):
            saved.append(step)
            checkpoints.wait()
    assert saved == [1, 4, 8, 12]  # the first at once, then the multiples alone
    assert checkpoints.steps() == [4, 8, 12]
    for step in (13, 14, 15):
        save_now(checkpoints, step)
    assert checkpoints.steps() == [4, 8, 12, 14, 15]
    assert not checkpoints.save(15, make_state(15), {}, force=True)
    checkpoints.close()


def test_due_again_when_the_time_is_over(tmp_path):
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(every_seconds=1, keep_recent=2))
    saved = []
    for step in range(1, 1000):
        if checkpoints.save(step, make_state(step), {}):
            saved.append(step)
            checkpoints.wait()
            if len(saved) == 3:
                break
        time.sleep(0.01)
    assert saved[0] == 1
    assert len(saved) == 3
    assert checkpoints.steps() == saved[-2:]
    checkpoints.close()


def test_a_save_that_runs_is_not_yet_the_latest(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    save_now(checkpoints, 1)
    gate, rename = threading.Event(), os.rename

    def late(source, target, **kwargs):
        if Path(target).name == "2":
            assert gate.wait(60)
        return rename(source, target, **kwargs)

    monkeypatch.setattr(os, "rename", late)
    assert checkpoints.save(2, make_state(2), {}, force=True)
    checkpoints.check_errors()  # does not block
    assert checkpoints.latest_step() == 1
    gate.set()
    checkpoints.wait()
    assert checkpoints.latest_step() == 2
    checkpoints.close()


# --- another run ----------------------------------------------------------------------------------


def test_other_config_names_the_fields(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    state = save_now(checkpoints, 1, experiment={"model": {"encoder": {"num_layers": 2}}})
    current = {"encoder": {"num_layers": 3}}

    def differing(meta):
        return differences(meta["experiment"]["model"], current)

    with pytest.raises(UserError, match=r"encoder.num_layers: 2 .checkpoint. != 3 .config..*--out"):
        checkpoints.restore(abstract(state), differing)
    current = {"encoder": {"num_layers": 2}}
    assert checkpoints.restore(abstract(state), differing) is not None
    checkpoints.close()


def test_other_arrays_are_refused_and_named(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    state = save_now(checkpoints, 1)
    other = abstract(state)
    other.params["head"]["kernel"] = jax.ShapeDtypeStruct((16, 25), jnp.float32)
    with pytest.raises(UserError, match=r"params/head/kernel float32\[16, 24\] -> .*25\]"):
        checkpoints.restore(other)
    half = abstract(make_state(1, OptimizerConfig(moment_dtype="bfloat16")))
    with pytest.raises(UserError, match=r"mu/.*float32\[.* -> bfloat16"):
        checkpoints.restore(half)
    with pytest.raises(UserError, match="and .* more"):
        checkpoints.restore(abstract(make_state(1, OptimizerConfig(name="muon"))))
    # A refusal is not damage: nothing was put aside.
    assert_equal(checkpoints.restore(abstract(state))[0], state)
    checkpoints.close()


def test_meta_must_be_json(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(TypeError):
        checkpoints.save(1, make_state(1), {"array": np.zeros(3)})
    assert checkpoints.steps() == []
    checkpoints.close()


# --- damage ---------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def damage_arrays(step: Path) -> None:
    truncate(max(step.glob("state/ocdbt.process_0/d/*"), key=lambda path: path.stat().st_size))


def damage_index(step: Path) -> None:
    truncate(step / "state" / "manifest.ocdbt")


def damage_meta(step: Path) -> None:
    truncate(step / "meta" / "metadata")


def damage_names(step: Path) -> None:
    (step / "state" / "_METADATA").unlink()


@pytest.mark.parametrize("damage", [damage_arrays, damage_index, damage_meta, damage_names])
def test_damaged_newest_falls_back_and_goes_on(tmp_path, capsys, damage):
    checkpoints = Checkpoints(tmp_path)
    older = save_now(checkpoints, 1)
    save_now(checkpoints, 2)
    checkpoints.close()
    damage(tmp_path / "checkpoints" / "2")

    reader = Checkpoints(tmp_path, read_only=True)
    if damage is not damage_arrays:  # those may be moments, which a reader never touches
        assert_equal(reader.restore_params(abstract(older.params))[0], older.params)
    assert reader.steps() == [1, 2]  # a reader only looks
    capsys.readouterr()

    checkpoints = Checkpoints(tmp_path)
    state, meta = checkpoints.restore(abstract(older))
    assert_equal(state, older)
    assert meta["index"] == 1
    warning = capsys.readouterr().err
    assert "checkpoints/2 is damaged" in warning
    assert warning.count("\n") == 1
    aside = (tmp_path / "checkpoints").glob("damaged*")
    assert [path.name[:10] for path in aside] == ["damaged-2-"]
    newer = save_now(checkpoints, 2)  # the run comes to step 2 once more
    assert_equal(checkpoints.restore(abstract(older))[0], newer)
    checkpoints.close()


def test_all_damaged_is_one_line(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    state = save_now(checkpoints, 1)
    damage_index(tmp_path / "checkpoints" / "1")
    with pytest.raises(UserError, match=r"none of the checkpoints.*\(steps 1\)") as caught:
        checkpoints.restore(abstract(state))
    assert "\n" not in str(caught.value)
    assert (tmp_path / "checkpoints" / "1").exists()
    checkpoints.close()


def test_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write checkpoints to .*file/checkpoints"):
        Checkpoints(tmp_path / "file")
