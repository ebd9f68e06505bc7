"""Between the parameters of a model and the tensors of a file that hold the same numbers.

A parameter here is one array: the layers of a stack on a leading axis, kernels [in, out]. Files
name a tensor for each layer, matrices [out, in]. A `Leaf` knows both; nothing else about a format
is needed to read it, a shard at a time, or to write it, a tensor at a time.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from hat.conversion.tensor_files import Spec, Tensors, listed
from hat.errors import UserError
from hat.models.model import LanguageModel, Params

LAYER = "{layer}"  # in the name of a tensor that every layer has one of

BLOCK = {  # parameters of `hat.models.layers.Block` -> tensors of a Llama layer
    "attention_norm/scale": "input_layernorm.weight",
    "attention/q/kernel": "self_attn.q_proj.weight",
    "attention/k/kernel": "self_attn.k_proj.weight",
    "attention/v/kernel": "self_attn.v_proj.weight",
    "attention/o/kernel": "self_attn.o_proj.weight",
    "attention/q/bias": "self_attn.q_proj.bias",
    "attention/k/bias": "self_attn.k_proj.bias",
    "attention/v/bias": "self_attn.v_proj.bias",
    "attention/q_norm/scale": "self_attn.q_norm.weight",
    "attention/k_norm/scale": "self_attn.k_norm.weight",
    "mlp_norm/scale": "post_attention_layernorm.weight",
    "mlp/gate/kernel": "mlp.gate_proj.weight",
    "mlp/up/kernel": "mlp.up_proj.weight",
    "mlp/down/kernel": "mlp.down_proj.weight",
}


def stack_names(ours: str, theirs: str) -> dict[str, str]:
    """BLOCK under the path of a stack of blocks and the name of a layer (with LAYER in it)."""
    return {f"{ours}/{path}": f"{theirs}.{name}" for path, name in BLOCK.items()}


@dataclasses.dataclass(frozen=True)
class Ids:
    """Which row of an embedding (or of a head) is which. Rows of ours that nothing names are 0.

    count: rows of theirs; the first `count` of ours are these, but for those that are moved.
    moved: (row of ours, tensor, row of that tensor) of others, as they are read.
    moved_back: (row of ours, row of theirs), as they are written.
    """

    count: int
    moved: tuple[tuple[int, str, int], ...] = ()
    moved_back: tuple[tuple[int, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A parameter and its tensors.

    path: of the parameter, "backbone/mlp/up/kernel". shape: of the parameter, with the axis of
    the layers where `stacked`. names: of its tensors, one a layer. their_shape: of each.
    ids: where the parameter has a row (of a head: a column) for each id.
    """

    path: str
    shape: tuple[int, ...]
    stacked: bool
    names: tuple[str, ...]
    their_shape: tuple[int, ...]
    ids: Ids | None = None

    @property
    def transposed(self) -> bool:
        return self.path.endswith("/kernel")

    def read(self, tensors: Tensors, index: tuple[slice, ...]) -> np.ndarray:
        """The part of the parameter at `index`, in new memory and the dtype of the file."""
        dtype = tensors.specs[self.names[0]].dtype
        part = np.empty([len(range(*s.indices(n))) for s, n in zip(index, self.shape)], dtype)
        if self.ids is not None:
            self._read_ids(tensors, index, part.T if self.transposed else part)
        elif self.stacked:
            for i, layer in enumerate(range(*index[0].indices(self.shape[0]))):
                part[i] = self._matrix(tensors.read(self.names[layer]))[index[1:]]
        else:
            part[...] = self._matrix(tensors.read(self.names[0]))[index]
        return part

    def write(self, array: Any) -> Iterator[tuple[str, np.ndarray]]:
        """The tensors that hold the parameter."""
        host = np.asarray(array)
        if self.ids is not None:
            rows = host.T if self.transposed else host
            theirs = rows[: self.ids.count]
            if self.ids.moved_back:
                theirs = theirs.copy()
            for ours, row in self.ids.moved_back:
                theirs[row] = rows[ours]
            yield self.names[0], theirs
            return
        for name, matrix in zip(self.names, host if self.stacked else host[None]):
            yield name, (matrix.T if self.transposed else matrix).reshape(self.their_shape)

    def _matrix(self, tensor: np.ndarray) -> np.ndarray:
        """A tensor as the matrix or vector that the parameter holds."""
        shape = self.shape[1:] if self.stacked else self.shape
        return tensor.T if self.transposed else tensor.reshape(shape)

    def _read_ids(self, tensors: Tensors, index: tuple[slice, ...], part: np.ndarray) -> None:
        """Fills part [rows, d] from tables [rows, d]."""
        rows, columns = reversed(index) if self.transposed else index
        size = self.shape[1] if self.transposed else self.shape[0]
        first, last, _ = rows.indices(size)
        known = min(max(self.ids.count - first, 0), last - first)
        part[:known] = tensors.read(self.names[0])[first : first + known, columns]
        part[known:] = 0
        for ours, name, row in self.ids.moved:
            if first <= ours < last:
                part[ours - first] = tensors.read(name)[row, columns]


def make_leaves(
    model: LanguageModel,
    names: Mapping[str, str],
    ids: Mapping[str, Ids],
    their_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> list[Leaf]:
    """The leaves of a model, largest first: what is read last then has the most memory to spare.

    names: of the tensor (or of those of every layer, with LAYER) by the path of the parameter;
    ids: of the parameters with a row for each id; their_shapes: of tensors that are shaped in a
    way of their own.
    """
    leaves = []
    for path, parameter in paths(model.abstract_params()).items():
        name, shape, their_ids = names[path], tuple(parameter.shape), ids.get(path)
        stacked = LAYER in name
        one = shape[1:] if stacked else shape
        theirs = one[::-1] if path.endswith("/kernel") else one
        if their_ids is not None:
            theirs = (their_ids.count, theirs[1])
        theirs = (their_shapes or {}).get(path, theirs)
        layers = range(shape[0] if stacked else 1)
        layer_names = tuple(name.replace(LAYER, str(layer)) for layer in layers)
        leaves.append(Leaf(path, shape, stacked, layer_names, theirs, their_ids))
    return sorted(leaves, key=lambda leaf: -math.prod(leaf.shape))


def paths(tree: Any) -> dict[str, Any]:
    """Every leaf of nested dicts by its path, "backbone/mlp/up/kernel"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def nested(leaves: Mapping[str, Any]) -> Params:
    """The inverse of `paths`."""
    tree: Params = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def check(
    leaves: Sequence[Leaf], tensors: Tensors, ignored: Callable[[str], bool] = lambda name: False
) -> None:
    """UserError that lists the tensors missing, unexpected, misshapen and of mixed dtypes."""
    expected = {name: leaf.their_shape for leaf in leaves for name in leaf.names}
    specs = tensors.specs
    found = {
        "missing": [name for name in expected if name not in specs],
        "unexpected": [name for name in specs if name not in expected and not ignored(name)],
        "misshapen": [
            f"{name} {list(specs[name].shape)}, not {list(shape)}"
            for name, shape in expected.items()
            if name in specs and specs[name].shape != shape
        ],
        "of another dtype than the first layer's": [
            f"{name} {specs[name].dtype}"
            for leaf in leaves
            for name in leaf.names
            if len({specs[n].dtype for n in (name, leaf.names[0]) if n in specs}) > 1
        ],
    }
    told = [f"{len(items)} {what} ({listed(items)})" for what, items in found.items() if items]
    if told:
        raise UserError(f"{tensors.where} does not hold what its config says: {'; '.join(told)}")


def read_params(leaves: Sequence[Leaf], tensors: Tensors, shardings: Params) -> Params:
    """The parameters in the dtypes of the file, every array made in place from its shards.

    shardings: one for each leaf in the structure of the parameters. What of the files has been
    looked at is given back after every parameter, so that little more is in memory than they.
    """
    placed, found = paths(shardings), {}
    for leaf in leaves:
        found[leaf.path] = jax.make_array_from_callback(
            leaf.shape, placed[leaf.path], functools.partial(leaf.read, tensors)
        )
        # The copy onto the devices runs on its own, and keeps what it copies until it is done.
        jax.block_until_ready(found[leaf.path])
        tensors.release()
    return nested(found)


def written_specs(leaves: Sequence[Leaf], params: Params) -> dict[str, Spec]:
    """What `written_tensors` gives, in its order; params may be abstract."""
    dtypes = {path: np.dtype(leaf.dtype) for path, leaf in paths(params).items()}
    return {
        name: Spec(dtypes[leaf.path], leaf.their_shape) for leaf in leaves for name in leaf.names
    }


def written_tensors(leaves: Sequence[Leaf], params: Params) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of the leaves, one after the other."""
    arrays = paths(params)
    for leaf in leaves:
        yield from leaf.write(arrays[leaf.path])
