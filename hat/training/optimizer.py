"""AdamW and Muon, the learning rate over a run, and what single parts of the model do differently.

The learning rate is a number of the host, passed to the jitted step at every call: a schedule over
seconds then needs no compilation and no state. The optimizer therefore returns updates for a
learning rate of one, weight decay included, and the step applies

    params + learning_rate * multiplier[part] * update.

Two groups of parameters. *Hidden matrices*: exactly two named axes beside "layers", none of them
"vocab". They are what Muon orthogonalises and what decays, under either optimizer. *The rest*:
embeddings, heads, norm scales, biases, lone vectors and learned queries. They get Adam without
decay: a scale pulled to zero, or rare bytes' embeddings shrunk while they are not seen, is not
what weight decay is for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hat.errors import UserError
from hat.training.config import OptimizerConfig, PartConfig, ScheduleConfig

Tree = Any  # nested dicts of one structure: parameters, logical axes, gradients
Axes = tuple[str | None, ...]


def is_axes(value: Any) -> bool:
    """Whether `value` is a leaf of a tree of logical axes: a tuple of names or None."""
    return isinstance(value, tuple) and all(name is None or isinstance(name, str) for name in value)


def is_hidden_matrix(axes: Axes) -> bool:
    """Whether a parameter of these logical axes is a (perhaps stacked) matrix between activations.

    A learned query ("heads", None) is not: its second axis is nobody's activation.
    """
    own = [name for name in axes if name != "layers"]
    return len(own) == 2 and None not in own and "vocab" not in own


# --- the transformation ---------------------------------------------------------------------------


def make_optimizer(config: OptimizerConfig, logical_axes: Tree) -> optax.GradientTransformation:
    """The optax transformation for parameters of these logical axes, at a learning rate of one.

    `update(grads, state, params) -> (updates, state)`, updates to be added. Kernels are stacked
    [L, in, out] or plain [in, out]; Muon treats each of the L on its own.

    A part frozen until a step gets zero updates before it, and its state stays untouched, so that
    it starts with fresh moments. The step is counted inside the state: updates that the caller
    drops because they were not finite do not count. A part with multiplier 0 has no state.
    UserError: a part of `config.parts` that the model does not have.
    """
    parts = _parts_by_name(config, logical_axes)
    labels = {}
    transforms: dict[str, optax.GradientTransformation] = {}
    for name, subtree in logical_axes.items():
        part = parts[name]

        def label(axes: Axes, part: PartConfig = part) -> str:
            if part.multiplier == 0:
                transforms["frozen"] = optax.set_to_zero()
                return "frozen"
            group = "matrices" if is_hidden_matrix(axes) else "rest"
            transform = _matrices(config) if group == "matrices" else _rest(config)
            if part.freeze_until_step:
                group = f"{group}_from_step_{part.freeze_until_step}"
                transform = optax.conditionally_mask(
                    transform, lambda step: step >= part.freeze_until_step
                )
            transforms.setdefault(group, transform)
            return group

        labels[name] = jax.tree.map(label, subtree, is_leaf=is_axes)
    return optax.partition(transforms, labels)


def _matrices(config: OptimizerConfig) -> optax.GradientTransformation:
    if config.name == "adamw":
        direction = _adam(config)
    else:
        direction = optax.chain(
            optax.contrib.scale_by_muon(
                ns_steps=config.muon_steps,
                beta=config.muon_momentum,
                nesterov=config.muon_nesterov,
                mu_dtype=config.moment_dtype,
                weight_dimension_numbers=_last_two_axes,
            ),
            optax.stateless_with_tree_map(lambda update, _: _muon_scale(config, update) * update),
        )
    return optax.chain(direction, optax.add_decayed_weights(config.weight_decay), optax.scale(-1.0))


def _rest(config: OptimizerConfig) -> optax.GradientTransformation:
    ratio = (config.adam_learning_rate or config.learning_rate) / config.learning_rate
    return optax.chain(_adam(config), optax.scale(-ratio))


def _adam(config: OptimizerConfig) -> optax.GradientTransformation:
    return optax.scale_by_adam(config.b1, config.b2, config.eps, mu_dtype=config.moment_dtype)


def _last_two_axes(updates: Tree) -> Tree:
    """Kernels are [..., in, out]; what comes before is a batch of matrices to Muon."""
    return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(-2, -1), updates)


def _muon_scale(config: OptimizerConfig, update: jax.Array) -> float:
    fan_in, fan_out = update.shape[-2:]
    if config.muon_rms is None:
        return math.sqrt(max(1.0, fan_out / fan_in))
    return config.muon_rms * math.sqrt(max(fan_in, fan_out))


# --- parts ----------------------------------------------------------------------------------------


def _parts_by_name(config: OptimizerConfig, tree: Mapping[str, Any]) -> dict[str, PartConfig]:
    """The config of every top-level key of `tree`."""
    for part in config.parts:
        if part.name not in tree:
            raise UserError(
                f"optimizer.parts: the model has no part {part.name!r}; "
                f"its parts are {', '.join(sorted(tree))}"
            )
    return {name: PartConfig(name) for name in tree} | {part.name: part for part in config.parts}


def multipliers(config: OptimizerConfig, params: Tree, step: jax.Array | int) -> Tree:
    """Factors on the learning rate: a tree like `params`, a float32 scalar at every leaf.

    0 while a part is frozen at `step` (int32 scalar, may be traced: the number of updates applied
    so far).  UserError: a part of `config.parts` that `params` does not have.
    """
    parts = _parts_by_name(config, params)

    def factor(part: PartConfig) -> jax.Array:
        return jnp.where(step >= part.freeze_until_step, jnp.float32(part.multiplier), 0.0)

    return {
        name: jax.tree.map(lambda _, f=factor(parts[name]): f, subtree)
        for name, subtree in params.items()
    }


def zero_frozen(config: OptimizerConfig, grads: Tree, step: jax.Array | int) -> Tree:
    """`grads` with zeros for the parts frozen at `step`, so that they do not enter the global norm.

    The gradients of parts that are never frozen are returned as they are.
    """
    if not any(part.freeze_until_step or part.multiplier == 0 for part in config.parts):
        return grads
    return jax.tree.map(
        lambda grad, factor: jnp.where(factor > 0, grad, 0),
        grads,
        multipliers(config, grads, step),
    )


def clip_by_global_norm(grads: Tree, max_norm: float | None) -> tuple[Tree, jax.Array]:
    """Scales `grads` so that their global L2 norm is at most `max_norm` (None: leaves them).

    Returns them and the norm before clipping, float32 []. A gradient that is not finite shows in
    the norm, and the clipped gradients are then meaningless: test the norm first.
    """
    norm = optax.tree.norm(optax.tree.cast(grads, jnp.float32))
    if max_norm is None:
        return grads, norm
    scale = jnp.minimum(1.0, max_norm / jnp.maximum(norm, jnp.finfo(jnp.float32).tiny))
    return jax.tree.map(lambda grad: (grad * scale).astype(grad.dtype), grads), norm


# --- the learning rate ----------------------------------------------------------------------------


def learning_rate(config: ScheduleConfig, progress: float) -> float:
    """The learning rate at `progress` of the run (0 to 1, clipped), as a fraction of its peak.

    Warm-up is linear from 0; a step that passes the progress at its own end never runs at 0.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < config.warmup_fraction:
        return progress / config.warmup_fraction
    if config.name == "constant":
        return 1.0
    start = config.warmup_fraction if config.name == "cosine" else 1.0 - config.decay_fraction
    if progress <= start:
        return 1.0
    decay = (progress - start) / (1.0 - start)
    if config.name == "cosine":
        remaining = 0.5 * (1.0 + math.cos(math.pi * decay))
    elif config.decay_shape == "linear":
        remaining = 1.0 - decay
    else:
        remaining = 1.0 - math.sqrt(decay)
    return config.final_fraction + (1.0 - config.final_fraction) * remaining
