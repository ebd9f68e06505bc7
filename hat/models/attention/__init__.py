"""Attention behind one door: `attend`, and the forms that it chooses from.

Which form runs depends on the platform that a program is traced for. That is the platform of the
current mesh (`jax.sharding.use_abstract_mesh`, as hat.training.program does it), which may be of a
pod that is not there; without a mesh it is JAX's default backend.
"""

from __future__ import annotations

from typing import Literal

import jax

from hat.errors import UserError
from hat.models.attention.chunked import CHUNK, attend_chunked
from hat.models.attention.cudnn import attend_cudnn, cudnn_complaint
from hat.models.attention.plain import KEPT, attend_blocks, attend_dense
from hat.models.attention.splash import attend_splash, splash_complaint

# "auto" chooses; "blocks" is the block form for stacks with a window, "chunked" for those without.
Form = Literal["auto", "dense", "blocks", "chunked", "splash", "cudnn"]

def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    segment: jax.Array,
    window: int | None = None,
    softcap: float | None = None,
    form: Form = "auto",
) -> jax.Array:
    """Causal attention inside segments.

    q [B, T, H, K], k and v [B, T, G, K] with G key heads, each shared by H / G query heads;
    segment int [B, T]: a position sees only keys of its own segment (0 is padding and sees
    padding). window: how many positions a query sees, itself included; None for all before it.
    softcap: scores s become softcap * tanh(s / softcap). Scores and softmax are float32; the
    result has the dtype of v and the shape of q. UserError: the form that is asked for cannot run
    here.
    """
    length, head_dim, platform = q.shape[1], q.shape[3], target_platform()
    complaints = {
        "splash": splash_complaint(platform, head_dim),
        "cudnn": cudnn_complaint(platform, q.dtype, head_dim, softcap),
    }
    if form == "auto":
        kernels = (name for name, complaint in complaints.items() if complaint is None)
        form = next(kernels, plain_form(length, window))
    elif complaint := complaints.get(form):
        raise UserError(f"attention={form} {complaint}; set model.attention=auto")
    if form == "blocks" and window is None:
        form = "chunked"
    rule = dict(segment=segment, window=window)
    if form == "cudnn":
        return attend_cudnn(q, k, v, **rule)
    return _WITH_SOFTCAP[form](q, k, v, softcap=softcap, **rule)


def target_platform() -> str:
    """What is being traced for: "cpu", "gpu", "tpu"."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is None:
        return jax.default_backend()
    if hasattr(device, "platform"):
        return device.platform
    # jax 0.10.0 tells only what kind of device it is, which for GPUs is a product's name.
    kind = device.device_kind
    return "tpu" if kind.startswith("TPU") else "cpu" if kind == "cpu" else "gpu"


def plain_form(length: int, window: int | None) -> str:
    """The form in plain XLA that is the least work for rows of `length` positions.

    A query meets 2 * window keys in blocks, about half a row or window + CHUNK in chunks.
    """
    short = window is not None and window < CHUNK
    if short and -(-length // window) * window * 2 * window < length * length:
        return "blocks"
    return "dense" if length <= CHUNK else "chunked"


_WITH_SOFTCAP = {
    "dense": attend_dense,
    "blocks": attend_blocks,
    "chunked": attend_chunked,
    "splash": attend_splash,
}
