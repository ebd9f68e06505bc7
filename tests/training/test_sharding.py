from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hat.errors import UserError
from hat.training.config import MeshConfig, OptimizerConfig, PartConfig
from hat.training.optimizer import make_optimizer
from hat.training.sharding import (
    AXES,
    LARGE_BYTES,
    RULES,
    batch_sharding,
    check_rows,
    make_abstract_mesh,
    make_mesh,
    mesh_shape,
    param_shardings,
    partition_spec,
    state_shardings,
    unsharded_leaves,
)

needs_8_devices = pytest.mark.skipif(jax.device_count() != 8, reason="needs 8 virtual devices")

# A hierarchical model in small: every logical axis occurs.
LOGICAL = {
    "encoder": {
        "embedding": ("vocab", "embed"),
        "layers": {
            "q": {"kernel": ("layers", "embed", "heads")},
            "k": {"kernel": ("layers", "embed", "kv_heads")},
            "o": {"kernel": ("layers", "heads", "embed")},
            "gate": {"kernel": ("layers", "embed", "mlp")},
            "down": {"kernel": ("layers", "mlp", "embed")},
            "norm": {"scale": ("layers", "embed")},
        },
    },
    "connector": {"kernel": ("embed", "word_embed"), "query": ("heads", None)},
    "head": {"kernel": ("embed", "vocab")},
}


def abstract_params(d=64, heads=32, kv=16, mlp=128, vocab=264, layers=2, word=96):
    sizes = {
        "embed": d, "heads": heads, "kv_heads": kv, "mlp": mlp, "vocab": vocab, "layers": layers,
        "word_embed": word, None: 8,
    }  # fmt: skip
    return jax.tree.map(
        lambda axes: jax.ShapeDtypeStruct([sizes[name] for name in axes], jnp.float32),
        LOGICAL,
        is_leaf=lambda value: isinstance(value, tuple),
    )


def specs(shardings):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): sharding.spec
        for path, sharding in jax.tree.leaves_with_path(shardings)
    }


# --- meshes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "devices", "shape"),
    [
        (MeshConfig(), 1, (1, 1, 1)),
        (MeshConfig(), 8, (1, 8, 1)),
        (MeshConfig(replica=2, tensor=2), 8, (2, 2, 2)),
        (MeshConfig(replica=-1, fsdp=1), 6, (6, 1, 1)),
        (MeshConfig(1, 4, 2), 8, (1, 4, 2)),
    ],
)
def test_mesh_shape(config, devices, shape):
    assert mesh_shape(config, devices) == shape
    assert tuple(make_abstract_mesh(config, devices).shape.values()) == shape


@pytest.mark.parametrize(
    "config",
    [MeshConfig(tensor=3), MeshConfig(fsdp=4), MeshConfig(replica=16), MeshConfig(1, 8, 2)],
)
def test_mesh_that_does_not_fit(config):
    with pytest.raises(UserError, match="8 devices"):
        mesh_shape(config, 8)


@pytest.mark.parametrize("sizes", [{"tensor": 0}, {"replica": -2}, {"replica": -1, "fsdp": -1}])
def test_mesh_config_refuses(sizes):
    with pytest.raises(UserError, match="mesh"):
        MeshConfig(**sizes)


@needs_8_devices
def test_mesh_axes_are_auto():
    mesh = make_mesh(MeshConfig(tensor=2))
    assert mesh.axis_names == AXES
    assert mesh.devices.shape == (1, 4, 2)
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert make_mesh(MeshConfig(), jax.devices()[:2]).devices.shape == (1, 2, 1)


# --- parameters -----------------------------------------------------------------------------------


def test_every_rule_is_used_and_placed_as_it_says():
    mesh = make_abstract_mesh(MeshConfig(replica=2, tensor=2), 8)
    shardings = param_shardings(mesh, LOGICAL, abstract_params())
    used = set()
    for (path, axes), sharding in zip(
        jax.tree.leaves_with_path(LOGICAL, is_leaf=lambda value: isinstance(value, tuple)),
        jax.tree.leaves(shardings),
        strict=True,
    ):
        taken = [axis for axis in sharding.spec if axis]
        assert len(taken) == len(set(taken)), path
        for name, axis in zip(axes, sharding.spec, strict=True):
            used.add(name)
            # each dimension lies as its rule says, unless another took the mesh axis first
            assert axis == RULES[name] or (axis is None and RULES[name] in taken), path
    assert used == set(RULES)
    assert specs(shardings) == {
        "encoder/embedding": PartitionSpec("tensor", "fsdp"),
        "encoder/layers/q/kernel": PartitionSpec(None, "fsdp", "tensor"),
        "encoder/layers/k/kernel": PartitionSpec(None, "fsdp", "tensor"),
        "encoder/layers/o/kernel": PartitionSpec(None, "tensor", "fsdp"),
        "encoder/layers/gate/kernel": PartitionSpec(None, "fsdp", "tensor"),
        "encoder/layers/down/kernel": PartitionSpec(None, "tensor", "fsdp"),
        "encoder/layers/norm/scale": PartitionSpec(None, "fsdp"),
        "connector/kernel": PartitionSpec("fsdp", None),
        "connector/query": PartitionSpec("tensor", None),
        "head/kernel": PartitionSpec("fsdp", "tensor"),
    }


axis_names = st.sampled_from([name for name in RULES if name])


@given(
    axes=st.lists(axis_names, min_size=1, max_size=3),
    data=st.data(),
    devices=st.sampled_from([1, 2, 6, 8, 64]),
    itemsize=st.sampled_from([2, 4]),
)
@settings(max_examples=300, deadline=None)
def test_any_spec_is_legal_and_large_leaves_are_split_where_they_can_be(
    axes, data, devices, itemsize
):
    tensor = data.draw(st.sampled_from([t for t in (1, 2, 4) if devices % t == 0]))
    mesh = make_abstract_mesh(MeshConfig(tensor=tensor), devices)
    sizes = st.sampled_from([1, 3, 7, 8, 96, 100, 4096, 4099])
    shape = tuple(data.draw(sizes) for _ in axes)
    spec = partition_spec(mesh, tuple(axes), shape, itemsize)
    taken = [axis for axis in spec if axis]
    assert len(spec) == len(shape)
    assert len(taken) == len(set(taken))
    for axis, size in zip(spec, shape):
        assert axis is None or (mesh.shape[axis] > 1 and size % mesh.shape[axis] == 0)
    could = any(
        mesh.shape[axis] > 1 and size % mesh.shape[axis] == 0
        for axis in ("fsdp", "tensor")
        for name, size in zip(axes, shape)
        if name != "layers"
    )
    if could and math.prod(shape) * itemsize > LARGE_BYTES:
        assert taken


def test_large_leaf_goes_to_another_dimension_small_one_stays_whole():
    mesh = make_abstract_mesh(MeshConfig(fsdp=8), 8)
    assert partition_spec(mesh, ("embed", "mlp"), (100, 4096), 4) == PartitionSpec(None, "fsdp")
    assert partition_spec(mesh, ("embed", "mlp"), (100, 8), 4) == PartitionSpec(None, None)
    mesh = make_abstract_mesh(MeshConfig(fsdp=1, tensor=8), 8)
    assert partition_spec(mesh, ("embed", "embed"), (1024, 512), 4) == PartitionSpec("tensor", None)
    assert partition_spec(mesh, ("layers", "embed"), (2**20, 1), 4) == PartitionSpec(None, None)


def test_large_leaf_that_nothing_divides_is_an_error_with_its_name():
    mesh = make_abstract_mesh(MeshConfig(), 8)
    axes = {"backbone": {"kernel": ("embed", "mlp")}}
    large = {"backbone": {"kernel": jax.ShapeDtypeStruct((1001, 1003), jnp.float32)}}
    with pytest.raises(UserError, match=r"backbone/kernel \[1001, 1003\]"):
        param_shardings(mesh, axes, large)
    # Whole copies are right where they were asked for.
    replicas = make_abstract_mesh(MeshConfig(replica=-1, fsdp=1), 8)
    shardings = param_shardings(replicas, axes, large)
    assert unsharded_leaves(shardings, large) == []
    # A small one is no matter.
    small = {"backbone": {"kernel": jax.ShapeDtypeStruct((101, 103), jnp.float32)}}
    shardings = param_shardings(mesh, axes, small)
    assert unsharded_leaves(shardings, small) == []
    assert unsharded_leaves(shardings, small, min_bytes=1000) == ["backbone/kernel [101, 103]"]


def test_unknown_logical_axis_is_refused():
    mesh = make_abstract_mesh(MeshConfig(), 8)
    with pytest.raises(ValueError, match="'experts'.*RULES"):
        partition_spec(mesh, ("experts", "embed"), (8, 8), 4)


# --- state ----------------------------------------------------------------------------------------

OPTIMIZERS = [
    OptimizerConfig(),
    OptimizerConfig(name="muon"),
    OptimizerConfig(
        name="muon", parts=(PartConfig("encoder", 0.5, 10), PartConfig("connector", 0.0))
    ),
]


@pytest.mark.parametrize("config", OPTIMIZERS)
def test_moments_lie_where_their_parameters_lie(config):
    mesh = make_abstract_mesh(MeshConfig(tensor=2), 8)
    params = abstract_params()
    shardings = param_shardings(mesh, LOGICAL, params)
    optimizer = make_optimizer(config, LOGICAL)
    state = {
        "step": jax.ShapeDtypeStruct((), jnp.int32),
        "params": params,
        "opt_state": jax.eval_shape(optimizer.init, params),
    }
    found = specs(state_shardings(mesh, state, params, shardings))
    expected = specs(shardings)
    moments = 0
    for path, spec in found.items():
        matching = [name for name in expected if path.endswith("/" + name)]
        if matching:
            moments += path.startswith("opt_state")
            assert spec == expected[matching[0]], path
        else:
            assert spec == PartitionSpec(), path
    frozen = {part.name for part in config.parts if part.multiplier == 0}
    trained = [name for name in expected if name.split("/")[0] not in frozen]
    matrices = [name for name in trained if "layers/" in name and "norm" not in name]
    matrices += [name for name in trained if name == "connector/kernel"]
    doubles = len(trained) * 2 - (len(matrices) if config.name == "muon" else 0)
    assert moments == doubles


def test_the_longest_name_wins():
    mesh = make_abstract_mesh(MeshConfig(tensor=2), 8)
    params = {
        "kernel": jax.ShapeDtypeStruct((8, 8), jnp.float32),
        "head": {"kernel": jax.ShapeDtypeStruct((8, 8), jnp.float32)},
    }
    shardings = {
        "kernel": NamedSharding(mesh, PartitionSpec("fsdp")),
        "head": {"kernel": NamedSharding(mesh, PartitionSpec("tensor"))},
    }
    assert state_shardings(mesh, (params,), params, shardings) == (shardings,)


def test_large_state_that_follows_no_parameter_is_refused():
    mesh = make_abstract_mesh(MeshConfig(), 8)
    state = {"table": jax.ShapeDtypeStruct((1024, 1024), jnp.float32)}
    with pytest.raises(ValueError, match="table"):
        state_shardings(mesh, state, {}, {})


# --- running --------------------------------------------------------------------------------------


def update_step(optimizer):
    def step(params, state, batch):
        def loss(params):
            hidden = params["encoder"]["embedding"][batch]
            layers = jax.tree.map(lambda leaf: leaf[0], params["encoder"]["layers"])
            inner = hidden @ layers["q"]["kernel"] @ layers["o"]["kernel"]
            inner += hidden @ layers["gate"]["kernel"] @ layers["down"]["kernel"]
            inner += (hidden @ layers["k"]["kernel"]).sum()
            hidden = jnp.tanh(hidden + inner) * layers["norm"]["scale"]
            words = hidden @ params["connector"]["kernel"]
            return jnp.mean((hidden @ params["head"]["kernel"]) ** 2) + jnp.mean(words**2)

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return jax.tree.map(lambda p, u: p + 0.01 * u, params, updates), state

    return step


def all_shardings(mesh, optimizer):
    params = abstract_params()
    shardings = param_shardings(mesh, LOGICAL, params)
    state = jax.eval_shape(optimizer.init, params)
    return shardings, state_shardings(mesh, state, params, shardings), batch_sharding(mesh)


@needs_8_devices
def test_sharded_step_equals_that_of_one_device():
    optimizer = make_optimizer(OptimizerConfig(name="muon", muon_steps=2), LOGICAL)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 8, abstract_params()
    )
    batch = rng.integers(0, 264, (16, 5))
    expected, _ = jax.jit(update_step(optimizer))(params, jax.jit(optimizer.init)(params), batch)

    places, state_places, rows = all_shardings(make_mesh(MeshConfig(tensor=2)), optimizer)
    step = jax.jit(
        update_step(optimizer),
        in_shardings=(places, state_places, rows),
        out_shardings=(places, state_places),
        donate_argnums=(0, 1),
    )
    split = jax.device_put(params, places)
    state = jax.jit(optimizer.init, out_shardings=state_places)(split)
    given_leaf = split["encoder"]["embedding"]
    found, state = step(split, state, jax.device_put(batch, rows))
    assert given_leaf.is_deleted()  # donated: input and output lie alike
    kernel = found["encoder"]["layers"]["q"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (2, 16, 16)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        # one update of size 0.01; Adam's first is sign-like, so tiny gradients may differ
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_lowers_for_a_pod_that_is_not_there():
    mesh = make_abstract_mesh(MeshConfig(replica=2, tensor=4), 256)
    optimizer = make_optimizer(OptimizerConfig(name="muon"), LOGICAL)
    params = abstract_params()
    places, state_places, rows = all_shardings(mesh, optimizer)

    def with_shardings(tree, shardings):
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            tree,
            shardings,
        )

    lowered = (
        jax.jit(update_step(optimizer), out_shardings=(places, state_places))
        .trace(
            with_shardings(params, places),
            with_shardings(jax.eval_shape(optimizer.init, params), state_places),
            jax.ShapeDtypeStruct((64, 5), jnp.int32, sharding=rows),
        )
        .lower(lowering_platforms=("tpu",))
    )
    assert "num_partitions = 256" in lowered.as_text()


@needs_8_devices
def test_rows_are_split_over_replica_and_fsdp():
    mesh = make_mesh(MeshConfig(replica=2, tensor=2))
    batch = jax.device_put(np.arange(24).reshape(8, 3), batch_sharding(mesh))
    assert {shard.data.shape for shard in batch.addressable_shards} == {(2, 3)}
    assert {shard.index[0].start for shard in batch.addressable_shards} == {0, 2, 4, 6}


def test_check_rows():
    mesh = make_abstract_mesh(MeshConfig(replica=2, tensor=2), 8)
    check_rows(mesh, 8)
    check_rows(mesh, 8, accumulation_steps=2)
    with pytest.raises(UserError, match="batch_size=8.*multiple of 4"):
        check_rows(mesh, 8, accumulation_steps=4)


def test_foreign_optimizer_states_are_placed_too():
    """Nothing here knows which optimizer it is: another of optax's works the same."""
    mesh = make_abstract_mesh(MeshConfig(tensor=2), 8)
    params = abstract_params()
    shardings = param_shardings(mesh, LOGICAL, params)
    optimizer = optax.chain(optax.sgd(0.1, momentum=0.9), optax.ema(0.99))
    state = jax.eval_shape(optimizer.init, params)
    found = specs(state_shardings(mesh, state, params, shardings))
    assert sum(spec == PartitionSpec(None, "fsdp", "tensor") for spec in found.values()) == 2 * 3
