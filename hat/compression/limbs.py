"""Stop-cell windows of many rows at once, in 32-bit numbers: what a device without 64-bit
integers does, and what wide windows need anywhere.

A number of up to 128 bits is limbs of 16 bits, lowest first: uint32 [..., L]. So floor(Q c / 2^16)
for a cell c <= 2^16 is exact: a limb times c, and the carry of the one before, are below 2^32. The
functions take NumPy arrays or JAX arrays, inside jit and outside.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hat.compression.windows import WindowConfig, root

LIMB_BITS = 16
_MASK = (1 << LIMB_BITS) - 1
Array = Any  # of NumPy or of JAX


class Nodes(NamedTuple):
    """Nodes of B windows, uint32 [B, L] each; see `hat.compression.windows.Node`."""

    start: Array
    size: Array


def to_limbs(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Python ints [...] -> uint32 [..., L], L = bits / 16 rounded up, and one more for 2^bits."""
    count = bits // LIMB_BITS + 1
    numbers = np.asarray(numbers, object)
    limbs = [(numbers >> (LIMB_BITS * i)) & _MASK for i in range(count)]
    return np.stack(limbs, axis=-1).astype(np.uint32)


def to_ints(limbs: Array) -> np.ndarray:
    """uint32 [..., L] -> Python ints [...]."""
    limbs = np.asarray(limbs).astype(object)
    return sum(limbs[..., i] << (LIMB_BITS * i) for i in range(limbs.shape[-1]))


def narrow(size: Array, cells: Array) -> Array:
    """floor(size * cells / 2^16): uint32 [..., L] and [...] of at most 2^16 -> uint32 [..., L]."""
    below = (size[..., 0] * cells) >> LIMB_BITS
    limbs = []
    for i in range(1, size.shape[-1]):
        product = size[..., i] * cells + below
        limbs.append(product & _MASK)
        below = product >> LIMB_BITS
    return _stack([*limbs, below])


def add(a: Array, b: Array) -> Array:
    """[..., L] + [..., L]; what would be beyond the last limb does not happen here."""
    carry, limbs = 0, []
    for i in range(a.shape[-1]):
        total = a[..., i] + b[..., i] + carry
        limbs.append(total & _MASK)
        carry = total >> LIMB_BITS
    return _stack(limbs)


def subtract(a: Array, b: Array, borrow: int = 0) -> Array:
    """a - b - borrow, [..., L], for a >= b + borrow."""
    one = a[..., 0] & 0
    borrow, limbs = one + np.uint32(borrow), []
    for i in range(a.shape[-1]):
        total = a[..., i] + np.uint32(1 << LIMB_BITS) - b[..., i] - borrow
        limbs.append(total & _MASK)
        borrow = 1 - (total >> LIMB_BITS)
    return _stack(limbs)


def at_most(a: Array, b: Array) -> Array:
    """a <= b, bool [...]."""
    less = a[..., 0] <= b[..., 0]
    for i in range(1, a.shape[-1]):
        less = (a[..., i] < b[..., i]) | ((a[..., i] == b[..., i]) & less)
    return less


def roots(config: WindowConfig, rows: int) -> Nodes:
    size = to_limbs(np.full(rows, root(config).size, object), config.bits)
    return Nodes(size & 0, size)


def descend(nodes: Nodes, low: Array, high: Array) -> tuple[Nodes, Array]:
    """Every row's child for the byte whose cells are low to high, uint32 [B]; and whether there is
    one, bool [B]. Where there is none, the child means nothing."""
    first, last = narrow(nodes.size, low), narrow(nodes.size, high)
    fits = ~at_most(last, first)
    return Nodes(add(nodes.start, first), subtract(last, first, 1)), fits


def codes(nodes: Nodes) -> Array:
    """What windows that end here are coded as, uint32 [B, L]."""
    return add(nodes.start, nodes.size)


def find(nodes: Nodes, tables: Array, wanted: Array) -> tuple[Array, Array]:
    """Where codes uint32 [B, L] lead from their nodes, under tables uint32 [B, 257]: the byte, int
    [B], and whether the window ends here instead, bool [B]."""
    offset = subtract(wanted, nodes.start)
    ends = at_most(nodes.size, offset)
    bounds = narrow(nodes.size[:, None, :], tables[:, 1:-1])
    return at_most(bounds, offset[:, None, :]).sum(-1), ends


def _stack(limbs: list) -> Array:
    """[...] each -> [..., L]."""
    if all(isinstance(limb, np.ndarray) for limb in limbs):
        return np.stack(limbs, axis=-1)
    import jax.numpy as jnp

    return jnp.stack(limbs, axis=-1)
