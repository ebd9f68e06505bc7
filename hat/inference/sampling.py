"""From logits to the next id: temperature, top-k, top-p, seeded row by row."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hat.errors import UserError


@dataclasses.dataclass(frozen=True)
class Sampling:
    """temperature: 0 takes the likeliest id. top_k: only the k likeliest ids; None: all.
    top_p: only the fewest likeliest ids that hold p of the probability left after temperature
    and top_k (nucleus sampling, arXiv 1904.09751); None: all."""

    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self):
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature {self.temperature} must be 0 (greedy) or more")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k {self.top_k} must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p {self.top_p} must be above 0 and at most 1")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed {self.seed} must be between 0 and 2^32 - 1")


class Draw(NamedTuple):
    """What a row draws: the index of its prompt, of its sample of that prompt, and of the id
    within the sample, int [B] each. A row's random numbers depend on them and the seed alone."""

    prompt: np.ndarray
    sample: np.ndarray
    step: np.ndarray


def sample(logits: jax.Array, draw: Draw, sampling: Sampling) -> tuple[jax.Array, jax.Array]:
    """logits float32 [B, ids] -> ids int32 [B] and their log-probabilities float32 [B] in nats.

    The log-probability is the model's own: before temperature, top-k and top-p.
    """
    top_k = logits.shape[-1] if sampling.top_k is None else sampling.top_k
    top_p = 1.0 if sampling.top_p is None else sampling.top_p
    seed, temperature = np.uint32(sampling.seed), np.float32(sampling.temperature)
    return _sample(logits, draw, seed, temperature, np.int32(top_k), np.float32(top_p))


def truncate(logits: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
    """Logits [B, ids] with minus infinity outside the top k, then outside the top p.

    Of equal logits the smaller id counts as the likelier. The likeliest id always stays.
    """
    order = jnp.argsort(-logits, axis=-1, stable=True)
    ranked = jnp.take_along_axis(logits, order, axis=-1)
    rank = jnp.arange(logits.shape[-1])
    ranked = jnp.where(rank < top_k, ranked, -jnp.inf)
    probabilities = jax.nn.softmax(ranked, axis=-1)
    likelier = jnp.cumsum(probabilities, axis=-1) - probabilities
    # Rounding may bring the sum to 1 before the last id; top_p = 1 keeps every id.
    ranked = jnp.where((likelier < top_p) | (top_p >= 1), ranked, -jnp.inf)
    return jnp.take_along_axis(ranked, jnp.argsort(order, axis=-1), axis=-1)


@jax.jit
def _sample(logits, draw: Draw, seed, temperature, top_k, top_p):
    def key(prompt, sample, step):
        key = jax.random.fold_in(jax.random.key(seed), prompt)
        return jax.random.fold_in(jax.random.fold_in(key, sample), step)

    greedy = temperature == 0
    scaled = jax.lax.cond(  # sorting takes longer than a step of a small model
        (top_k < logits.shape[-1]) | (top_p < 1),
        lambda scaled: truncate(scaled, top_k, top_p),
        lambda scaled: scaled,
        logits / jnp.where(greedy, 1.0, temperature),
    )
    drawn = jax.vmap(jax.random.categorical)(jax.vmap(key)(*draw), scaled)
    ids = jnp.where(greedy, jnp.argmax(logits, axis=-1), drawn).astype(jnp.int32)
    nats = jnp.take_along_axis(jax.nn.log_softmax(logits), ids[:, None], axis=-1)[:, 0]
    return ids, nats
