"""The parts of a Llama block, and the scanned stack of blocks.

Every parameter is an `nnx.Param` with the logical names of its axes as metadata; a stack holds
one block whose parameters have a leading "layers" axis. Kernels are [in, out].
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from hat.errors import UserError
from hat.models.attention import KEPT, Form, attend
from hat.models.rows import keep_rows


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """The Llama 3.1 rule that stretches slow rotations for long contexts."""

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclasses.dataclass(frozen=True)
class StackConfig:
    """A stack of Llama blocks: pre-norm attention with rotary positions, then SwiGLU."""

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    num_kv_heads: int | None = None  # None: as many as query heads
    head_dim: int | None = None  # None: hidden_size / num_heads
    window: int | None = None  # positions a query sees, itself included; None: all before it
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    qk_norm: bool = False  # RMSNorm of every query and key head, before the rotation
    logit_softcap: float | None = None
    qkv_bias: bool = False
    residual_init: float | None = None  # std factor of residual outputs; None: (2 layers)^-1/2

    def __post_init__(self):
        sizes = ("hidden_size", "num_layers", "num_heads", "intermediate_size")
        for name in (*sizes, "num_kv_heads", "head_dim", "window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} {value} must be at least 1")
        if self.hidden_size % self.num_heads and self.head_dim is None:
            raise UserError(
                f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}; "
                "change one or set head_dim"
            )
        if self.num_heads % self.kv_heads:
            raise UserError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.kv_heads}"
            )
        if self.head_size % 2:
            raise UserError(f"head_dim {self.head_size} is odd; rotary positions need pairs")

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def head_size(self) -> int:
        return self.head_dim or self.hidden_size // self.num_heads

    @property
    def residual_scale(self) -> float:
        if self.residual_init is not None:
            return self.residual_init
        return (2 * self.num_layers) ** -0.5


class Linear(nnx.Module):
    """x [..., in] -> x @ kernel (+ bias) [..., out]; kernel ~ N(0, scale^2 / in)."""

    def __init__(self, rngs, in_size, out_size, axes, *, stack=(), scale=1.0, bias=False):
        def draw(key):
            return jax.random.normal(key, (in_size, out_size)) * (scale / math.sqrt(in_size))

        key = rngs.params()
        kernel = _draw_layers(draw, jax.random.split(key, *stack)) if stack else draw(key)
        self.kernel = nnx.Param(kernel, logical=_axes(stack, axes))
        if bias:
            self.bias = nnx.Param(
                jnp.zeros((*stack, out_size)), logical=_axes(stack, axes[-1:])
            )
        else:
            self.bias = None

    def __call__(self, x: jax.Array) -> jax.Array:
        x = product(x, self.kernel[...].astype(x.dtype))
        return x if self.bias is None else x + self.bias[...].astype(x.dtype)


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [..., in] @ kernel [in, out] -> [..., out].

    The backward pass is written out for the order of its second product: from the one that jax
    derives, transposed, XLA's CPU backend makes transposed copies of gradients, a tenth of the time
    of a step with a backbone 512 wide.
    """
    if x.size != len(kernel):
        return x @ kernel
    return jax.lax.platform_dependent(x, kernel, cpu=_product_of_a_row, default=jnp.matmul)


def _product_of_a_row(x, kernel):
    """x [..., in] with a single row. XLA's CPU backend takes one core for it, unless the matrix has
    more than two megabytes; the terms of a sum of products go to as many as it has cores."""
    depth, width = kernel.shape
    terms = 4 if depth >= 1024 else 2
    if depth % terms or kernel.size < 2**16:  # of a small one, the sum costs more
        return x @ kernel
    x, kernel = x.reshape(*x.shape[:-1], terms, -1), kernel.reshape(terms, -1, width)
    sums = jnp.einsum("...ti,tio->t...o", x, kernel, preferred_element_type=jnp.float32)
    return sums.sum(axis=0).astype(kernel.dtype)


def _product_forward(x, kernel):
    return x @ kernel, (x, kernel)


def _product_backward(residuals, gradient):
    x, kernel = residuals
    return gradient @ kernel.T, jnp.einsum("...i,...o->io", x, gradient)


product.defvjp(_product_forward, _product_backward)


class RMSNorm(nnx.Module):
    """x / rms(x) * scale over the last axis, in float32, back in the dtype of x."""

    def __init__(self, size, *, eps=1e-5, axis="embed", stack=()):
        self.scale = nnx.Param(jnp.ones((*stack, size)), logical=_axes(stack, (axis,)))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        return rms_norm(x, self.scale[...].astype(jnp.float32), self.eps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """x [..., d], float32 scale [d] -> [..., d] in the dtype of x.

    The backward pass is written out: it keeps x and one number a position, and its sums of
    products are contractions, which XLA's CPU backend runs several times faster than reductions.
    """
    return _rms_norm_forward(x, scale, eps)[0]


def _rms_norm_forward(x, scale, eps):
    y = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(_sum_products("...d,...d->...", y, y)[..., None] / x.shape[-1] + eps)
    return (y * inverse * scale).astype(x.dtype), (x, scale, inverse)


def _rms_norm_backward(eps, residuals, gradient):
    x, scale, inverse = residuals
    unit, gradient = x.astype(jnp.float32) * inverse, gradient.astype(jnp.float32)
    scaled = gradient * scale
    along = _sum_products("...d,...d->...", scaled, unit)[..., None] / x.shape[-1]
    of_x = inverse * (scaled - unit * along)
    return of_x.astype(x.dtype), _sum_positions(gradient, unit)


rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)

_sum_products = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def _sum_positions(a: jax.Array, b: jax.Array) -> jax.Array:
    """The sum of a b, both [..., d], over positions: [d]."""
    # As a contraction of two, XLA's CPU backend makes transposed copies of both: a tenth of a step of
    # the quickstart. With ones, the TPU's compiler goes through HBM once more: 7 % of all traffic.
    return jax.lax.platform_dependent(
        a, b,
        cpu=lambda a, b: _sum_products("...,...d->d", jnp.ones_like(a[..., 0]), a * b),
        default=lambda a, b: _sum_products("...d,...d->d", a, b),
    )  # fmt: skip


def rope_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> jax.Array:
    """Radians per position of every rotated pair, float32 [head_dim / 2]."""
    frequencies = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    if scaling is None:
        return frequencies
    # Llama 3.1: wavelengths beyond the old context are stretched by `factor`, short ones are
    # kept, and those between go over linearly in the number of turns within the old context.
    turns = scaling.original_max_positions * frequencies / (2 * math.pi)
    keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    keep = jnp.clip(keep, 0.0, 1.0)
    return keep * frequencies + (1 - keep) * frequencies / scaling.factor


def rope_table(positions: jax.Array, config: StackConfig) -> tuple[jax.Array, jax.Array]:
    """cos and sin, float32 [B, T, 1, head_dim / 2], of positions int [B, T]."""
    frequencies = rope_frequencies(config.head_size, config.rope_theta, config.rope_scaling)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    return _computed_once(jnp.cos(angles)), _computed_once(jnp.sin(angles))


def _computed_once(x: jax.Array) -> jax.Array:
    """x [..., n] itself, which XLA's CPU backend would compute anew wherever it is used: sines for
    every head of every layer were a tenth of a step of the quickstart. It fuses no products, and one
    with the identity changes nothing."""
    return jax.lax.platform_dependent(
        x,
        cpu=lambda x: _sum_products("...d,de->...e", x, jnp.eye(x.shape[-1], dtype=x.dtype)),
        default=lambda x: x,
    )


def rotate(x: jax.Array, table: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotary positions in the half-split form: x [B, T, H, K], pairs (i, i + K / 2)."""
    cos, sin = table
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


class Attention(nnx.Module):
    """Grouped-query self-attention with rotary positions, optional QK-norm and soft-cap."""

    def __init__(self, config: StackConfig, rngs, *, stack=()):
        self.config = config
        hidden, size, bias = config.hidden_size, config.head_size, config.qkv_bias
        heads, groups = config.num_heads * size, config.kv_heads * size
        self.q = Linear(rngs, hidden, heads, ("embed", "heads"), stack=stack, bias=bias)
        self.k = Linear(rngs, hidden, groups, ("embed", "kv_heads"), stack=stack, bias=bias)
        self.v = Linear(rngs, hidden, groups, ("embed", "kv_heads"), stack=stack, bias=bias)
        self.o = Linear(
            rngs, heads, hidden, ("heads", "embed"), stack=stack, scale=config.residual_scale
        )
        norm = dict(eps=config.norm_eps, axis=None, stack=stack)
        self.q_norm = RMSNorm(size, **norm) if config.qk_norm else None
        self.k_norm = RMSNorm(size, **norm) if config.qk_norm else None

    def project(self, x: jax.Array, rope) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x [B, T, d] -> rotated q [B, T, H, K] and k [B, T, G, K], and v [B, T, G, K]."""

        def heads(y):
            return y.reshape(*y.shape[:2], -1, self.config.head_size)

        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        return checkpoint_name((rotate(q, rope), rotate(k, rope), v), KEPT)

    def output(self, heads: jax.Array) -> jax.Array:
        """[B, T, H, K] -> [B, T, d]."""
        return self.o(heads.reshape(*heads.shape[:2], -1))


class SwiGLU(nnx.Module):
    """down(silu(gate(x)) * up(x)) for x [B, T, d]."""

    def __init__(self, config: StackConfig, rngs, *, stack=()):
        hidden, inner = config.hidden_size, config.intermediate_size
        self.gate = Linear(rngs, hidden, inner, ("embed", "mlp"), stack=stack)
        self.up = Linear(rngs, hidden, inner, ("embed", "mlp"), stack=stack)
        self.down = Linear(
            rngs, inner, hidden, ("mlp", "embed"), stack=stack, scale=config.residual_scale
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


# Attention over given projections: q [B, T, H, K], k and v [B, T, G, K] -> [B, T, H, K].
# Training passes `attend`; generation passes a function that reads and writes a cache.
AttentionFunction = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Block(nnx.Module):
    """x [B, T, d] -> x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: StackConfig, rngs, *, stack=()):
        self.attention_norm = RMSNorm(config.hidden_size, eps=config.norm_eps, stack=stack)
        self.attention = Attention(config, rngs, stack=stack)
        self.mlp_norm = RMSNorm(config.hidden_size, eps=config.norm_eps, stack=stack)
        self.mlp = SwiGLU(config, rngs, stack=stack)

    def __call__(self, x: jax.Array, rope, attention: AttentionFunction) -> jax.Array:
        q, k, v = self.attention.project(self.attention_norm(x), rope)
        x = x + self.attention.output(attention(q, k, v))
        return x + self.mlp(self.mlp_norm(x))


def stack_attention(config: StackConfig, segment: jax.Array, form: Form) -> AttentionFunction:
    """The attention of a whole row: causal, windowed, inside segments [B, T]."""

    def attention(q, k, v):
        return attend(
            q, k, v, segment=segment, window=config.window, softcap=config.logit_softcap, form=form
        )

    return attention


Remat = Literal["none", "dots", "attention", "full"]
REMAT_POLICIES = {  # besides "none": what the forward pass may keep
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    # Queries, keys, values and, of the kernels that give them, attention's output and the log of
    # its sums: a few widths a position, for a fifth of a Llama's forward pass and its attention.
    "attention": jax.checkpoint_policies.save_only_these_names(KEPT),
    "full": jax.checkpoint_policies.nothing_saveable,
}


def run_stack(apply, layers: nnx.Module, x, *, scan=True, remat="none", part=slice(None)):
    """Runs `x = apply(layer, x)` through a stack, along the leading axis of its parameters.

    layers: a module whose parameters are [L, ...]; scan: compile one body for all layers instead
    of one body each; remat: what the backward pass recomputes, a key of REMAT_POLICIES; part: of
    the layers to run, at least one.
    """
    graph, params = nnx.split(layers)
    if part != slice(None):
        params = jax.tree.map(lambda leaf: leaf[part], params)

    def body(x, layer_params):
        return keep_rows(apply(nnx.merge(graph, layer_params), x))

    if remat != "none":
        body = jax.checkpoint(body, policy=REMAT_POLICIES[remat], prevent_cse=not scan)
    if scan:
        return jax.lax.scan(lambda x, p: (body(x, p), None), x, params)[0]
    for i in range(jax.tree.leaves(params)[0].shape[0]):
        x = body(x, jax.tree.map(lambda leaf: leaf[i], params))
    return x


def run_blocks(
    config: StackConfig,
    blocks: Block,
    x,
    position,
    segment,
    *,
    scan,
    remat,
    attention: Form,
    part=slice(None),
) -> jax.Array:
    """Whole rows x [B, T, d] through a stack of blocks; position and segment int [B, T].

    scan, remat and part as in `run_stack`.
    """
    rope, attention = rope_table(position, config), stack_attention(config, segment, attention)
    return run_stack(
        lambda block, x: block(x, rope, attention), blocks, x, scan=scan, remat=remat, part=part
    )


def _draw_layers(draw: Callable, keys: jax.Array) -> jax.Array:
    """draw(key) for every key, stacked; one after the other, since XLA's CPU code holds about eight
    times what it draws at once."""
    # Every loop starts from a buffer of its own. `jax.lax.map` starts from zeros, which loops of
    # equal shapes would share: copied for each of them, and kept until the last has its copy.
    start = jax.random.key_data(keys).ravel()[0].astype(jnp.float32)
    shape = jax.eval_shape(draw, keys[0]).shape
    return jax.lax.fori_loop(
        0, len(keys),
        lambda i, drawn: jax.lax.dynamic_update_index_in_dim(drawn, draw(keys[i]), i, 0),
        jnp.broadcast_to(start, (len(keys), *shape)),
    )  # fmt: skip


def _axes(stack, axes):
    return ("layers",) * len(stack) + tuple(axes)
