"""A Llama over its own tokens and M merged ones whose rows somebody predicts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from hat.models.hypernetwork import TokenRows
from hat.models.llama import LlamaModel
from hat.models.model import Batch, Params, score_ids
from hat.models.rows import keep_rows


def merged_params(params: Params, rows: TokenRows, count) -> dict[str, Any]:
    """Parameters of a MergedLlama. params: of the Llama. rows: of M tokens, the first `count` of
    which there are."""
    return {"base": params, "rows": rows, "count": jnp.asarray(count, jnp.int32)}


class MergedLlama(LlamaModel):
    """Ids below the config's num_ids are the Llama's own, the M after them merged tokens.

    The next token is one of both: one softmax over the Llama's logits and those of the merged
    tokens' rows. So what it gives to all continuations of a text sums to 1, as that of the Llama
    does, whatever the rows; with no merged token it is the Llama, number for number.
    """

    def logits(self, params: dict[str, Any], batch: Batch) -> jax.Array:
        """float32 [B, T, num_ids + M]."""
        module, config = self.module(params["base"]), self.config
        table, rows = module.embedding.table[...], params["rows"]
        inputs = jnp.concatenate([table, rows.inputs.astype(table.dtype)])
        x = module.run_backbone(keep_rows(inputs[batch["tokens"]]), batch)
        kernel = table.T if config.tie_embeddings else module.head.projection.kernel[...]
        outputs = rows.inputs if rows.outputs is None else rows.outputs
        kernel = jnp.concatenate([kernel, outputs.T.astype(kernel.dtype)], axis=1)
        ids = jnp.arange(config.num_ids)
        own = (ids < config.num_tokens) | (ids == config.eot)
        there = jnp.arange(len(outputs)) < params["count"]
        return score_ids(module.head.norm(x), kernel, jnp.concatenate([own, there]))
