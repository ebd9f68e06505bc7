"""The state of training and the one function that advances it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hat.models.model import Batch, LanguageModel, Params, Sums
from hat.training.config import OptimizerConfig
from hat.training.objectives import Loss, Measures, Ratios, Trained, language_modelling
from hat.training.optimizer import clip_by_global_norm, multipliers, zero_frozen


class TrainState(NamedTuple):
    """All that a step changes, a plain pytree."""

    step: jax.Array  # int32 []: batches read, skipped steps included
    params: Params  # float32: of the model, or of what is trained in its place
    opt_state: optax.OptState


class StepMetrics(NamedTuple):
    """What a step reports, float32 [] on the device: fetch it a step later, not at once."""

    sums: Sums  # before the update
    grad_norm: jax.Array  # before clipping, of the mean loss per target
    finite: jax.Array  # bool: whether the update was applied
    ratios: Ratios  # what the objective measured besides, before the update


def init_state(trained: Trained, optimizer: optax.GradientTransformation, key) -> TrainState:
    """A fresh state. Jit it with out_shardings, so that nothing is ever whole on one device."""
    params = trained.init(key)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def sum_gradients(
    model, params, batch, accumulation_steps: int, loss: Loss = language_modelling
) -> tuple[Params, Measures]:
    """Gradients of the total loss over the batch, and its sums, in `accumulation_steps` pieces."""

    def gradient(params, batch):
        return jax.grad(loss, argnums=1, has_aux=True)(model, params, batch)

    if accumulation_steps == 1:
        return gradient(params, batch)

    def microbatches(x):  # every device keeps rows of its own in every piece
        x = x.reshape(x.shape[0] // accumulation_steps, accumulation_steps, *x.shape[1:])
        return jnp.swapaxes(x, 0, 1)

    def add(total, batch):
        return jax.tree.map(jnp.add, total, gradient(params, batch)), None

    pieces = jax.tree.map(microbatches, batch)
    shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], pieces))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, pieces)[0]


def train_step(
    model: LanguageModel,
    optimizer: optax.GradientTransformation,
    config: OptimizerConfig,
    accumulation_steps: int,
    state: TrainState,
    batch: Batch,
    learning_rate: jax.Array,
    loss: Loss = language_modelling,
    divisor: str | None = None,
) -> tuple[TrainState, StepMetrics]:
    """One optimizer step on a global batch of rows [B, ...], at the given learning rate.

    The gradient is that of the loss per target, or per what `divisor` counts (`Objective`): totals
    over everything, divided once. A step whose loss or gradient is not finite leaves parameters
    and optimizer untouched and says so.
    """
    grads, (sums, ratios) = sum_gradients(model, state.params, batch, accumulation_steps, loss)
    count = sums.targets if divisor is None else ratios[divisor][1]
    grads = jax.tree.map(lambda g: g / jnp.maximum(count, 1.0), grads)
    grads = zero_frozen(config, grads, state.step)
    grads, norm = clip_by_global_norm(grads, config.clip_norm)
    finite = jnp.isfinite(norm) & jnp.isfinite(sums.nats)

    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    factors = multipliers(config, state.params, state.step)
    params = jax.tree.map(
        lambda p, u, f: p + (learning_rate * f) * u, state.params, updates, factors
    )

    def keep(new, old):
        return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

    params, opt_state = keep(params, state.params), keep(opt_state, state.opt_state)
    return TrainState(state.step + 1, params, opt_state), StepMetrics(sums, norm, finite, ratios)
