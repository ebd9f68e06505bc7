"""The hypernetwork: rows of embedding and head for a token that the model has never had, from those
of its parts.

ZeTT (Minixhofer, Ponti and Vulic, arXiv 2405.07883, section 3) in its residual form (arXiv
2503.20083, appendix D): what a stack of blocks makes of the parts is added to their mean, and its
output layer begins at zero. So a token of one part keeps its own row at the start, and a new token
begins as the mean of its parts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from hat.errors import UserError
from hat.models.attention.plain import masked_attention
from hat.models.flops import linear_flops, segment_lengths, stack_flops, total
from hat.models.layers import Block, Linear, RMSNorm, StackConfig, rope_table, run_stack
from hat.models.llama import LlamaConfig
from hat.models.model import Batch, LanguageModel, Params, check_choices


class TokenRows(NamedTuple):
    """What a model knows of N tokens: rows [N, d] of its embedding, and of its head; outputs None
    where the two are tied."""

    inputs: jax.Array
    outputs: jax.Array | None


def mean_of_parts(source: TokenRows, parts: jax.Array) -> TokenRows:
    """The mean of the parts' rows (FVT, arXiv 2203.14803), of each side apart.

    source: of the V base tokens. parts: int32 [N, L], ids of the base, then -1. A token of one part
    gets its row bit for bit; one without parts gets zeros.
    """
    present = parts >= 0
    count = jnp.maximum(present.sum(axis=1, keepdims=True), 1)

    def mean(rows):
        if rows is None:
            return None
        picked = jnp.where(present[..., None], rows[jnp.maximum(parts, 0)], 0)
        return (picked.astype(jnp.float32).sum(axis=1) / count).astype(rows.dtype)

    return TokenRows(*map(mean, source))


def last_part(source: TokenRows, parts: jax.Array) -> TokenRows:
    """The embedding of the last part, and the mean of the parts' heads, also where the two are
    tied.

    A causal model has read the parts before the last when it comes to it, so that the last one's
    row is what it is used to at that place. Arguments as in `mean_of_parts`.
    """
    last, _ = _split_last(parts)
    return _read_and_written(source, last, parts)


def last_suffix(source: TokenRows, parts: jax.Array) -> TokenRows:
    """The same where the last of `parts` is no part, but the longest token that the token ends with:
    suffix expansion (arXiv 2512.15586, section 3), which may cross the parts."""
    last, parts = _split_last(parts)
    return _read_and_written(source, last, parts)


def _split_last(parts: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The last of the parts int [N, 1], and those before it int [N, L]."""
    count = (parts >= 0).sum(axis=1)[:, None]
    last = jnp.take_along_axis(parts, jnp.maximum(count - 1, 0), axis=1)
    return last, jnp.where(jnp.arange(parts.shape[1]) < count - 1, parts, -1)


def _read_and_written(source: TokenRows, read: jax.Array, written: jax.Array) -> TokenRows:
    """The embeddings of tokens int [N, 1], and the means of the heads of parts int [N, L]."""
    means = mean_of_parts(source, written)
    outputs = means.inputs if means.outputs is None else means.outputs
    return TokenRows(mean_of_parts(TokenRows(source.inputs, None), read).inputs, outputs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowPredictorConfig:
    """What configs of predictors have in common. base: the model whose tokens are predicted; None in a
    config file, which takes that of the run in `base` (hat.dynamic_tokenization.base)."""

    base: LlamaConfig | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        check_choices(self)

    @property
    def its_base(self) -> LlamaConfig:
        """UserError where there is none."""
        if self.base is None:
            raise UserError("a hypernetwork belongs to a model; give its run with --set base=RUN")
        return self.base

    @property
    def num_ids(self) -> int:
        return self.its_base.num_ids

    @property
    def width(self) -> int:
        """Of a token's rows of embedding and head, side by side where they are two."""
        return self.its_base.stack.hidden_size * (1 if self.its_base.tie_embeddings else 2)


class RowPredictor(LanguageModel):
    """What the trainer sees of a hypernetwork: parameters. Its loss is that of its base
    (hat.dynamic_tokenization.objective)."""

    reads_bytes = False

    def rows(
        self, params: Params, spelled: jax.Array | None, source: TokenRows, parts: jax.Array
    ) -> TokenRows:
        """Rows [N, d] of the tokens with these parts int32 [N, L], -1 after the last, in the dtype of
        the source. spelled: int16 [V, S], bytes of the base's tokens, then -1, where the predictor
        reads bytes. Rows do not depend on one another, nor on how many -1 follow the parts."""
        return self.module(params)(spelled, source, parts)

    def row_flops(self, longest: int) -> float:
        """Forward FLOPs of a token of so many parts."""
        raise NotImplementedError

    def batch_flops(self, batch: Batch) -> dict[str, float]:
        """Forward FLOPs of the base for the merged positions, and of the rows that are predicted."""
        lengths = segment_lengths(batch["segment"])
        base = self.config.its_base.build()
        found = total(base.flops(num_tokens=lengths, context_tokens=lengths))
        if "unit_parts" in batch:
            _, units, longest = batch["unit_parts"].shape
            found["hypernetwork"] = units * self.row_flops(longest)
        return found


def residual(source: TokenRows, parts: jax.Array, change: Callable) -> TokenRows:
    """The means of parts, and what change(x) [N, width] adds, x the sides' tables of size 1.

    Tables are brought to size 1 for what reads them, and what is written to the size of its table.
    """
    tables = [rows for rows in source if rows is not None]
    scales = [jnp.sqrt(jnp.mean(jnp.square(t.astype(jnp.float32)))) + 1e-12 for t in tables]
    changes = change([t.astype(jnp.float32) / s for t, s in zip(tables, scales)])
    changes = jnp.split(changes.astype(jnp.float32), len(tables), axis=-1)
    found = [
        (mean.astype(jnp.float32) + s * its).astype(mean.dtype)
        for mean, s, its in zip(mean_of_parts(source, parts), scales, changes)
    ]
    return TokenRows(found[0], found[1] if len(found) > 1 else None)


# --- from the parts -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class HypernetworkConfig(RowPredictorConfig):
    """A stack of blocks over the rows of a token's parts."""

    stack: StackConfig

    def build(self) -> HypernetworkModel:
        return HypernetworkModel(self, Hypernetwork)


class Hypernetwork(nnx.Module):
    def __init__(self, config: HypernetworkConfig, rngs):
        self.config, stack = config, config.stack
        self.read = Linear(rngs, config.width, stack.hidden_size, ("word_embed", "embed"))
        self.blocks = Block(stack, rngs, stack=(stack.num_layers,))
        self.norm = RMSNorm(stack.hidden_size, eps=stack.norm_eps)
        self.write = Linear(
            rngs, stack.hidden_size, config.width, ("embed", "word_embed"), scale=0.0
        )

    def __call__(self, spelled, source: TokenRows, parts: jax.Array) -> TokenRows:
        """See `RowPredictor.rows`. Blocks see all parts of their token, both ways; what they make of
        the mean over the parts is written."""
        stack, present = self.config.stack, parts >= 0
        rope = rope_table(jnp.broadcast_to(jnp.arange(parts.shape[1]), parts.shape), stack)

        def attention(q, k, v):
            return masked_attention(q, k, v, present[:, None, :], stack.logit_softcap)

        def change(tables):
            x = jnp.concatenate([table[jnp.maximum(parts, 0)] for table in tables], axis=-1)
            x = self.read(x.astype(self.config.dtype))
            x = run_stack(lambda block, x: block(x, rope, attention), self.blocks, x)
            x = jnp.where(present[..., None], self.norm(x).astype(jnp.float32), 0.0).sum(axis=1)
            x = x / jnp.maximum(present.sum(axis=1, keepdims=True), 1)
            return self.write(x.astype(self.config.dtype))

        return residual(source, parts, change)


class HypernetworkModel(RowPredictor):
    parts = ("read", "blocks", "norm", "write")

    def row_flops(self, longest: int) -> float:
        stack = self.config.stack
        linear = linear_flops(self.config.width, stack.hidden_size)
        return longest * (linear + stack_flops(stack, longest)) + linear
