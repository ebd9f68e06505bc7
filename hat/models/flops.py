"""Model FLOPs by formula: what the matrix products of a forward pass need, no more.

A multiply-add counts as 2. Embedding lookups, norms, rotations and softmax count as 0; causal
attention counts the keys that are visible; recomputation is not counted. A training step is 3
forward passes (arXiv 2001.08361, section 2.1).
"""

from __future__ import annotations

import numpy as np

from hat.models.layers import StackConfig

TRAINING_FACTOR = 3  # forward, and two products of the same size in the backward pass


def linear_flops(in_size: int, out_size: int) -> float:
    """Per position, of x [in] @ kernel [in, out]."""
    return 2.0 * in_size * out_size


def mean_visible_keys(context, window: int | None):
    """Keys that a position of a document sees on average, itself included.

    context: positions of the document, a number or an array of them; window: how many of them a
    position sees at most.
    """
    if window is None:
        return (context + 1) / 2
    within = np.minimum(window, context)
    return (within * (within + 1) / 2 + (context - within) * within) / context


def stack_flops(config: StackConfig, context):
    """Per position of a stack, forward, in documents of `context` positions (or an array)."""
    hidden, size = config.hidden_size, config.head_size
    heads, groups = config.num_heads * size, config.kv_heads * size
    projections = linear_flops(hidden, heads) * 2 + linear_flops(hidden, groups) * 2
    attention = 4.0 * heads * mean_visible_keys(context, config.window)
    mlp = 3 * linear_flops(hidden, config.intermediate_size)
    return config.num_layers * (projections + attention + mlp)


def segment_lengths(segment) -> np.ndarray:
    """Positions of every document of a batch, int [documents], from its segments int [B, T]."""
    segment = np.asarray(segment)
    rows, longest = len(segment), int(segment.max(initial=0)) + 1
    flat = segment + longest * np.arange(rows)[:, None]
    counts = np.bincount(flat.ravel(), minlength=rows * longest).reshape(rows, longest)
    return counts[:, 1:][counts[:, 1:] > 0]


def total(flops: dict[str, np.ndarray]) -> dict[str, float]:
    """Every part's FLOPs, summed over documents."""
    return {part: float(np.sum(count)) for part, count in flops.items()}
