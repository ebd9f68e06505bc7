"""Model FLOPs by formula: what the matrix products of a forward pass need, no more.

A multiply-add counts as 2. Embedding lookups, norms, rotations and softmax count as 0; causal
attention counts the keys that are visible; recomputation is not counted. A training step is 3
forward passes (arXiv 2001.08361, section 2.1).
"""

from __future__ import annotations

from hat.models.layers import StackConfig

TRAINING_FACTOR = 3  # forward, and two products of the same size in the backward pass


def linear_flops(in_size: int, out_size: int) -> float:
    """Per position, of x [in] @ kernel [in, out]."""
    return 2.0 * in_size * out_size


def mean_visible_keys(context: float, window: int | None) -> float:
    """Keys that a position of a document sees on average, itself included.

    context: positions of the document; window: how many of them a position sees at most.
    """
    if window is None or window >= context:
        return (context + 1) / 2
    return (window * (window + 1) / 2 + (context - window) * window) / context


def stack_flops(config: StackConfig, context: float) -> float:
    """Per position of a stack, forward, in documents of `context` positions."""
    hidden, size = config.hidden_size, config.head_size
    heads, groups = config.num_heads * size, config.kv_heads * size
    projections = linear_flops(hidden, heads) * 2 + linear_flops(hidden, groups) * 2
    attention = 4.0 * heads * mean_visible_keys(context, config.window)
    mlp = 3 * linear_flops(hidden, config.intermediate_size)
    return config.num_layers * (projections + attention + mlp)
