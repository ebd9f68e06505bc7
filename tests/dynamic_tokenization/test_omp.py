"""Matching pursuit against a float64 one that is written for one target, and its identities."""

from __future__ import annotations

import numpy as np
import pytest

from hat.dynamic_tokenization.omp import matching_pursuit, transplant


def reference(target, anchors, sparsity):
    """Least squares over the anchors taken so far, anew in every round; float64."""
    target, anchors = target.astype(np.float64), anchors.astype(np.float64)
    directions = anchors / np.linalg.norm(anchors, axis=1, keepdims=True)
    chosen, left, solved = [], target, None
    for _ in range(sparsity):
        share = np.abs(directions @ left)
        share[chosen] = -1
        chosen.append(int(share.argmax()))
        solved = np.linalg.lstsq(anchors[chosen].T, target, rcond=None)[0]
        left = target - anchors[chosen].T @ solved
    return chosen, solved


def draw(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("sparsity", [1, 3, 7])
def test_it_is_the_reference(sparsity):
    """To 1e-4 of coefficients of 1: fp32 against float64 over 7 rounds."""
    rng = np.random.default_rng(sparsity)
    anchors, targets = draw(rng, 30, 12), draw(rng, 5, 12)
    index, coefficients = matching_pursuit(targets, anchors, sparsity)
    assert index.shape == coefficients.shape == (5, sparsity)
    for target, chosen, solved in zip(targets, index, coefficients):
        wanted, values = reference(target, anchors, sparsity)
        assert chosen.tolist() == wanted
        np.testing.assert_allclose(solved, values, rtol=0, atol=1e-4)


def test_a_copy_of_an_anchor_has_coefficient_one():
    rng = np.random.default_rng(0)
    anchors = draw(rng, 20, 8)
    index, coefficients = matching_pursuit(anchors[[7, 3]] * 2, anchors, 1)
    assert index.tolist() == [[7], [3]]
    np.testing.assert_allclose(coefficients, 2.0, rtol=1e-6)


def test_anchors_that_add_nothing():
    """Two anchors, both the same, and the target in their span: finite, and exact."""
    anchor = np.array([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0]], np.float32)
    index, coefficients = matching_pursuit(anchor[:1] * 3, anchor, 2)
    made = (coefficients[..., None] * anchor[index]).sum(axis=1)
    np.testing.assert_allclose(made, anchor[:1] * 3, rtol=1e-5)


def test_a_linear_map_is_undone_at_full_sparsity():
    """donor = base W: the same coefficients give the base's rows, with k = D anchors; to 1e-3 of
    rows of 1, as the least squares of 16 anchors in fp32 multiply its rounding."""
    rng = np.random.default_rng(4)
    base, size = draw(rng, 60, 16), 16
    donor = base @ (np.eye(size) + 0.3 * draw(rng, size, size)).astype(np.float32)
    base_of = np.where(np.arange(60) < 45, np.arange(60), -1)
    errors = []
    for sparsity in (2, 8, size):
        made = transplant(base, donor, base_of, sparsity)
        np.testing.assert_array_equal(made[:45], base[:45])  # shared tokens, bit for bit
        errors.append(np.abs(made[45:] - base[45:]).max())
    assert errors[-1] < 1e-3 < 0.1 < min(errors[:2])


def test_nothing_new_and_nothing_shared():
    base = np.ones((4, 3), np.float32)
    np.testing.assert_array_equal(transplant(base, base, np.arange(4), 2), base)
    assert not transplant(base, base, np.full(4, -1), 2).any()
