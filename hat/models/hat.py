"""The hierarchical autoregressive transformer: encoder, connector, backbone, decoder, head.

Bytes to words and back (arXiv 2501.10322; the form with a skip connection and a learned pooling
query of arXiv 2603.15953). A byte encoder reads the bytes in a sliding window, a connector pools
the bytes of each word, a Llama backbone runs over the words, and a byte decoder continues the
encoder's activations under the guidance of the last word that is known to be complete. No part
lets a document see another, and no position sees a byte after it.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from hat.errors import UserError
from hat.models.attention import Form
from hat.models.connector import Connector, ConnectorConfig
from hat.models.flops import linear_flops, segment_lengths, stack_flops, total
from hat.models.layers import (
    Block,
    Linear,
    Remat,
    RMSNorm,
    StackConfig,
    rope_table,
    run_blocks,
    run_stack,
    stack_attention,
)
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

NUM_BYTES = 256
EOT = 257  # the one special id that is predicted
PAD = 258  # the largest id of a batch


@dataclasses.dataclass(frozen=True)
class HatConfig:
    """A HAT. d is the width of encoder and decoder, D that of the backbone.

    guide: "earliest" conditions a byte on the last word known to be complete once it is read, and
    is causal; "released" always on the word before its own, which in a word opened by a
    multi-byte character looks ahead inside that character, as the published checkpoints do.
    attention: the form behind `hat.models.attention.attend`, of all three stacks.
    """

    encoder: StackConfig
    connector: ConnectorConfig
    backbone: StackConfig
    decoder: StackConfig
    guide: Literal["earliest", "released"] = "earliest"
    num_ids: int = 264
    embedding_std: float = 0.02
    guide_init: float = 1.0  # std factor of the guides' output projections
    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of matrices and activations
    scan_layers: bool = True
    remat: Remat = "none"
    attention: Form = "auto"

    def __post_init__(self):
        check_choices(self)
        if self.encoder.hidden_size != self.decoder.hidden_size:
            raise UserError(
                f"decoder.hidden_size {self.decoder.hidden_size} must equal encoder.hidden_size "
                f"{self.encoder.hidden_size}: the decoder continues the encoder's activations"
            )
        if self.num_ids < PAD + 1:
            raise UserError(f"num_ids {self.num_ids} has no row for id {PAD}; set {PAD + 1} or more")

    def build(self) -> HatModel:
        return HatModel(self)


class Encoder(nnx.Module):
    """Bytes [B, T] -> activations [B, T, d]; no norm at the end."""

    def __init__(self, config: HatConfig, rngs):
        self.config = config
        stack = config.encoder
        self.embedding = Embedding(
            rngs, config.num_ids, stack.hidden_size, std=config.embedding_std
        )
        self.layers = Block(stack, rngs, stack=(stack.num_layers,))

    def __call__(self, ids, segment, position) -> jax.Array:
        config, x = self.config, self.embedding(ids)
        how = dict(scan=config.scan_layers, remat=config.remat, attention=config.attention)
        return run_blocks(config.encoder, self.layers, x, position, segment, **how)


class Backbone(nnx.Module):
    """Llama blocks over words [B, N, D]; no norm at the end."""

    def __init__(self, config: HatConfig, rngs):
        self.config = config
        self.layers = Block(config.backbone, rngs, stack=(config.backbone.num_layers,))

    def __call__(self, x, word_segment, word_position, part=slice(None)) -> jax.Array:
        """part: of the layers to run."""
        config, how = self.config, dict(part=part)
        how |= dict(scan=config.scan_layers, remat=config.remat, attention=config.attention)
        return run_blocks(config.backbone, self.layers, x, word_position, word_segment, **how)


class DecoderLayer(nnx.Module):
    """Adds the guide, then a Llama block.

    The published layer attends from the bytes to one key, the guide; a softmax over one key is 1,
    so it is the guide's norm, value and output projections, which here run once a word.
    """

    def __init__(self, config: HatConfig, rngs, *, stack=()):
        byte_size, word_size = config.decoder.hidden_size, config.backbone.hidden_size
        self.guide_norm = RMSNorm(word_size, eps=config.decoder.norm_eps, stack=stack)
        self.guide_v = Linear(rngs, word_size, byte_size, ("embed", "heads"), stack=stack)
        self.guide_o = Linear(
            rngs, byte_size, byte_size, ("heads", "embed"), stack=stack, scale=config.guide_init
        )
        self.block = Block(config.decoder, rngs, stack=stack)

    def guides(self, words: jax.Array) -> jax.Array:
        """Backbone outputs [B, N, D] -> what is added to the bytes they guide, [B, N, d]."""
        return self.guide_o(self.guide_v(self.guide_norm(words)))


class Decoder(nnx.Module):
    """Encoder activations [B, T, d] and guides -> [B, T, d]."""

    def __init__(self, config: HatConfig, rngs):
        self.config = config
        stack = (config.decoder.num_layers,)
        self.first_guide = nnx.Param(
            jax.random.normal(rngs.params(), (config.backbone.hidden_size,)), logical=("embed",)
        )
        self.layers = DecoderLayer(config, rngs, stack=stack)

    def guide_table(self, words: jax.Array) -> jax.Array:
        """[B, N, D] -> [B, 1 + N, D]: the learned first guide before the words."""
        first = self.first_guide[...].astype(words.dtype)
        first = jnp.broadcast_to(first, (words.shape[0], 1, words.shape[2]))
        return jnp.concatenate([first, words], axis=1)

    def __call__(self, x, words, guide, segment, position) -> jax.Array:
        """x [B, T, d], words [B, N, D], guide int [B, T] (a word, or -1 for the first guide)."""
        config = self.config
        rope = rope_table(position, config.decoder)
        attention = stack_attention(config.decoder, segment, config.attention)
        table = self.guide_table(words)
        index = (guide + 1)[:, :, None]

        def layer(layer: DecoderLayer, x):
            x = x + jnp.take_along_axis(layer.guides(table), index, axis=1)
            return layer.block(x, rope, attention)

        return run_stack(layer, self.layers, x, scan=config.scan_layers, remat=config.remat)


class Head(nnx.Module):
    """RMSNorm and an untied projection: [B, T, d] -> float32 logits [B, T, ids]."""

    def __init__(self, config: HatConfig, rngs):
        size = config.decoder.hidden_size
        self.norm = RMSNorm(size, eps=config.decoder.norm_eps)
        self.projection = Linear(rngs, size, config.num_ids, ("embed", "vocab"))

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.projection.kernel[...]
        ids = jnp.arange(kernel.shape[-1])
        return score_ids(self.norm(x), kernel, (ids < NUM_BYTES) | (ids == EOT))


class Hat(nnx.Module):
    def __init__(self, config: HatConfig, rngs):
        self.config = config
        self.encoder = Encoder(config, rngs)
        self.connector = Connector(
            config.connector, config.encoder, config.backbone.hidden_size, rngs
        )
        self.backbone = Backbone(config, rngs)
        self.decoder = Decoder(config, rngs)
        self.head = Head(config, rngs)

    def __call__(self, batch: Batch) -> jax.Array:
        """A batch of rows (`hat.text.rows`) -> logits float32 [B, T, ids]."""
        x, words = self.read(batch)
        words = self.backbone(words, batch["word_segment"], batch["word_position"])
        return self.write(batch, x, words)

    def read(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Encoder activations [B, T, d] and word embeddings [B, N, D] of a batch of rows."""
        position = batch["position"]
        x = self.encoder(batch["bytes"], batch["segment"], position)
        return x, self.connector(x, position, batch["word"], batch["word_position"])

    def write(self, batch: Batch, x: jax.Array, words: jax.Array) -> jax.Array:
        """Logits float32 [B, T, ids] of encoder activations and backbone outputs [B, N, D]."""
        x = self.decoder(x, words, self.guide(batch), batch["segment"], batch["position"])
        return self.head(x)

    def guide(self, batch: Batch) -> jax.Array:
        """The word that conditions every byte, int [B, T]; -1 for the learned first guide."""
        if self.config.guide == "released":
            return previous_word(batch["word"], batch["word_position"])
        return batch["guide"]


def previous_word(word: jax.Array, word_position: jax.Array) -> jax.Array:
    """The guides of the released models, int [B, T]: the word before a byte's own, -1 for none."""
    inside = jnp.minimum(word, word_position.shape[1] - 1)
    first = jnp.take_along_axis(word_position, inside, axis=1) == 0
    return jnp.where(first, -1, inside - 1)


class HatModel(LanguageModel):
    parts = ("encoder", "connector", "backbone", "decoder", "head")

    def __init__(self, config: HatConfig):
        super().__init__(config, Hat)

    def logits(self, params: Params, batch: Batch) -> jax.Array:
        return self.module(params)(batch)

    def targets(self, batch: Batch) -> Targets:
        ids, mask = next_ids(batch["bytes"], batch["segment"], batch.get("answer"))
        return Targets(ids, mask, (ids < NUM_BYTES).astype(jnp.int32))

    def words(self, batch: Batch) -> jax.Array:
        return jnp.sum(batch["word_segment"] > 0)

    def stages(self, params: Params, batch: Batch) -> dict[str, Stage]:
        ids, segment, position = batch["bytes"], batch["segment"], batch["position"]
        word, word_position = batch["word"], batch["word_position"]

        def encoder(params):
            return self.module(params).encoder(ids, segment, position)

        def connector(params, x):
            return self.module(params).connector(x, position, word, word_position)

        def backbone(params, words):
            return self.module(params).backbone(words, batch["word_segment"], word_position)

        def decoder(params, x, words):
            module = self.module(params)
            return module.decoder(x, words, module.guide(batch), segment, position)

        def head(params, x):
            logits = self.module(params).head(x)
            return cross_entropy(logits, self.targets(batch))[0]

        x = jax.jit(encoder)(params)
        words = jax.jit(connector)(params, x)
        return {
            "encoder": (encoder, ()),
            "connector": (connector, (x,)),
            "backbone": (backbone, (words,)),
            "decoder": (decoder, (x, words)),
            "head": (head, (x,)),
        }

    def batch_flops(self, batch: Batch) -> dict[str, float]:
        num_bytes = segment_lengths(batch["segment"])
        num_words = segment_lengths(batch["word_segment"])
        return total(
            self.flops(
                num_bytes=num_bytes,
                num_words=num_words,
                context_bytes=num_bytes,
                context_words=num_words,
            )
        )

    def released_parameter_counts(self) -> dict[str, int]:
        """Parameters of every part in the released layout.

        It has 256 ids, and the decoder's cross-attention keeps query and key projections, a norm
        of the query and, with QK-norm, of both heads, none of which can change the output.
        """
        config = self.config
        counts = self.parameter_counts()
        rows = (config.num_ids - NUM_BYTES) * config.encoder.hidden_size
        byte_size, word_size = config.decoder.hidden_size, config.backbone.hidden_size
        dead = byte_size * byte_size + word_size * byte_size + byte_size
        if config.decoder.qk_norm:
            dead += 2 * config.decoder.head_size
        counts["encoder"] -= rows
        counts["head"] -= rows
        counts["decoder"] += config.decoder.num_layers * dead
        return counts

    def flops(self, *, num_bytes, num_words, context_bytes, context_words) -> dict[str, float]:
        """Forward FLOPs of every part for num_bytes byte and num_words word positions, in
        documents (or pieces) of context_bytes bytes and context_words words. Elementwise, where
        they are arrays."""
        config = self.config
        d, wide = config.encoder.hidden_size, config.backbone.hidden_size
        pooled = config.connector.hidden_size
        connector_byte = 2 * linear_flops(d, pooled) + 4.0 * pooled  # keys, values; scores, sum
        guide = config.decoder.num_layers * (linear_flops(wide, d) + linear_flops(d, d))
        return {
            "encoder": num_bytes * stack_flops(config.encoder, context_bytes),
            "connector": num_bytes * connector_byte + num_words * linear_flops(pooled, wide),
            "backbone": num_words * stack_flops(config.backbone, context_words),
            "decoder": num_bytes * stack_flops(config.decoder, context_bytes) + num_words * guide,
            "head": num_bytes * linear_flops(d, config.num_ids),
        }
