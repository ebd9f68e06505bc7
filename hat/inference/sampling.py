"""From logits to the next id, row by row: every row has its own rule and its own random numbers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hat.errors import UserError

REPETITION_IDS = 64  # how many of the latest ids the repetition penalty looks at


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next id is chosen; applied in the order of the fields.

    valid_utf8: only what keeps the text well-formed UTF-8, its end included.
    repetition_penalty: logits of the latest 64 ids, those of the prompt included, are divided by
      it where positive and multiplied where negative (CTRL, arXiv 1909.05858); 1: no penalty.
    temperature: 0 takes the likeliest id.
    top_k: only the k likeliest ids; None: all.
    top_p: only the fewest likeliest ids that hold p of the probability left (nucleus sampling,
      arXiv 1904.09751); None: all.
    min_p: only ids at least min_p times as likely as the likeliest (arXiv 2407.01082).
    """

    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    valid_utf8: bool = False

    def __post_init__(self):
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature {self.temperature} must be 0 (greedy) or more")
        if self.top_k is not None and not 1 <= self.top_k < 2**31:
            raise UserError(f"top_k {self.top_k} must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p {self.top_p} must be above 0 and at most 1")
        if not 0 <= self.min_p <= 1:
            raise UserError(f"min_p {self.min_p} must be between 0 and 1")
        if not 0 < self.repetition_penalty < float("inf"):
            raise UserError(f"repetition_penalty {self.repetition_penalty} must be above 0")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed {self.seed} must be between 0 and 2^32 - 1")


def leaves_out(sampling: Sampling) -> bool:
    """Whether ids are drawn from the likeliest alone, so that it matters which others there are."""
    return sampling.top_k is not None or (sampling.top_p or 1) < 1 or sampling.min_p > 0


def latest(ids: Sequence[int]) -> np.ndarray:
    """int32 [REPETITION_IDS]: the last of the ids, behind -1 where they are fewer."""
    ids = np.asarray(ids[-REPETITION_IDS:], np.int32)
    return np.pad(ids, (REPETITION_IDS - len(ids), 0), constant_values=-1)


class Draw(NamedTuple):
    """What a row draws: the index of its prompt, of its sample of that prompt, and of the id
    within the sample, int [B] each. A row's random numbers depend on them and the seed alone."""

    prompt: np.ndarray
    sample: np.ndarray
    step: np.ndarray


class Rules(NamedTuple):
    """The `Sampling` of every row, and what its numbers depend on, [B] each."""

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    min_p: jax.Array
    repetition_penalty: jax.Array
    seed: jax.Array
    draw: Draw


def rules(sampling: Sampling, draw: Draw) -> Rules:
    """The same rule for every row of a draw."""
    shape = np.shape(draw.step)
    top_k = 2**31 - 1 if sampling.top_k is None else sampling.top_k
    top_p = 1.0 if sampling.top_p is None else sampling.top_p
    return Rules(
        temperature=np.full(shape, sampling.temperature, np.float32),
        top_k=np.full(shape, top_k, np.int32),
        top_p=np.full(shape, top_p, np.float32),
        min_p=np.full(shape, sampling.min_p, np.float32),
        repetition_penalty=np.full(shape, sampling.repetition_penalty, np.float32),
        seed=np.full(shape, sampling.seed, np.uint32),
        draw=draw,
    )


def sample(logits: jax.Array, draw: Draw, sampling: Sampling) -> tuple[jax.Array, jax.Array]:
    """logits float32 [B, ids] -> ids int32 [B] and their log-probabilities float32 [B] in nats.

    The log-probability is the model's own: before anything that `sampling` says, of which
    repetition_penalty and valid_utf8, which look at the text, are not for this function.
    """
    return _sample(logits, rules(sampling, draw))


@jax.jit
def _sample(logits, rules: Rules):
    return choose(logits, logits, rules)


def choose(logits: jax.Array, changed: jax.Array, rules: Rules) -> tuple[jax.Array, jax.Array]:
    """ids int32 [B] drawn by `changed`, logits after the rules that look at the text, and their
    log-probabilities float32 [B] by `logits`, both float32 [B, ids]."""
    ids = jax.lax.cond(
        jnp.any(rules.temperature > 0),
        lambda: jnp.where(
            rules.temperature > 0, _draw_ids(changed, rules), jnp.argmax(changed, axis=-1)
        ),
        lambda: jnp.argmax(changed, axis=-1),
    ).astype(jnp.int32)
    chosen = jnp.take_along_axis(logits, ids[:, None], axis=-1)[:, 0]
    return ids, chosen - jax.nn.logsumexp(logits, axis=-1)


def _keys(rules: Rules) -> jax.Array:
    """The key of the next draw of every row."""

    def key(seed, prompt, sample, step):
        key = jax.random.fold_in(jax.random.key(seed), prompt)
        return jax.random.fold_in(jax.random.fold_in(key, sample), step)

    return jax.vmap(key)(rules.seed, *rules.draw)


@functools.partial(jax.jit, static_argnums=(2, 3))
def noise(rules: Rules, first, steps: int, num_ids: int) -> jax.Array:
    """float32 [steps, B, ids]: of steps from `first` on, what `choose` adds to logits over
    temperature before it takes the greatest, where the rules leave every id in."""

    def of_step(step):
        draw = rules.draw._replace(step=jnp.full_like(rules.draw.step, step))
        keys = _keys(rules._replace(draw=draw))
        return jax.vmap(lambda key: jax.random.gumbel(key, (num_ids,), jnp.float32))(keys)

    return jax.vmap(of_step)(first + jnp.arange(steps))


def _draw_ids(logits, rules: Rules):
    scaled = logits / jnp.where(rules.temperature > 0, rules.temperature, 1.0)[:, None]
    # Sorting costs more than all else here, so it is left out where no row asks for it.
    scaled = jax.lax.cond(
        jnp.any((rules.top_k < logits.shape[-1]) | (rules.top_p < 1)),
        lambda: truncate(scaled, rules.top_k[:, None], rules.top_p[:, None]),
        lambda: scaled,
    )
    least = jnp.max(scaled, axis=-1) + jnp.log(rules.min_p)  # log 0: no least
    scaled = jnp.where(scaled >= least[:, None], scaled, -jnp.inf)
    return jax.vmap(jax.random.categorical)(_keys(rules), scaled)


def truncate(logits: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
    """Logits [B, ids] with minus infinity outside the top k, then outside the top p; both [B, 1].

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


def penalise(logits: jax.Array, recent: jax.Array, penalty: jax.Array) -> jax.Array:
    """Logits [B, ids] after the repetition penalty [B]; recent int [B, R], ids or -1 for none."""
    rows = jnp.arange(len(logits))[:, None]
    recent = jnp.where(recent < 0, logits.shape[-1], recent)  # outside: dropped
    seen = jnp.zeros(logits.shape, bool).at[rows, recent].set(True, mode="drop")
    penalty = penalty[:, None]
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)
