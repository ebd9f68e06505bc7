"""The subword Llama: embedding, a stack of blocks, norm and head. Baseline, teacher, compressor.

With `tokenizer="bytes"` rows it is the flat byte-level Llama.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from hat.errors import UserError
from hat.models.attention import Form
from hat.models.flops import linear_flops, segment_lengths, stack_flops, total
from hat.models.layers import Block, Linear, Remat, RMSNorm, StackConfig, run_blocks
from hat.models.model import (
    Batch,
    Embedding,
    LanguageModel,
    Params,
    Stage,
    Targets,
    check_choices,
    cross_entropy,
    next_ids,
    score_ids,
)


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """A Llama over the ids of a tokenizer: num_tokens, then room for BOS, EOT and PAD.

    eot_id: the id that ends a text where the vocabulary has its own; None: num_tokens + 1.
    """

    stack: StackConfig
    num_tokens: int
    eot_id: int | None = None
    tie_embeddings: bool = False
    embedding_std: float = 0.02
    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of matrices and activations
    scan_layers: bool = True
    remat: Remat = "none"
    attention: Form = "auto"  # behind hat.models.attention.attend

    def __post_init__(self):
        check_choices(self)
        if self.num_tokens < 1:
            raise UserError(f"num_tokens {self.num_tokens} must be at least 1")
        if not 0 <= self.eot < self.num_ids:
            raise UserError(f"eot_id {self.eot_id} is none of the {self.num_ids} ids")

    @property
    def eot(self) -> int:
        return self.num_tokens + 1 if self.eot_id is None else self.eot_id

    @property
    def num_ids(self) -> int:
        """Rows of embedding and head: tokens and three special ids, to a multiple of 8."""
        return -(-(self.num_tokens + 3) // 8) * 8

    def build(self) -> LlamaModel:
        return LlamaModel(self)


class Llama(nnx.Module):
    def __init__(self, config: LlamaConfig, rngs):
        self.config = config
        stack = config.stack
        self.embedding = Embedding(
            rngs, config.num_ids, stack.hidden_size, std=config.embedding_std
        )
        self.backbone = Block(stack, rngs, stack=(stack.num_layers,))
        self.head = LlamaHead(config, rngs)

    def __call__(self, batch: Batch) -> jax.Array:
        """A batch of token rows (`hat.text.rows`) -> logits float32 [B, T, ids]."""
        x = self.run_backbone(self.embedding(batch["tokens"]), batch)
        return self.head(x, self.embedding.table[...])

    def run_backbone(self, x: jax.Array, batch: Batch, part=slice(None)) -> jax.Array:
        """[B, T, d] -> [B, T, d]; part: of the layers to run."""
        config, how = self.config, dict(part=part)
        how |= dict(scan=config.scan_layers, remat=config.remat, attention=config.attention)
        position, segment = batch["position"], batch["segment"]
        return run_blocks(config.stack, self.backbone, x, position, segment, **how)


class LlamaHead(nnx.Module):
    """RMSNorm and projection (or the transposed embedding): [B, T, d] -> logits [B, T, ids]."""

    def __init__(self, config: LlamaConfig, rngs):
        size = config.stack.hidden_size
        self.config = config
        self.norm = RMSNorm(size, eps=config.stack.norm_eps)
        if config.tie_embeddings:
            self.projection = None
        else:  # one assignment each: nnx fixes at the first whether an attribute holds arrays
            self.projection = Linear(rngs, size, config.num_ids, ("embed", "vocab"))

    def __call__(self, x: jax.Array, table: jax.Array) -> jax.Array:
        kernel = table.T if self.projection is None else self.projection.kernel[...]
        ids = jnp.arange(kernel.shape[-1])
        predicted = (ids < self.config.num_tokens) | (ids == self.config.eot)
        return score_ids(self.norm(x), kernel, predicted)


class LlamaModel(LanguageModel):
    parts = ("embedding", "backbone", "head")

    def __init__(self, config: LlamaConfig):
        super().__init__(config, Llama)

    def logits(self, params: Params, batch: Batch) -> jax.Array:
        return self.module(params)(batch)

    def targets(self, batch: Batch) -> Targets:
        ids, mask = next_ids(batch["tokens"], batch["segment"], batch.get("answer"))
        spelled, _ = next_ids(batch["token_bytes"], batch["segment"])
        return Targets(ids, mask, spelled)

    def words(self, batch: Batch) -> jax.Array:
        return jnp.sum(batch["segment"] > 0)

    def stages(self, params: Params, batch: Batch) -> dict[str, Stage]:
        def embedding(params):
            return self.module(params).embedding(batch["tokens"])

        def backbone(params, x):
            return self.module(params).run_backbone(x, batch)

        def head(params, x):
            module = self.module(params)
            logits = module.head(x, module.embedding.table[...])
            return cross_entropy(logits, self.targets(batch))[0]

        x = jax.jit(embedding)(params)
        return {"embedding": (embedding, ()), "backbone": (backbone, (x,)), "head": (head, (x,))}

    def batch_flops(self, batch: Batch) -> dict[str, float]:
        num_tokens = segment_lengths(batch["segment"])
        return total(self.flops(num_tokens=num_tokens, context_tokens=num_tokens))

    def flops(self, *, num_tokens, context_tokens) -> dict[str, float]:
        """Forward FLOPs of every part for num_tokens positions, in documents (or pieces) of
        context_tokens positions. Elementwise, where they are arrays."""
        config = self.config
        return {
            "embedding": 0.0,
            "backbone": num_tokens * stack_flops(config.stack, context_tokens),
            "head": num_tokens * linear_flops(config.stack.hidden_size, config.num_ids),
        }
