"""The fp32 HAT against the float64 HAT of reference.py, in value and in gradient."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from tests.models import reference, toy

# float32 has 6e-8 of relative rounding; logits of up to 5 come after some hundred dependent
# roundings. Measured: 1e-5 at most.
LOGITS_TOLERANCE = 3e-5


def some_rows(seed):
    """Rows of T bytes: full to the last byte, nearly full, a piece alone, none."""
    rng = np.random.default_rng(seed)
    document = functools.partial(toy.random_document, rng)
    return [
        [document(11), document(1), document(16), document(12)],  # with 4 BOS and 4 EOT: 48
        [document(35), document(0), document(3, closed=False)],
        [document(11, closed=False)],
        [],
    ]


@pytest.mark.parametrize(
    ("name", "guide"),
    [
        ("plain", "earliest"),
        ("wide", "earliest"),
        ("everything", "earliest"),
        ("everything", "released"),
    ],
)
def test_logits_and_sums_equal_the_reference(name, guide):
    hat = toy.compiled(name, guide)
    rows = some_rows(seed=1)
    batch = reference.build_batch(rows, toy.T, toy.N)
    logits, nats = hat.logits(hat.params, batch), hat.nats(hat.params, batch)
    assert logits.dtype == nats.dtype == np.float32
    total = correct = 0
    for b, places in enumerate(reference.spans(rows)):
        for document, place in zip(rows[b], places, strict=True):
            expected = reference.hat_logits(hat.config, hat.params, document)
            np.testing.assert_allclose(
                logits[b, place][:, reference.PREDICTED],
                expected[:, reference.PREDICTED],
                rtol=0,
                atol=LOGITS_TOLERANCE,
            )
            surprise = reference.nats(expected, document)
            np.testing.assert_allclose(nats[b, place][:-1], surprise, rtol=0, atol=1e-5)
            assert nats[b, place][-1] == 0  # nothing is predicted from a document's last id
            total += surprise.sum()
            best = expected[:-1, reference.PREDICTED].argmax(axis=1)
            ids = reference.layout(document).ids[1:]
            correct += sum(reference.PREDICTED[i] == j for i, j in zip(best, ids, strict=True))
    assert not nats[batch["segment"] == 0].any()
    unpredicted = np.setdiff1d(np.arange(hat.config.num_ids), reference.PREDICTED)
    assert (logits[:, :, unpredicted] <= -1e30).all()

    documents = [document for row in rows for document in row]
    sums = hat.loss(hat.params, batch)
    np.testing.assert_allclose(sums.nats, total, rtol=1e-5)
    assert sums.targets == sum(len(d.data) + d.closed for d in documents)
    assert sums.bytes == sum(len(d.data) for d in documents)
    assert sums.words == sum(1 + d.starts.sum() + d.closed for d in documents)
    assert sums.correct == correct


GRADIENTS = [("plain", "earliest"), ("everything", "released")]


@pytest.mark.parametrize(("name", "guide"), GRADIENTS)
def test_gradients_equal_finite_differences_of_the_reference(name, guide):
    """Along one random direction per parameter, central differences in float64.

    Their own error is about 1e-8 (step 1e-4, third derivatives of order 1); that of the float32
    gradient is about 1e-6 of its size.
    """
    config, _, params, gradient = toy.compiled_gradient(name, guide)
    rng = np.random.default_rng(5)
    documents = [toy.random_document(rng, 7), toy.random_document(rng, 4, closed=False)]
    rows = [documents, [], [], []]
    _, slopes = gradient(params, reference.build_batch(rows, toy.GT, toy.GN))

    def loss(params):
        nats = [reference.nats(reference.hat_logits(config, params, d), d) for d in documents]
        return np.concatenate(nats).mean()

    exact = reference.float64(params)
    leaves, structure = jax.tree.flatten(exact)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(exact)]
    for i, (path, slope) in enumerate(zip(paths, jax.tree.leaves(slopes), strict=True)):
        slope = np.asarray(slope, np.float64)
        direction = rng.normal(size=slope.shape)
        direction /= np.linalg.norm(direction)

        def moved(step, i=i, direction=direction):
            changed = [*leaves[:i], leaves[i] + step * direction, *leaves[i + 1 :]]
            return loss(jax.tree.unflatten(structure, changed))

        expected = (moved(1e-4) - moved(-1e-4)) / 2e-4
        size = np.linalg.norm(slope)
        assert (slope * direction).sum() == pytest.approx(expected, abs=1e-6 + 1e-5 * size), path
        # With the earliest guides a document that opens with BOS never asks for the first guide.
        unused = guide == "earliest" and "first_guide" in path
        assert (size == 0) == unused, path


@pytest.mark.parametrize(("name", "guide"), GRADIENTS)
def test_rows_and_words_of_padding_have_no_gradient(name, guide):
    """Words without bytes are sums over nothing, and rows of padding softmaxes over nothing."""
    _, _, params, gradient = toy.compiled_gradient(name, guide)
    full = toy.random_document(np.random.default_rng(6), toy.GT - 2)
    some = gradient(params, reference.build_batch([[full], [], [], []], toy.GT, toy.GN))
    none = gradient(params, reference.build_batch([[], [], [], []], toy.GT, toy.GN))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(some))
    assert np.isfinite(none[0]).all()
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(none[1]))
