"""What the trainer, the scorer and the converter see of any model."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hat.errors import UserError
from hat.models.rows import keep_rows

Params = dict[str, Any]  # nested dicts of arrays; the first level names the parts of the model
Batch = dict[str, jax.Array]


class Sums(NamedTuple):
    """Totals over a batch, float32 scalars; sums of Sums are totals over more."""

    nats: jax.Array  # negative log-likelihood of every target, end of text included
    targets: jax.Array  # how many ids were predicted
    bytes: jax.Array  # how many real bytes the targets spell
    words: jax.Array  # positions that the backbone spent
    correct: jax.Array  # targets that were the likeliest id


# A part's forward pass (params, *inputs) -> output, and inputs to run it on.
Stage = tuple[Callable[..., jax.Array], tuple[jax.Array, ...]]


class Targets(NamedTuple):
    """What each position predicts. ids int [B, T]; mask bool [B, T]; bytes int [B, T], the real
    bytes that the target spells (0 for an end of text)."""

    ids: jax.Array
    mask: jax.Array
    bytes: jax.Array


def check_choices(config) -> None:
    """UserError unless every field of a dataclass that is a Literal has one of its values."""
    for name, kind in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if typing.get_origin(kind) is typing.Literal and value not in typing.get_args(kind):
            choices = ", ".join(map(repr, typing.get_args(kind)))
            raise UserError(f"{name} {value!r} is none of {choices}")


class LanguageModel:
    """A config with its parameters' shapes and its functions of (params, batch).

    Holds no arrays: parameters are a plain pytree that the caller owns. Subclasses say what a
    batch predicts (`targets`), how many backbone positions it spends (`words`) and how ids are
    scored (`logits`). Models of one class and config are equal, so that a function that is jitted
    with the model as a static argument is compiled once for all of them.
    """

    def __init__(self, config, module_class):
        self.config = config
        self._hash = hash((type(self), config))
        self._construct = functools.partial(module_class, config)
        module = nnx.eval_shape(lambda: self._construct(nnx.Rngs(0)))
        self._graph, state = nnx.split(module)
        self._abstract = nnx.to_pure_dict(state)
        names = jax.tree.map(
            lambda leaf: leaf.get_metadata()["logical"],
            state,
            is_leaf=lambda leaf: isinstance(leaf, nnx.Variable),
        )
        self._logical_axes = nnx.to_pure_dict(names)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.config == other.config

    def __hash__(self) -> int:
        return self._hash

    def init(self, key: jax.Array) -> Params:
        """Fresh float32 parameters; jit it with out_shardings to create them in place."""
        return nnx.to_pure_dict(nnx.split(self._construct(nnx.Rngs(key)))[1])

    def abstract_params(self) -> Params:
        """ShapeDtypeStructs in the structure of the parameters."""
        return self._abstract

    def logical_axes(self) -> Params:
        """For every parameter a tuple with a logical name (or None) for each of its axes."""
        return self._logical_axes

    def parameter_counts(self) -> dict[str, int]:
        """Parameters of every part, by name, in the order of the data's way."""
        sizes = jax.tree.map(lambda leaf: int(np.prod(leaf.shape)), self._abstract)
        return {part: sum(jax.tree.leaves(sizes[part])) for part in self.parts}

    def compute_params(self, params: Params) -> Params:
        """The parameters as the forward pass uses them: matrices in the compute dtype."""
        dtype = jnp.dtype(self.config.dtype)

        def cast(leaf, axes):
            matrix = len(axes) - axes.count("layers") >= 2
            return leaf.astype(dtype) if matrix else leaf

        return jax.tree.map(cast, params, self._logical_axes)

    def module(self, params: Params) -> nnx.Module:
        """The module with these parameters, matrices cast to the compute dtype."""
        return nnx.merge(self._graph, self.compute_params(params))

    parts: tuple[str, ...]  # first level of the parameters, in the order of the data's way
    # Whether nats are a code length under every splitter, as the model charges or draws the words
    # itself; else under byte-causal ones.
    any_splitter = False

    def logits(self, params: Params, batch: Batch) -> jax.Array:
        """float32 [B, T, ids]: logits[:, t] score the id after position t."""
        raise NotImplementedError

    def targets(self, batch: Batch) -> Targets:
        raise NotImplementedError

    def words(self, batch: Batch) -> jax.Array:
        """Scalar: how many positions of the backbone the batch uses."""
        raise NotImplementedError

    def stages(self, params: Params, batch: Batch) -> dict[str, Stage]:
        """Every part alone, as benchmarks time it, by name."""
        raise NotImplementedError

    def batch_flops(self, batch: Batch) -> dict[str, float]:
        """Forward FLOPs of every part for the positions of a batch that are not padding."""
        raise NotImplementedError

    def nats(self, params: Params, batch: Batch) -> tuple[jax.Array, jax.Array, Targets]:
        """Per position: nats float32 [B, T] (0 where nothing is predicted) and whether the target
        was the likeliest id, bool [B, T]; and the targets."""
        targets = self.targets(batch)
        return *cross_entropy(self.logits(params, batch), targets), targets

    def loss(self, params: Params, batch: Batch) -> Sums:
        """The sums whose ratio nats / targets training minimises."""
        nats, correct, targets = self.nats(params, batch)
        return sums_of(nats, correct, targets, self.words(batch))

    def training_loss(
        self, params: Params, batch: Batch
    ) -> tuple[jax.Array, Sums, dict[str, tuple[jax.Array, jax.Array]]]:
        """The total that training minimises, float32 []; the sums of `loss`; and further numbers
        to report: by name a total and what to divide it by."""
        sums = self.loss(params, batch)
        return sums.nats, sums, {}


def sums_of(nats: jax.Array, correct: jax.Array, targets: Targets, words: jax.Array) -> Sums:
    """The sums of what `LanguageModel.nats` gives; words: scalar, positions of the backbone."""

    def total(x):
        return jnp.sum(x, dtype=jnp.float32)

    return Sums(
        nats=total(nats),
        targets=total(targets.mask),
        bytes=total(jnp.where(targets.mask, targets.bytes, 0)),
        words=words.astype(jnp.float32),
        correct=total(correct),
    )


def cross_entropy(logits: jax.Array, targets: Targets) -> tuple[jax.Array, jax.Array]:
    """float32 logits [B, T, ids] -> nats float32 [B, T], 0 where nothing is predicted, and whether
    the target was the likeliest id, bool [B, T]."""
    chosen = jnp.take_along_axis(logits, targets.ids[..., None], axis=-1)[..., 0]
    nats = jax.nn.logsumexp(logits, axis=-1) - chosen
    correct = (chosen >= jnp.max(logits, axis=-1)) & targets.mask
    return jnp.where(targets.mask, nats, 0.0), correct


def next_ids(
    ids: jax.Array, segment: jax.Array, answer: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """The id after every position, int [B, T], and whether it is to be predicted: it belongs to
    the same document and, where `answer` says which ids are part of one, to an answer."""

    def shift(x):
        return jnp.pad(x[:, 1:], [(0, 0), (0, 1)])

    mask = (shift(segment) == segment) & (segment > 0)
    if answer is not None:
        mask &= shift(answer) > 0
    return shift(ids), mask


def score_ids(x: jax.Array, kernel: jax.Array, predicted: jax.Array) -> jax.Array:
    """x [B, T, d] @ kernel [d, ids] -> float32 logits [B, T, ids].

    The products are summed and kept in float32 whatever the inputs are: 8 bits of a logit of 10
    would be an error of 0.03 nats. Ids that are never predicted (predicted bool [ids] is False)
    get no probability.
    """
    logits = jnp.matmul(x, kernel, preferred_element_type=jnp.float32)
    return jnp.where(predicted, logits, -1e30)


class Embedding(nnx.Module):
    """ids int [B, T] -> rows of `table` [ids, d] ~ N(0, std^2)."""

    def __init__(self, rngs, num_ids, size, *, std):
        table = jax.random.normal(rngs.params(), (num_ids, size)) * std
        self.table = nnx.Param(table, logical=("vocab", "embed"))

    def __call__(self, ids: jax.Array) -> jax.Array:
        return keep_rows(self.table[...][ids])
