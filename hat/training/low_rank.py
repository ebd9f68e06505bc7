"""Low-rank adaptation: what a trained model is to learn anew is learned in a few numbers.

Hu et al., arXiv 2106.09685. Of a matrix W [in, out] of the model in `Experiment.init` what is
trained are A [in, r] and B [r, out] of

    W + (alpha / r) A B,

A normal and B zero at the start, so that the model begins as it was (section 4.1; their B A is
this transposed). W is a frozen argument of the step, in the compute dtype.

The sum is made anew in every step, and in every piece of a batch that is accumulated. So no module
knows of it, and any objective is trained like this. For every number of the model a step then holds
W, the sum and its gradient, 2 bytes each in bfloat16, in place of the 18 or more of a step that
trains it with Adam; of its work the gradients of W stay, since A and B have theirs through them.

A and B are no matrices between activations to the optimizer: Adam takes them under Muon too (at
`adam_learning_rate`), and nothing decays.

A checkpoint holds the sums as the parameters of the model, so that whatever reads a run reads an
ordinary one; and A, B and their moments under names of their own, to go on from.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hat.errors import UserError
from hat.models.model import Batch, LanguageModel, Params
from hat.training.config import LoraConfig
from hat.training.experiment import Experiment
from hat.training.init import latest_step, read_init
from hat.training.objectives import HostBatch, Loss, Measures, Objective
from hat.training.optimizer import Axes, is_axes, is_hidden_matrix
from hat.training.sharding import with_shardings

NAME = "low_rank"  # of the part that A and B are, in a state and its checkpoints


class Kernel(NamedTuple):
    """A matrix that is changed: the names that lead to it, without "kernel"; its shape [..., in,
    out] and logical axes."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    axes: Axes


class Factors:
    """A and B of every matrix of a model that is changed: what is trained in the model's place.

    Parameters are {"low_rank": tree}, the tree that of the model down to {"a": [..., in, r],
    "b": [..., r, out]}, float32. UserError: see `changed_kernels`.
    """

    def __init__(self, config: LoraConfig, model: LanguageModel):
        self._kernels, self._rank = changed_kernels(config, model), config.rank
        self._scale = config.alpha / config.rank

    def init(self, key: jax.Array) -> Params:
        """A of variance 1 / in, so that x A is as large as x; B zero."""
        found = []
        for kernel, key in zip(self._kernels, jax.random.split(key, len(self._kernels))):
            a, b = self._shapes(kernel)
            a = jax.random.normal(key, a) / math.sqrt(a[-2])
            found.append({"a": a, "b": jnp.zeros(b)})
        return self._tree(found)

    def abstract_params(self) -> Params:
        return jax.eval_shape(self.init, jax.random.key(0))

    def logical_axes(self) -> Params:
        """Those of the matrix; None for the axis between A and B."""
        return self._tree([
            {"a": (*kernel.axes[:-1], None), "b": (*kernel.axes[:-2], None, kernel.axes[-1])}
            for kernel in self._kernels
        ])  # fmt: skip

    def parameter_counts(self) -> dict[str, int]:
        """By part of the model."""
        parts = self.abstract_params()[NAME].items()
        return {part: sum(leaf.size for leaf in jax.tree.leaves(its)) for part, its in parts}

    @functools.partial(jax.jit, static_argnums=0)
    def add_to(self, base: Params, params: Params) -> Params:
        """W + (alpha / r) A B for every matrix that is changed, summed in float32, in the dtype of
        W; base: the parameters of the model."""

        def added(base, factors):
            if set(factors) != {"a", "b"}:
                return base | {name: added(base[name], its) for name, its in factors.items()}
            kernel, update = base["kernel"], factors["a"] @ factors["b"]
            total = kernel.astype(jnp.float32) + self._scale * update
            return base | {"kernel": total.astype(kernel.dtype)}

        return added(base, params[NAME])

    def _shapes(self, kernel: Kernel) -> tuple[tuple[int, ...], tuple[int, ...]]:
        *stack, size_in, size_out = kernel.shape
        return (*stack, size_in, self._rank), (*stack, self._rank, size_out)

    def _tree(self, found: list[Any]) -> Params:
        tree: Params = {}
        for kernel, value in zip(self._kernels, found, strict=True):
            node = tree
            for name in kernel.path[:-1]:
                node = node.setdefault(name, {})
            node[kernel.path[-1]] = value
        return {NAME: tree}


def changed_kernels(config: LoraConfig, model: LanguageModel) -> list[Kernel]:
    """The (stacked) matrices of a model that `config` names.

    UserError: it names a matrix or part that the model has not, or a rank that a matrix cannot
    have.
    """
    axes = jax.tree.leaves_with_path(model.logical_axes(), is_leaf=is_axes)
    leaves = jax.tree.leaves(model.abstract_params())
    kernels = [
        Kernel(tuple(key.key for key in path[:-1]), leaf.shape, its)
        for (path, its), leaf in zip(axes, leaves, strict=True)
        if path[-1].key == "kernel" and is_hidden_matrix(its)
    ]
    parts = {kernel.path[0] for kernel in kernels} if config.parts is None else config.parts
    for field, names, index in (("parts", parts, 0), ("matrices", config.matrices, -1)):
        known = sorted({kernel.path[index] for kernel in kernels})
        for name in names:
            if name not in known:
                raise UserError(
                    f"training.lora.{field}: the model has no {name!r} with matrices to change; "
                    f"it has {', '.join(known)}"
                )
    chosen = [k for k in kernels if k.path[0] in parts and k.path[-1] in config.matrices]
    if not chosen:
        raise UserError(
            f"training.lora: there is no {' or '.join(config.matrices)} in "
            f"{', '.join(sorted(parts))}"
        )
    smallest = min(chosen, key=lambda kernel: min(kernel.shape[-2:]))
    if config.rank > min(smallest.shape[-2:]):
        size_in, size_out = smallest.shape[-2:]
        raise UserError(
            f"training.lora.rank={config.rank}: {'/'.join(smallest.path)} is a matrix of {size_in} "
            f"by {size_out}; set {min(size_in, size_out)} at most, or name other matrices or parts"
        )
    return chosen


class LowRank(Objective):
    """Another objective, of which A and B are trained and the model in `init` is not."""

    def __init__(self, experiment: Experiment, inner: Objective):
        """UserError: `init` is not set; see `changed_kernels`."""
        if experiment.init is None:
            raise UserError(
                "init is not set, and training.lora changes the weights of a run: --set init=RUN"
            )
        self._experiment, self._inner = experiment, inner
        self._model = experiment.model.build()
        self._factors = Factors(experiment.training.lora, self._model)
        self.starts, self.divisor = inner.starts, inner.divisor
        self.frozen = {
            "base": jax.eval_shape(self._model.compute_params, self._model.abstract_params())
        }
        self.frozen_axes = {"base": self._model.logical_axes()}
        if not inner.frozen_is_init:  # there the reference and the base are one
            self.frozen |= {"inner": inner.frozen}
            self.frozen_axes |= {"inner": inner.frozen_axes}

    @functools.cached_property
    def origin(self) -> dict[str, Any]:
        """The step of `init` besides: it may have been trained on since this run began."""
        return self._inner.origin | {"init_step": latest_step(self._experiment.init)}

    def read_frozen(self, shardings: Params) -> Params:
        base = with_shardings(self.frozen["base"], shardings["base"])
        found = {"base": read_init(self._experiment, base)}
        if "inner" in self.frozen:
            found["inner"] = self._inner.read_frozen(shardings["inner"])
        return found

    def annotate(self, batch: HostBatch, number: int) -> HostBatch:
        return self._inner.annotate(batch, number)

    def annotate_held_out(self, batch: HostBatch) -> HostBatch:
        return self._inner.annotate_held_out(batch)

    def trained(self, model: LanguageModel) -> Factors:
        return self._factors

    def whole(self, params: Params, frozen: Params) -> Params:
        return self._factors.add_to(frozen["base"], params)

    def loss(self, stage: int, frozen: Params) -> Loss:
        loss = self._inner.loss(stage, self._inner_frozen(frozen))
        return lambda model, params, batch: loss(model, self.whole(params, frozen), batch)

    def measure(
        self, model: LanguageModel, params: Params, batch: Batch, frozen: Params
    ) -> Measures:
        params = self.whole(params, frozen)
        return self._inner.measure(model, params, batch, self._inner_frozen(frozen))

    def _inner_frozen(self, frozen: Params) -> Params:
        return frozen["base" if self._inner.frozen_is_init else "inner"]
