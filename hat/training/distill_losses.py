"""The losses of a student beside its teacher: totals over a batch, and what they are totals of.

Every loss returns a total and a count, float32 scalars. T ids and N words in a row of the student,
M tokens in a row of the teacher; hat.text.alignment says which stand beside which, with the index
M for none.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from hat.models.rows import on_own_rows

NUM_OUTCOMES = 257  # the bytes, and the end of the text
TOKEN_OVER = 257  # the outcome after them: the token under way ends
Total = tuple[jax.Array, jax.Array]


def following(x: jax.Array, fill: int = 0) -> jax.Array:
    """[B, T] -> [B, T]: what stands one position on."""
    return jnp.pad(x[:, 1:], [(0, 0), (0, 1)], constant_values=fill)


def segment_sums(values: jax.Array, segment: jax.Array, count: int) -> jax.Array:
    """values [B, T], segment int [B, T] in [0, count], in any order -> sums float32 [B, count]; what
    is in segment `count` is left out."""

    def row(values, segment):
        return jax.ops.segment_sum(values, segment, num_segments=count + 1)[:count]

    return on_own_rows(jax.vmap(row), values.astype(jnp.float32), segment)


# --- spans ----------------------------------------------------------------------------------------


def span_logprobs(
    nats: jax.Array, closing: jax.Array, span: jax.Array, closed: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """Log-likelihoods of spans under one model, [B, count], and whether each is there, bool.

    nats [B, T]: of the id after every position, 0 where none is predicted. closing [B, T]:
    log-probability that what closes a span comes next; closed int [B, T]: whether that counts here,
    at the last id of a span. span int [B, T]: of every id, `count` for none.
    """
    likelihood = segment_sums(-nats, following(span, count), count)
    likelihood += segment_sums(jnp.where(closed > 0, closing, 0.0), span, count)
    return likelihood, segment_sums(jnp.ones_like(nats), span, count) > 0


def binary_kl(teacher: jax.Array, student: jax.Array, temperature: float) -> jax.Array:
    """f(p || q) + f(1 - p || 1 - q) for f = KL, p and q the likelihoods whose logarithms are given,
    to the power 1 / temperature (arXiv 2503.20083, equation of the ALM objective).

    Both logarithms are lowered by 1e-6, as there: the likelihood of a certain span is 1, and the
    logarithm of what is left must stay finite.
    """
    log_p, log_q = (x / temperature - 1e-6 for x in (teacher, student))
    log_not_p, log_not_q = (jnp.log(-jnp.expm1(x)) for x in (log_p, log_q))
    p, not_p = jnp.exp(log_p), -jnp.expm1(log_p)
    return p * (log_p - log_q) + not_p * (log_not_p - log_not_q)


def chunk_likelihood(
    teacher: jax.Array, student: jax.Array, there: jax.Array, temperature: float
) -> Total:
    """The binary KL summed over the spans that are there; log-likelihoods [B, S], bool [B, S]."""
    # A number that is inside: no gradient may come, and none infinite, from spans that are not.
    teacher, student = (jnp.where(there, x, -1.0) for x in (teacher, student))
    kl = jnp.where(there, binary_kl(teacher, student, temperature), 0.0)
    return jnp.sum(kl), jnp.sum(there, dtype=jnp.float32)


# --- words ----------------------------------------------------------------------------------------


def word_distance(words: jax.Array, tokens: jax.Array, word_token: jax.Array) -> Total:
    """Squared distance of words' states [B, N, D] to those of the tokens [B, M, D] that end them
    (word_token int [B, N]), each over the squared length of the token's, summed."""
    there = word_token < tokens.shape[1]
    index = jnp.where(there, word_token, 0)[..., None]
    tokens = jnp.take_along_axis(tokens, index, axis=1).astype(jnp.float32)
    squares = jnp.sum((words.astype(jnp.float32) - tokens) ** 2, axis=-1)
    squares /= jnp.maximum(jnp.sum(tokens**2, axis=-1), jnp.finfo(jnp.float32).tiny)
    return jnp.sum(jnp.where(there, squares, 0.0)), jnp.sum(there, dtype=jnp.float32)


# --- bytes ----------------------------------------------------------------------------------------


def byte_kl(teacher: jax.Array, student: jax.Array, mask: jax.Array) -> Total:
    """KL from probabilities [B, T, outcomes] to log-probabilities of as many, summed where mask
    [B, T]."""
    log_teacher = jnp.log(jnp.where(teacher > 0, teacher, 1.0))
    kl = jnp.sum(teacher * (log_teacher - jnp.where(teacher > 0, student, 0.0)), axis=-1)
    return jnp.sum(jnp.where(mask, kl, 0.0)), jnp.sum(mask, dtype=jnp.float32)


def next_byte_probabilities(
    logits: jax.Array, depth: jax.Array, low: jax.Array, high: jax.Array, next_bytes: jax.Array
) -> jax.Array:
    """What comes next of a token under way, [B, T, 258]: a byte, the end of the text, or, where the
    columns have tokens that are over (257 in next_bytes), the end of the token.

    logits [B, T, K]: of the token, over the sorted vocabulary (hat.text.alignment.Continuations);
    depth int [B, T]: how many of its bytes are known, which leaves the columns from low to before
    high; next_bytes int [L, K].
    """
    column = jnp.arange(logits.shape[-1])
    inside = (low[..., None] <= column) & (column < high[..., None])
    # Where no column is left there is nothing to predict either; any numbers do, but no NaN.
    inside |= (low >= high)[..., None]
    probabilities = jax.nn.softmax(jnp.where(inside, logits, -jnp.inf), axis=-1)

    def row(probabilities, depth):  # [T, K], [T]
        add = functools.partial(jax.ops.segment_sum, num_segments=TOKEN_OVER + 1)
        return jax.vmap(add)(probabilities, next_bytes[depth])

    return on_own_rows(jax.vmap(row), probabilities, depth)


def in_blocks(function: Callable, size: int, *arrays: jax.Array):
    """function(*arrays) of arrays [B, T, ...], `size` positions at a time, one block after the
    other, so that what it holds on the way is that of one block."""
    batch, length = arrays[0].shape[:2]
    blocks = -(-length // size)
    if blocks == 1:
        return function(*arrays)

    def cut(x):
        x = jnp.pad(x, [(0, 0), (0, blocks * size - length)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(batch, blocks, size, *x.shape[2:]), 1, 0)

    def join(x):
        return jnp.moveaxis(x, 0, 1).reshape(batch, blocks * size, *x.shape[3:])[:, :length]

    return jax.tree.map(join, jax.lax.map(lambda xs: function(*xs), tuple(map(cut, arrays))))
