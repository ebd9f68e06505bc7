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
    """How a model comes apart; holds no arrays."""

    def __init__(self, model: LanguageModel, take_apart: TakeApart):
        self._model, self._take_apart = model, take_apart
        self._graphs: dict[str, nnx.GraphDef] = {}
        jax.eval_shape(self._split, model.abstract_params())

    def split(self, params: Params) -> dict[str, Any]:
        """The parameters of every part by name, matrices in the compute dtype; of a stack a list,
        layer by layer."""
        return _split(self, params)

    def _split(self, params: Params) -> dict[str, Any]:
        split = {}
        for name, part in self._take_apart(self._model.module(params)).items():
            part, layers = part if isinstance(part, tuple) else (part, None)
            self._graphs[name], state = nnx.split(part)
            split[name] = state if layers is None else [
                jax.tree.map(lambda leaf: leaf[i], state) for i in range(layers)
            ]
        return split

    def module(self, params: dict[str, Any], name: str) -> Any:
        """The part with its parameters, or the layers of the stack."""
        graph, state = self._graphs[name], params[name]
        if isinstance(state, list):
            return [nnx.merge(graph, layer) for layer in state]
        return nnx.merge(graph, state)


@functools.partial(jax.jit, static_argnums=0)
def _split(parts: Parts, params: Params) -> dict[str, Any]:
    return parts._split(params)
