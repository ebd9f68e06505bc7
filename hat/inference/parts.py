"""A model taken apart for inference: its parts, and every layer of its stacks, on their own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from hat.models.model import LanguageModel, Params

# The parts of a module by name: a part, or a pair of a stack of layers and their number.
TakeApart = Callable[[nnx.Module], dict[str, Any]]


class Parts:
    """How a model comes apart; holds no arrays.

    What it gives are lists of arrays alone: jax takes an `nnx.State` apart in Python, at every call
    of a program.
    """

    def __init__(self, model: LanguageModel, take_apart: TakeApart):
        self._model, self._take_apart = model, take_apart
        self._graphs: dict[str, tuple[nnx.GraphDef, Any]] = {}  # and the structure of its arrays
        self._stacks: set[str] = set()
        jax.eval_shape(self._split, model.abstract_params())

    def split(self, params: Params) -> dict[str, list]:
        """The parameters of every part by name, matrices in the compute dtype; of a stack the list
        of every layer."""
        return _split(self, params)

    def _split(self, params: Params) -> dict[str, list]:
        split = {}
        for name, part in self._take_apart(self._model.module(params)).items():
            part, layers = part if isinstance(part, tuple) else (part, None)
            graph, state = nnx.split(part)
            leaves, structure = jax.tree.flatten(state)
            self._graphs[name] = graph, structure
            if layers is not None:
                self._stacks.add(name)
            split[name] = leaves if layers is None else [
                [leaf[i] for leaf in leaves] for i in range(layers)
            ]
        return split

    def module(self, params: dict[str, list], name: str) -> Any:
        """The part with its parameters, or the layers of the stack."""
        graph, structure = self._graphs[name]

        def merged(leaves):
            return nnx.merge(graph, jax.tree.unflatten(structure, leaves))

        leaves = params[name]
        return [merged(its) for its in leaves] if name in self._stacks else merged(leaves)


@functools.partial(jax.jit, static_argnums=0)
def _split(parts: Parts, params: Params) -> dict[str, Any]:
    return parts._split(params)
