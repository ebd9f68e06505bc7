"""The parts of a HAT as a hypernetwork: rows of a new token from its bytes.

The byte encoder reads the token's bytes and the connector pools them, as both do with a word; what
they make of it is added to the mean of the rows of the token's parts, and begins at zero. So tokens
that are spelled alike but cut otherwise differ in that mean alone.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from flax import nnx

from hat.errors import UserError
from hat.models.connector import Connector, ConnectorConfig
from hat.models.flops import linear_flops, stack_flops
from hat.models.hypernetwork import RowPredictor, RowPredictorConfig, TokenRows, residual
from hat.models.layers import Block, Linear, RMSNorm, StackConfig, run_blocks
from hat.models.model import Embedding

NUM_BYTES = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByteHypernetworkConfig(RowPredictorConfig):
    """encoder: of the bytes. connector: pools them into word_size numbers. most_bytes: of a token are
    read, the first ones."""

    encoder: StackConfig
    connector: ConnectorConfig
    word_size: int
    most_bytes: int = 48

    def __post_init__(self):
        super().__post_init__()
        for name in ("word_size", "most_bytes"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} {getattr(self, name)} must be at least 1")

    def build(self) -> ByteHypernetworkModel:
        return ByteHypernetworkModel(self, ByteHypernetwork)


class ByteHypernetwork(nnx.Module):
    def __init__(self, config: ByteHypernetworkConfig, rngs):
        self.config, stack = config, config.encoder
        self.embedding = Embedding(rngs, NUM_BYTES, stack.hidden_size, std=1.0)
        self.layers = Block(stack, rngs, stack=(stack.num_layers,))
        self.connector = Connector(config.connector, stack, config.word_size, rngs)
        self.norm = RMSNorm(config.word_size, eps=stack.norm_eps)
        self.write = Linear(rngs, config.word_size, config.width, ("embed", "word_embed"), scale=0.0)

    def __call__(self, spelled, source: TokenRows, parts) -> TokenRows:
        """See `RowPredictor.rows`."""
        text = jnp.asarray(spelled)[jnp.maximum(parts, 0)]
        text = jnp.where(parts[..., None] >= 0, text, -1)
        text = text.reshape(len(parts), -1)
        # The bytes of all parts, side by side: those that are there first, in their order.
        order = jnp.argsort(text < 0, axis=1, stable=True)[:, : self.config.most_bytes]
        text = jnp.take_along_axis(text, order, axis=1)
        present = text >= 0
        position = jnp.broadcast_to(jnp.arange(text.shape[1]), text.shape)
        how = dict(scan=True, remat="none", attention="auto")

        def change(tables):
            x = self.embedding(jnp.maximum(text, 0).astype(jnp.int32))
            segment = present.astype(jnp.int32)
            x = run_blocks(self.config.encoder, self.layers, x, position, segment, **how)
            word, first = jnp.where(present, 0, 1), jnp.zeros((len(parts), 1), jnp.int32)
            x = self.connector(x, position, word, first)[:, 0]
            return self.write(self.norm(x))

        return residual(source, parts, change)


class ByteHypernetworkModel(RowPredictor):
    parts = ("embedding", "layers", "connector", "norm", "write")
    reads_bytes = True

    def row_flops(self, longest: int) -> float:
        config = self.config
        pooled = 2 * linear_flops(config.encoder.hidden_size, config.connector.hidden_size)
        each = stack_flops(config.encoder, config.most_bytes) + pooled
        written = linear_flops(config.connector.hidden_size, config.word_size)
        return config.most_bytes * each + written + linear_flops(config.word_size, config.width)
