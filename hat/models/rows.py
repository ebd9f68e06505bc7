"""Where activations live on a mesh: every device keeps the rows of the batch that it was given."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec

ROW_AXES = ("replica", "fsdp")  # mesh axes that split rows; see hat.training.sharding


def keep_rows(x: jax.Array) -> jax.Array:
    """x [B, ...], its rows split over ROW_AXES and whole otherwise, where there is such a mesh.

    Said at the edges of every part and block. Left to itself the compiler lets an embedding table
    that is split along its width decide: it then splits activations along their width too, keeps
    every row on every device, and needs a hundred times the memory.
    """
    if not _mesh_has_rows():
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(ROW_AXES))


def on_own_rows(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """function(*arrays) of arrays [B, ...], run by every device on the rows that it holds.

    For code that joins the rows of a batch into one dimension: the compiler cannot see that no
    row touches another, and would run it on all rows everywhere.
    """
    if not _mesh_has_rows():
        return function(*arrays)
    rows = PartitionSpec(ROW_AXES)
    return jax.shard_map(function, in_specs=rows, out_specs=rows, axis_names=set(ROW_AXES))(*arrays)


def _mesh_has_rows() -> bool:
    return set(ROW_AXES) <= set(jax.sharding.get_abstract_mesh().axis_names)
