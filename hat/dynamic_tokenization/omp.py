"""Rows of new tokens by orthogonal matching pursuit over the tokens that two models share.

arXiv 2506.06607: a token that only the donor has is written as a sparse combination of k shared
tokens ("anchors") in the donor's space, and the same combination of the base's rows is its row
there. Embedding and head are done apart. Shared tokens keep the base's rows.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 512  # targets at a time
_dot = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def matching_pursuit(
    targets: jax.Array, anchors: jax.Array, sparsity: int
) -> tuple[np.ndarray, np.ndarray]:
    """For every target [N, D] the anchors [A, D] that it is made of: indices int32 [N, k], and
    their coefficients float32 [N, k], k = min(sparsity, A).

    Each round takes the anchor whose direction has the largest share in what is left; then all
    coefficients are those of least squares. An anchor that adds nothing gets 0.
    """
    sparsity = min(sparsity, len(anchors))
    anchors = jnp.asarray(anchors, jnp.float32)
    index, coefficients = [], []
    for first in range(0, len(targets), BLOCK):
        block = np.asarray(targets[first : first + BLOCK], np.float32)
        rows = np.zeros((min(BLOCK, len(targets)), block.shape[1]), np.float32)
        rows[: len(block)] = block
        found = _pursue(jnp.asarray(rows), anchors, sparsity)
        for kept, its in zip((index, coefficients), found):
            kept.append(np.asarray(its)[: len(block)])
    if not index:
        return np.zeros((0, sparsity), np.int32), np.zeros((0, sparsity), np.float32)
    return np.concatenate(index), np.concatenate(coefficients)


@functools.partial(jax.jit, static_argnums=2)
def _pursue(targets, anchors, sparsity: int):
    count, size = targets.shape
    norms = jnp.linalg.norm(anchors, axis=1)
    directions = anchors / jnp.maximum(norms, 1e-12)[:, None]
    start = (
        targets,
        jnp.zeros((count, sparsity), jnp.int32),
        jnp.zeros((count, sparsity, size)),  # orthonormal, what every anchor adds
        jnp.zeros((count, len(anchors)), bool),
    )

    def one(step, state):
        left, index, basis, taken = state
        share = jnp.abs(_dot(left, directions.T))
        best = jnp.argmax(jnp.where(taken, -1.0, share), axis=1)
        new = directions[best]
        for _ in range(2):  # twice is enough (Giraud et al. 2005): the second takes what rounding left
            along = jnp.einsum("nkd,nd->nk", basis, new, precision="highest")
            new = new - jnp.einsum("nk,nkd->nd", along, basis, precision="highest")
        size_left = jnp.linalg.norm(new, axis=1, keepdims=True)
        new = jnp.where(size_left > 1e-5, new / jnp.maximum(size_left, 1e-12), 0.0)
        left = left - jnp.sum(left * new, axis=1, keepdims=True) * new
        rows = jnp.arange(count)
        return (
            left,
            index.at[:, step].set(best.astype(jnp.int32)),
            basis.at[:, step].set(new),
            taken.at[rows, best].set(True),
        )

    _, index, basis, _ = jax.lax.fori_loop(0, sparsity, one, start)
    # anchors[index] = triangle^T basis: least squares is one triangular system a target.
    chosen = anchors[index]
    triangle = jnp.einsum("nkd,njd->nkj", basis, chosen, precision="highest")
    triangle = jnp.triu(triangle)
    empty = jnp.abs(jnp.diagonal(triangle, axis1=1, axis2=2)) <= 0
    triangle = jnp.where(empty[:, :, None], jnp.eye(sparsity), triangle)
    wanted = jnp.einsum("nkd,nd->nk", basis, targets, precision="highest")
    solved = jax.scipy.linalg.solve_triangular(triangle, wanted[..., None])[..., 0]
    return index, jnp.where(empty, 0.0, solved)


def transplant(
    base: np.ndarray, donor: np.ndarray, base_of: np.ndarray, sparsity: int
) -> np.ndarray:
    """Rows in the base's space for all tokens of a donor.

    base: [V, d]. donor: [N, D]. base_of: int [N], the base token that spells the same, -1 for none.
    Returns [N, d] in the dtype of the base: base[base_of] bit for bit where there is one.
    """
    shared, new = np.flatnonzero(base_of >= 0), np.flatnonzero(base_of < 0)
    out = np.zeros((len(donor), base.shape[1]), base.dtype)
    out[shared] = base[base_of[shared]]
    if len(new) and len(shared):
        index, coefficients = matching_pursuit(donor[new], donor[shared], sparsity)
        anchors = out[shared].astype(np.float32)
        for first in range(0, len(new), BLOCK):
            part = slice(first, first + BLOCK)
            made = np.einsum("nk,nkd->nd", coefficients[part], anchors[index[part]])
            out[new[part]] = made.astype(base.dtype)
    return out
