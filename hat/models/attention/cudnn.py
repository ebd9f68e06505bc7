"""Attention on an NVIDIA GPU: cuDNN's fused kernel, bfloat16 only.

Its public interface knows causal masks and windows, but no packed documents: a mask would be
read as T x T numbers. So the documents are told apart by the scores themselves. Every head has 16
more dimensions, which hold the binary digits of the segment as +a in queries and keys for 1 and -a
for 0: two positions of one segment gain the same constant, which softmax ignores, and every digit
that differs costs SEPARATION. Beyond that the exponential is zero in float32, so no document sees
another as long as no two scores of a row differ by SEPARATION - 104.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

DIGITS = 16  # segments of a row: fewer than 65,536; a multiple of 8 keeps the kernel's shape rule
# Powers of two keep everything about the digits exact. Their sum, 8 * 256, leaves float32 scores
# 2^-12 fine, below what bfloat16 queries and keys round away.
SEPARATION = 256.0


def cudnn_complaint(platform: str, dtype, head_dim: int, softcap: float | None) -> str | None:
    """Why the kernel cannot run there, as `needs ...`; None if it can."""
    if platform != "gpu" or jax.default_backend() != "gpu":
        return f"needs an NVIDIA GPU, and this program is for a {platform.upper()}"
    if dtype != jnp.bfloat16:
        return f"needs dtype bfloat16, not {jnp.dtype(dtype).name}"
    if softcap is not None:
        return "has no logit_softcap"
    capability = tuple(map(int, jax.local_devices()[0].compute_capability.split(".")))
    most = (256 if capability >= (9, 0) else 128) - DIGITS
    if head_dim % 8 or head_dim > most:
        return f"needs a head_dim that is a multiple of 8 up to {most}, not {head_dim}"
    return None


def attend_cudnn(q, k, v, *, segment, window=None, implementation: str = "cudnn") -> jax.Array:
    """Shapes and meaning as in `attend`; implementation: "xla" runs the same formula anywhere."""
    head_dim = q.shape[-1]
    scale = 1 / math.sqrt(head_dim)
    digits = (segment[:, :, None] >> jnp.arange(DIGITS)) & 1
    # A differing digit turns + into -: 2 a_q a_k scale = SEPARATION. Only a_q may be inexact.
    digits = (2 * digits - 1)[:, :, None, :]
    query_digits = (SEPARATION / (2 * scale) * digits).astype(q.dtype)

    def extend(x, digits):
        return jnp.concatenate([x, jnp.broadcast_to(digits, (*x.shape[:3], DIGITS))], axis=-1)

    out = jax.nn.dot_product_attention(
        extend(q, query_digits),
        extend(k, digits.astype(k.dtype)),
        jnp.pad(v, [(0, 0), (0, 0), (0, 0), (0, DIGITS)]),
        scale=scale,
        is_causal=True,
        local_window_size=None if window is None else (window - 1, 0),
        implementation=implementation,
    )
    return out[..., :head_dim]
