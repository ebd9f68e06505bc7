"""What training minimises: small functions of (model, params, batch)."""

from __future__ import annotations

import jax

from hat.models.model import Batch, LanguageModel, Params, Sums


def language_modelling(
    model: LanguageModel, params: Params, batch: Batch
) -> tuple[jax.Array, Sums]:
    """The next-id cross-entropy: its total in nats (float32 scalar), and the sums to report.

    A total, not a mean: the step divides once, by the count over all microbatches and devices, so
    that every byte weighs the same however the rows are filled.
    """
    sums = model.loss(params, batch)
    return sums.nats, sums
