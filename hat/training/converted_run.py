"""Runs that no training wrote: converted parameters in the folder of a run, and back.

Their checkpoint is of step 0 and has parameters alone, in the dtype that they came in. Everything
that takes a run for its parameters takes it; there is nothing to resume in it.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hat import __version__
from hat import config as configs
from hat.errors import UserError
from hat.models.model import LanguageModel, Params
from hat.training.checkpoints import LARGE_BYTES, Checkpoints
from hat.training.config import MeshConfig
from hat.training.experiment import Experiment
from hat.training.position import Position
from hat.training.run_folder import CONFIG_FILE, write_atomically
from hat.training.sharding import make_mesh, param_shardings


def local_shardings(model: LanguageModel) -> Params:
    """A sharding for every parameter, over all devices as training would."""
    return param_shardings(
        make_mesh(MeshConfig()), model.logical_axes(), model.abstract_params()
    )


def write_run(folder: Path, experiment: Experiment, params: Params) -> None:
    """Writes config.json and a checkpoint of step 0 into a folder that is there."""
    text = json.dumps(configs.to_dict(experiment), indent=2) + "\n"
    write_atomically(folder / CONFIG_FILE, text)
    meta = dataclasses.asdict(Position()) | {
        "experiment": configs.to_dict(experiment),
        "corpus": None,
        "version": __version__,
    }
    params = jax.tree.map(jax.numpy.asarray, params)  # those of NumPy; others as they are
    checkpoints = Checkpoints(folder, host_bytes=_largest(params))
    try:
        checkpoints.save(0, {"params": params}, meta, force=True)
    finally:
        checkpoints.close()


def read_params(
    folder: Path, model: LanguageModel, shardings: Params, parts: Sequence[str] | None = None
) -> Params:
    """The parameters (of these parts) of the newest checkpoint, in the dtypes it has, placed.

    As many of them at a time as are not larger together than the largest: what is read stays in
    memory beside its array until that is made.
    """
    parts = model.parts if parts is None else parts
    abstract = {name: model.abstract_params()[name] for name in parts}
    largest = _largest(abstract)
    checkpoints = Checkpoints(folder, read_only=True, host_bytes=largest)
    try:
        dtypes = checkpoints.param_dtypes()

        def placed(path, leaf, sharding):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return jax.ShapeDtypeStruct(
                leaf.shape, dtypes.get(name, leaf.dtype), sharding=sharding
            )

        places = {name: shardings[name] for name in parts}
        wanted = jax.tree.map_with_path(placed, abstract, places)
        found: Params = {}
        metas = []
        for group in _groups(wanted, max(largest, LARGE_BYTES)):
            read, meta = checkpoints.restore_params(_nested(group))
            jax.block_until_ready(read)
            if largest >= LARGE_BYTES:
                gc.collect()  # Orbax leaves what it read in circles of references
            found = _nested([*jax.tree.leaves_with_path(found), *jax.tree.leaves_with_path(read)])
            metas.append(meta)
        if any(meta != metas[0] for meta in metas):
            raise UserError(f"{folder} changes while it is read; wait until its training stops")
        return found
    finally:
        checkpoints.close()


def _groups(tree: Params, most: int) -> Iterator[list[tuple[tuple, Any]]]:
    """(path, leaf) of a tree, so many at a time as have `most` bytes together, or one."""
    group: list[tuple[tuple, Any]] = []
    for path, leaf in jax.tree.leaves_with_path(tree):
        if group and sum(map(_size, [*(leaf for _, leaf in group), leaf])) > most:
            yield group
            group = []
        group.append((path, leaf))
    yield group


def _nested(leaves: Iterable[tuple[tuple, Any]]) -> Params:
    """The tree of dicts with these leaves at these paths."""
    tree: Params = {}
    for (*groups, last), leaf in leaves:
        node = tree
        for key in groups:
            node = node.setdefault(key.key, {})
        node[last.key] = leaf
    return tree


def _largest(params: Params) -> int:
    """Bytes of the largest parameter."""
    return max(map(_size, jax.tree.leaves(params)))


def _size(leaf) -> int:
    return math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
