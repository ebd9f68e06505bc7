"""The connector: from the bytes of every word to its embedding."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from hat.errors import UserError
from hat.models.layers import Linear, RMSNorm, StackConfig, rope_table, rotate
from hat.models.rows import keep_rows, on_own_rows


@dataclasses.dataclass(frozen=True)
class ConnectorConfig:
    """Cross-attention of one learned query over the bytes of a word."""

    hidden_size: int  # all heads together
    num_heads: int
    qk_norm: bool = False

    def __post_init__(self):
        if self.hidden_size % (2 * self.num_heads):
            raise UserError(
                f"connector hidden_size {self.hidden_size} must be an even multiple of "
                f"num_heads {self.num_heads}"
            )


class Connector(nnx.Module):
    """Pools the bytes of every word: one learned query, its heads' softmax within the word.

    The published query is rotated by the word's index and the keys by the bytes' (both within the
    document), with the encoder's frequencies. A score depends on the difference of the two alone,
    so here the keys are rotated by it, and all words share one query.
    """

    def __init__(self, shape: ConnectorConfig, encoder: StackConfig, word_size: int, rngs):
        """encoder: the stack whose activations are pooled; word_size: D."""
        byte_size = encoder.hidden_size
        self.num_heads = shape.num_heads
        self.rope = dataclasses.replace(encoder, head_dim=shape.hidden_size // shape.num_heads)
        self.query = nnx.Param(
            jax.random.normal(rngs.params(), (word_size,)), logical=("embed",)
        )
        self.q = Linear(rngs, word_size, shape.hidden_size, ("embed", "heads"))
        self.k = Linear(rngs, byte_size, shape.hidden_size, ("embed", "heads"))
        self.v = Linear(rngs, byte_size, shape.hidden_size, ("embed", "heads"))
        self.o = Linear(rngs, shape.hidden_size, word_size, ("heads", "embed"))
        norm = dict(eps=encoder.norm_eps, axis=None)
        self.q_norm = RMSNorm(self.rope.head_size, **norm) if shape.qk_norm else None
        self.k_norm = RMSNorm(self.rope.head_size, **norm) if shape.qk_norm else None

    def shared_query(self) -> jax.Array:
        """The query of every word [H, K]."""
        q = self.q(self.query[...].astype(self.q.kernel[...].dtype)).reshape(self.num_heads, -1)
        return q if self.q_norm is None else self.q_norm(q)

    def keys_values(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys, not yet rotated, and values [B, T, H, K] of byte activations [B, T, d]."""
        k = self.k(x).reshape(*x.shape[:2], self.num_heads, -1)
        v = self.v(x).reshape(k.shape)
        return k if self.k_norm is None else self.k_norm(k), v

    def rotate_keys(self, keys: jax.Array, position, word_position) -> jax.Array:
        """Keys [B, T, H, K] of bytes at int [B, T], in words whose index is word_position."""
        return rotate(keys, rope_table(position - word_position, self.rope))

    def scores(self, keys: jax.Array) -> jax.Array:
        """float32 [B, T, H] of rotated keys [B, T, H, K] under the shared query."""
        q = self.shared_query()
        scores = jnp.einsum("bthk,hk->bth", keys, q, preferred_element_type=jnp.float32)
        return scores / jnp.sqrt(jnp.float32(keys.shape[-1]))

    def __call__(self, x, position, word, word_position) -> jax.Array:
        """x [B, T, d], word int [B, T] (N at padding) -> word embeddings [B, N, D]."""
        num_words = word_position.shape[1]
        inside = jnp.minimum(word, num_words - 1)
        index = jnp.take_along_axis(word_position, inside, axis=1)
        k, v = self.keys_values(x)
        scores = self.scores(self.rotate_keys(k, position, index))
        pool = functools.partial(segment_softmax_pool, num_words=num_words)
        pooled = on_own_rows(pool, scores, v, word)
        return keep_rows(self.o(pooled.reshape(*word_position.shape, -1)))


def segment_softmax_pool(scores, values, word, num_words: int) -> jax.Array:
    """Softmax-weighted sums of the bytes of every word.

    scores float32 [B, T, H], values [B, T, H, K], word int [B, T] non-decreasing along T, with
    num_words at padding -> [B, N, H, K] in the dtype of values; words without bytes give 0.
    """
    batch, length, heads = scores.shape
    # One flat, sorted segment index; every row has one more segment for its padding.
    flat = (word + jnp.arange(batch)[:, None] * (num_words + 1)).reshape(-1)
    count = batch * (num_words + 1)
    segment = dict(num_segments=count, indices_are_sorted=True)
    scores = scores.reshape(-1, heads)
    top = jax.lax.stop_gradient(jax.ops.segment_max(scores, flat, **segment))
    weights = jnp.exp(scores - top[flat])
    total = jax.ops.segment_sum(weights, flat, **segment)
    # Weights that sum to one per word, before the sum: a word without bytes has no quotient.
    weights = weights / total[flat]
    # Summed in float32: in bfloat16 the error would grow with the length of the word.
    weighted = weights[..., None] * values.reshape(-1, *values.shape[2:])
    pooled = jax.ops.segment_sum(weighted, flat, **segment).astype(values.dtype)
    return pooled.reshape(batch, num_words + 1, *values.shape[2:])[:, :num_words]
