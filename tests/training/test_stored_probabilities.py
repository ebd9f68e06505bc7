"""Distributions on disk: what comes back, what is not computed twice, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hat.errors import UserError
from hat.training import stored_probabilities as stored

ORIGIN = {"tokenizer": "a", "law": "canonical"}


def some_logprobs(text: bytes, seed: int = 0, sharp: float = 0.02) -> np.ndarray:
    """float64 [T + 1, 257], most symbols nearly impossible, some wholly."""
    rng = np.random.default_rng([seed, len(text)])
    p = rng.dirichlet(np.full(257, sharp), len(text) + 1)
    p[:, 7] = 0.0
    p /= p.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        return np.log(p)


@given(st.binary(max_size=40), st.sampled_from([1e-12, 1e-5, 1e-3]))
def test_records_come_back(text, floor):
    logprobs = some_logprobs(text)
    digest, found = stored.decode(stored.encode(text, logprobs, floor))
    assert found.dtype == np.float32 and digest == stored._digest(text)
    p, q = np.exp(logprobs), np.exp(found.astype(np.float64))
    np.testing.assert_allclose(q.sum(axis=1), 1.0, atol=1e-5)  # float32
    # float16 rounds a logarithm x by at most |x| / 2048, and the rows are made to sum to 1 again.
    kept = p > floor * 1.02
    assert (np.abs(q / np.where(kept, p, 1.0) - 1.0)[kept] < 0.03 + 600 * floor).all()
    # Total variation: half of what is dropped, spread over the rest, and the rounding.
    assert (np.abs(p - q).sum(axis=1) / 2 <= 257 * floor + 2e-3).all()


def test_what_is_stored_is_not_computed_again(tmp_path):
    asked = []

    def logprobs_of(texts):
        asked.extend(texts)
        return [some_logprobs(text) for text in texts]

    texts = [bytes([97 + i]) * (i + 1) for i in range(5)]
    options = dict(floor=1e-6, shard_bytes=1)  # a shard a group
    assert stored.write_probabilities(tmp_path, texts[:3] + texts[:1], logprobs_of, ORIGIN,
                                      **options) == 3  # fmt: skip
    assert stored.write_probabilities(tmp_path, texts, logprobs_of, ORIGIN, **options) == 2
    assert asked == texts
    source = stored.StoredProbabilities(tmp_path)
    assert source.origin == ORIGIN
    for text, found in zip(texts[::-1], source.logprobs_of(texts[::-1]), strict=True):
        expected = stored.decode(stored.encode(text, some_logprobs(text), 1e-6))[1]
        np.testing.assert_array_equal(found, expected)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == sorted(
        [".json"] + [".arrayrecord", ".keys"] * 2
    )


def test_a_shard_that_was_not_finished_is_written_again(tmp_path):
    def dies(texts):
        if b"c" in texts:
            raise RuntimeError("killed")
        return [some_logprobs(text) for text in texts]

    texts = [b"a", b"b", *(bytes([i, i]) for i in range(stored.AT_ONCE)), b"c"]
    with pytest.raises(RuntimeError, match="killed"):
        stored.write_probabilities(tmp_path, texts, dies, ORIGIN, shard_bytes=1)
    kept = stored.StoredProbabilities(tmp_path)
    assert len(kept.logprobs_of(texts[: stored.AT_ONCE])) == stored.AT_ONCE
    rest = stored.write_probabilities(
        tmp_path, texts, lambda group: [some_logprobs(text) for text in group], ORIGIN
    )
    assert rest == len(texts) - stored.AT_ONCE
    assert len(stored.StoredProbabilities(tmp_path).logprobs_of(texts)) == len(texts)


def test_what_is_refused(tmp_path):
    def teach(texts):
        return [some_logprobs(text) for text in texts]

    with pytest.raises(UserError, match="holds no stored probabilities"):
        stored.StoredProbabilities(tmp_path)
    with pytest.raises(UserError, match="floor 0.5"):
        stored.write_probabilities(tmp_path, [b"a"], teach, ORIGIN, floor=0.5)
    stored.write_probabilities(tmp_path, [b"a"], teach, ORIGIN)
    with pytest.raises(UserError, match="another teacher, law or floor"):
        stored.write_probabilities(tmp_path, [b"a"], teach, ORIGIN | {"law": "all"})
    source = stored.StoredProbabilities(tmp_path)
    with pytest.raises(UserError, match="no probabilities of the text b'b'"):
        source.logprobs_of([b"b"])
    record = stored.encode(b"a", some_logprobs(b"a"))
    for damaged in (record[:20], record[:-1], b"X" + record[1:], record[:-1] + b"\x00\x00"):
        with pytest.raises(ValueError):
            stored.decode(damaged)
