"""A small byte-level Llama that runs without a framework: for splitters that ask a model.

One function, `read`, for NumPy on the host and for JAX on a device (`xp` is the module): it takes a
few bytes of every row and what the model remembers of the bytes before them. The memory is the
window of every layer, as in training, so that a text of any length is read as the model learned to
read. Keys are kept as they are before the rotation and rotated by their distance: angles stay as
small as the window, and exact.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from hat.text.ids import BOS


class Layer(NamedTuple):
    """Matrices [in, out], float32; q_norm and k_norm [K] are None without QK-norm."""

    attention_norm: Any  # [d]
    q: Any  # [d, H * K]
    k: Any  # [d, G * K]
    v: Any  # [d, G * K]
    o: Any  # [H * K, d]
    mlp_norm: Any  # [d]
    gate: Any  # [d, m]
    up: Any  # [d, m]
    down: Any  # [m, d]
    q_norm: Any = None
    k_norm: Any = None


class ByteModel(NamedTuple):
    """Of L layers. frequencies: radians a position of every rotated pair, [K / 2]."""

    embedding: Any  # [ids, d]
    layers: tuple[Layer, ...]
    norm: Any  # [d]
    head: Any  # [d, 257]: the bytes, and the end of text
    frequencies: Any
    eps: Any  # of the norms


class Memory(NamedTuple):
    """Of B rows. keys, values: of every layer [B, W, G, K], oldest first. count: int [B], how many
    positions have been read, at most W."""

    keys: tuple[Any, ...]
    values: tuple[Any, ...]
    count: Any


def empty_memory(model: ByteModel, window: int, rows: int) -> Memory:
    size = 2 * model.frequencies.shape[0]

    def zeros(layer: Layer) -> np.ndarray:
        return np.zeros((rows, window, layer.k.shape[1] // size, size), np.float32)

    held = tuple(map(zeros, model.layers))
    return Memory(held, held, np.zeros(rows, np.int32))


def read(model: ByteModel, memory: Memory, ids: Any, xp: ModuleType = np) -> tuple[Memory, Any]:
    """Reads int [B, n]. Also the entropy in nats of what follows each, float32 [B, n]."""
    length, window = ids.shape[1], memory.keys[0].shape[1]
    here, there = window + xp.arange(length), xp.arange(window + length)
    # A query sees the `window` positions up to its own, none before the beginning.
    visible = (there <= here[:, None]) & (there > here[:, None] - window)
    visible = visible & (there >= window - memory.count[:, None])[:, None]
    x = model.embedding[ids]
    keys, values = [], []
    for layer, k_held, v_held in zip(model.layers, memory.keys, memory.values):
        y = _norm(x, layer.attention_norm, model.eps)
        q, k, v = (_heads(y @ kernel, k_held) for kernel in (layer.q, layer.k, layer.v))
        if layer.q_norm is not None:
            q, k = _norm(q, layer.q_norm, model.eps), _norm(k, layer.k_norm, model.eps)
        k = xp.concatenate([k_held, k], axis=1)
        v = xp.concatenate([v_held, v], axis=1)
        keys.append(k[:, length:])
        values.append(v[:, length:])
        q, k = _rotate(q, here, model, xp), _rotate(k, there, model, xp)
        x = x + _attend(q, k, v, visible[:, None, None], xp) @ layer.o
        y = _norm(x, layer.mlp_norm, model.eps)
        gate = y @ layer.gate
        silu = gate * (xp.tanh(gate * np.float32(0.5)) + 1) * np.float32(0.5)
        x = x + (silu * (y @ layer.up)) @ layer.down
    logits = _norm(x, model.norm, model.eps) @ model.head
    logits = logits - logits.max(axis=-1, keepdims=True)
    total = xp.exp(logits).sum(axis=-1)
    entropy = xp.log(total) - (xp.exp(logits) * logits).sum(axis=-1) / total
    count = xp.minimum(memory.count + length, window)
    return Memory(tuple(keys), tuple(values), count), entropy


def begin(model: ByteModel, window: int) -> tuple[Memory, np.ndarray]:
    """One row that has read BOS, and the entropy of what follows it, float32 [1]."""
    memory, entropy = read(model, empty_memory(model, window, 1), np.array([[BOS]]))
    return memory, entropy[:, 0]


def _norm(x, scale, eps):
    return x * ((x * x).mean(axis=-1, keepdims=True) + eps) ** -0.5 * scale


def _heads(x, like):
    return x.reshape(*x.shape[:2], -1, like.shape[3])


def _rotate(x, position, model: ByteModel, xp):
    """x [B, n, H, K] at positions int [n], in the half-split form."""
    angles = position[:, None, None].astype(np.float32) * model.frequencies
    cos, sin = xp.cos(angles), xp.sin(angles)
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return xp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def _attend(q, k, v, visible, xp):
    """q [B, n, H, K], k and v [B, S, G, K], visible bool [B, 1, 1, n, S] -> [B, n, H * K]."""
    rows, length, heads, size = q.shape
    groups = k.shape[2]
    q = q.reshape(rows, length, groups, heads // groups, size).transpose(0, 2, 3, 1, 4)
    scores = q @ k.transpose(0, 2, 3, 1)[:, :, None] * np.float32(size**-0.5)
    scores = xp.where(visible, scores, np.float32(-1e30))
    weights = xp.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = weights / weights.sum(axis=-1, keepdims=True)
    out = weights @ v.transpose(0, 2, 1, 3)[:, :, None]
    return out.transpose(0, 3, 1, 2, 4).reshape(rows, length, heads * size)
