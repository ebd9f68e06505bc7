"""Where every array of a run lives: the mesh, the rules, and the shardings that follow from them.

Parameters carry logical axis names beside their definition; `RULES` maps these to axes of the
mesh. Everything else follows: optimizer moments lie where their parameters lie, rows are split
over the axes that hold no tensor parallelism, scalars are everywhere. The functions ask a mesh
only for its shape, so `jax.sharding.AbstractMesh` serves as well, for pods that are not there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import (
    AbstractDevice,
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
)

from hat.errors import UserError
from hat.models.rows import ROW_AXES
from hat.training.config import MeshConfig
from hat.training.optimizer import is_axes

Tree = Any
AnyMesh = Mesh | AbstractMesh

AXES = ("replica", "fsdp", "tensor")

# Logical axis -> mesh axis. Parameters are split along `fsdp` where they meet the residual stream
# (ZeRO-3: gathered layer by layer, gradients scattered) and along `tensor` inside attention, MLP
# and vocabulary (Megatron: column-parallel in, row-parallel out). The axis that is scanned stays
# whole, or every step of the scan would fetch its layer from one device.
RULES: dict[str | None, str | None] = {
    "layers": None,
    "embed": "fsdp",
    "word_embed": "fsdp",
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    None: None,
}

LARGE_BYTES = 2**20  # a leaf above this is never left whole on a mesh that could split it


# --- meshes ---------------------------------------------------------------------------------------


def mesh_shape(config: MeshConfig, num_devices: int) -> tuple[int, int, int]:
    """Devices along (replica, fsdp, tensor), with the -1 of `config` filled in.

    UserError: the product cannot be `num_devices`.
    """
    sizes = [getattr(config, name) for name in AXES]
    fixed = math.prod(size for size in sizes if size != -1)
    filled = [num_devices // fixed if size == -1 else size for size in sizes]
    if math.prod(filled) != num_devices:
        asked = ", ".join(f"{name}={size}" for name, size in zip(AXES, sizes))
        raise UserError(
            f"training.mesh: {asked} does not fit {num_devices} devices; choose sizes whose "
            f"product is {num_devices}, or set one to -1"
        )
    return tuple(filled)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over `devices` (default: all of every process), axes (replica, fsdp, tensor).

    The axes are of type Auto: the compiler propagates shardings from those of the arguments.
    UserError: the devices do not divide so.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(config, len(devices))
    # Auto must be said: make_mesh makes Explicit axes since jax 0.7.
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def make_abstract_mesh(
    config: MeshConfig, num_devices: int, device: AbstractDevice | None = None
) -> AbstractMesh:
    """The mesh of `num_devices` devices that are not there, for lowering. UserError as above.

    device: what each of them is; the kernels that a program gets depend on it.
    """
    shape = mesh_shape(config, num_devices)
    types = (AxisType.Auto,) * len(AXES)
    return AbstractMesh(shape, AXES, axis_types=types, abstract_device=device)


def make_abstract_device(kind: str, platform: str) -> AbstractDevice:
    """A device that is not there: what JAX calls it, such as "TPU v5p", and "cpu", "gpu", "tpu"."""
    cores = 1 if platform == "tpu" else None
    try:
        return AbstractDevice(kind, cores, platform)
    except TypeError:  # jax 0.10.0, which knows no platform
        return AbstractDevice(kind, cores)


# --- parameters -----------------------------------------------------------------------------------


def partition_spec(
    mesh: AnyMesh, axes: tuple[str | None, ...], shape: tuple[int, ...], itemsize: int
) -> PartitionSpec:
    """The spec of one parameter: `RULES`, applied where they can be.

    A mesh axis serves one dimension of an array, the first that asks. A dimension that its mesh
    axis does not divide stays whole. If that leaves a large array wholly unsplit, its largest
    dimension that some axis divides is split by that axis (fsdp before tensor); the scanned one
    never is.
    """
    spec: list[str | None] = []
    for name, size in zip(axes, shape, strict=True):
        if name not in RULES:
            raise ValueError(f"logical axis {name!r} has no rule; add it to sharding.RULES")
        axis = RULES[name]
        fits = axis is not None and mesh.shape[axis] > 1 and size % mesh.shape[axis] == 0
        spec.append(axis if fits and axis not in spec else None)
    if not any(spec) and math.prod(shape) * itemsize > LARGE_BYTES:
        for axis in ("fsdp", "tensor"):
            free = [
                (size, dim)
                for dim, (name, size) in enumerate(zip(axes, shape))
                if name != "layers" and size % mesh.shape[axis] == 0
            ]
            if mesh.shape[axis] > 1 and free:
                spec[max(free)[1]] = axis
                break
    return PartitionSpec(*spec)


def param_shardings(mesh: AnyMesh, logical_axes: Tree, abstract_params: Tree) -> Tree:
    """A NamedSharding for every parameter.

    logical_axes: a tuple of names per leaf; abstract_params: anything with shape and dtype there.
    UserError: a leaf above 1 MB that no axis of the mesh divides (see `unsharded_leaves`).
    ValueError: a logical axis without a rule, or trees that do not match.
    """

    def sharding(axes: tuple[str | None, ...], leaf: Any) -> NamedSharding:
        itemsize = np.dtype(leaf.dtype).itemsize
        return NamedSharding(mesh, partition_spec(mesh, axes, leaf.shape, itemsize))

    shardings = jax.tree.map(sharding, logical_axes, abstract_params, is_leaf=is_axes)
    if whole := unsharded_leaves(shardings, abstract_params):
        raise UserError(
            f"training.mesh: fsdp={mesh.shape['fsdp']}, tensor={mesh.shape['tensor']} divide no "
            f"dimension of {', '.join(whole)}; choose sizes that do, or set replica, for whole "
            "copies"
        )
    return shardings


def with_shardings(abstract: Tree, shardings: Tree) -> Tree:
    """Shapes and dtypes as they are, each with its sharding."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        abstract,
        shardings,
    )


def unsharded_leaves(shardings: Tree, abstract: Tree, min_bytes: int = LARGE_BYTES) -> list[str]:
    """Leaves above `min_bytes` that lie whole on every device of a mesh that could split them.

    As "backbone/layers/mlp/gate/kernel [4, 100, 300]"; empty where fsdp = tensor = 1.
    """
    found = []
    leaves = jax.tree.leaves_with_path(abstract)
    for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True):
        could_split = sharding.mesh.shape["fsdp"] * sharding.mesh.shape["tensor"] > 1
        size = math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
        if could_split and size > min_bytes and sharding.is_fully_replicated:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            found.append(f"{name} {list(leaf.shape)}")
    return found


# --- state and batches ----------------------------------------------------------------------------


def state_shardings(
    mesh: AnyMesh, abstract_state: Tree, abstract_params: Tree, params_shardings: Tree
) -> Tree:
    """Shardings for a train state, or an optax state: any tree that holds copies of the parameters.

    A leaf whose path ends in the whole path of a parameter and that has its shape (the parameter
    itself, a moment) lies where the parameter lies; this holds inside optax's masks and partitions,
    which keep the names. Everything else is a scalar or small and lies everywhere.
    ValueError: something else that is above 1 MB; give it a rule here.
    """
    shapes = jax.tree.leaves_with_path(abstract_params)
    by_path = {
        tuple(path): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(shapes, jax.tree.leaves(params_shardings), strict=True)
    }
    everywhere = NamedSharding(mesh, PartitionSpec())

    def sharding(path: tuple, leaf: Any) -> NamedSharding:
        for start in range(len(path)):  # the longest suffix first: a path may end in another
            shape, found = by_path.get(tuple(path[start:]), (None, None))
            if shape == leaf.shape:
                return found
        if mesh.size > 1 and math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize > LARGE_BYTES:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(f"{name} {leaf.shape} of the state follows no parameter")
        return everywhere

    return jax.tree.map_with_path(sharding, abstract_state)


def batch_sharding(mesh: AnyMesh) -> NamedSharding:
    """For arrays [B, ...] of a batch: rows split over replica and fsdp, whole along tensor."""
    return NamedSharding(mesh, PartitionSpec(ROW_AXES))


def check_rows(mesh: AnyMesh, batch_size: int, accumulation_steps: int = 1) -> None:
    """UserError unless the rows of one micro-batch divide over the devices that split them."""
    ways = mesh.shape["replica"] * mesh.shape["fsdp"]
    if (batch_size // accumulation_steps) % ways:
        raise UserError(
            f"training.batch_size={batch_size} with accumulation_steps={accumulation_steps} gives "
            f"{batch_size // accumulation_steps} rows at a time, which do not divide over "
            f"{ways} devices (replica x fsdp); make them a multiple of {ways}"
        )
