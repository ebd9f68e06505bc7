"""Attention on a TPU: the splash kernel, which skips blocks that no query sees.

It runs inside `jax.shard_map` over the mesh that is current while the program is traced: rows
split over replica and fsdp, heads over tensor, so that every device runs it on what it holds.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, PartitionSpec

from hat.models.attention.plain import KEPT
from hat.models.rows import ROW_AXES

HEAD_AXIS = "tensor"  # of the mesh (hat.training.sharding)
BLOCKS = (512, 384, 256)  # positions; 128 to 1024 compile, 2048 overflows the vector memory
LANES = 128  # a TPU register's; what a short row is padded to
HEAD_SIZES = (64, 96, 128, 192, 256)  # that compile; others are padded with zeros to the next


def splash_complaint(platform: str, head_dim: int) -> str | None:
    """Why the kernel cannot run there, as `needs ...`; None if it can."""
    if platform != "tpu":
        return f"needs a TPU, and this program is for a {platform.upper()}"
    if head_dim > HEAD_SIZES[-1]:
        return f"needs a head_dim of at most {HEAD_SIZES[-1]}, not {head_dim}"
    return None


def attend_splash(
    q, k, v, *, segment, window=None, softcap=None, interpret: bool = False
) -> jax.Array:
    """Shapes and meaning as in `attend`, head_dim at most 256; interpret: run it anywhere, slowly.

    Queries are scaled in their own dtype before the product: in bfloat16 that rounds them once
    more than the other forms do.
    """
    run = functools.partial(_attend, window=window, softcap=softcap, interpret=interpret)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return run(q, k, v, segment)
    rows, heads, copies = _specs(mesh, q.shape[2], k.shape[2])
    split = PartitionSpec(rows, None, heads)
    return jax.shard_map(
        run,
        in_specs=(split, split, split, PartitionSpec(rows)),
        out_specs=split,
        check_vma=False,  # kernels do not say along which axes their outputs vary
    )(q, _repeat(k, copies), _repeat(v, copies), segment)


def _specs(mesh: AbstractMesh, num_heads: int, num_groups: int):
    """Axes that split rows, the axis that splits heads (None: they stay whole), and how often key
    heads are repeated for it."""
    rows = tuple(axis for axis in ROW_AXES if axis in mesh.axis_names)
    ways = mesh.shape.get(HEAD_AXIS, 1)
    if ways == 1 or num_heads % ways:
        return rows, None, 1
    return rows, HEAD_AXIS, 1 if num_groups % ways == 0 else num_heads // num_groups


def _repeat(x, copies):
    return x if copies == 1 else jnp.repeat(x, copies, axis=2)


def _attend(q, k, v, segment, *, window, softcap, interpret):
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    length, heads, head_dim = q.shape[1:]
    size, block = next(s for s in HEAD_SIZES if s >= head_dim), block_size(length)
    padded = -(-length // block) * block

    def prepare(x):  # [B, T, H, K] -> [B, H, padded, size]
        x = jnp.pad(x, [(0, 0), (0, padded - length), (0, 0), (0, size - head_dim)])
        return x.swapaxes(1, 2)

    if window is None:
        mask = splash.CausalMask((padded, padded))
    else:
        mask = splash.LocalMask((padded, padded), (window - 1, 0), 0)
    kernel = splash.make_splash_mha(
        splash.MultiHeadMask([mask] * heads),
        block_sizes=splash.BlockSizes(
            block_q=block, block_kv=block, block_kv_compute=block,
            block_q_dkv=block, block_kv_dkv=block, block_kv_dkv_compute=block,
            block_q_dq=block, block_kv_dq=block,
        ),  # two backward kernels: the fused one holds a copy of dq for every block of keys
        head_shards=1, q_seq_shards=1, attn_logits_soft_cap=softcap, interpret=interpret,
        residual_checkpoint_name=KEPT,
    )  # fmt: skip
    # What pads the row is no document's; it comes last, so that no real query sees it.
    segment = jnp.pad(segment, [(0, 0), (0, padded - length)], constant_values=-1)
    q = q * jnp.asarray(1 / math.sqrt(head_dim), q.dtype)
    out = jax.vmap(kernel)(
        prepare(q), prepare(k), prepare(v), splash.SegmentIds(segment, segment)
    )
    return out.swapaxes(1, 2)[:, :length, :, :head_dim]


def block_size(length: int) -> int:
    """Positions of a block: what pads a row of `length` positions least, the larger of two."""
    if length <= BLOCKS[0]:
        return -(-length // LANES) * LANES
    return min(BLOCKS, key=lambda block: (-(-length // block) * block, -block))
