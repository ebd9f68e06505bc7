"""The Llama's cache gives the numbers of one pass over the whole document."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hat.inference.llama_session import LlamaSession
from hat.text.ids import BOS, EOT, PAD
from tests.inference.helpers import (
    ByteTokens,
    built,
    incremental_nats,
    llama_config,
    token_batch,
    whole_nats,
)

TOLERANCE = 1e-4  # fp32 sums in another order
LENGTH = 48
ROWS = 8


@pytest.mark.parametrize("window", [None, 5])
def test_incremental_equals_teacher_forced(window):
    model, params = built(llama_config(window=window, tie_embeddings=window is None))
    session = LlamaSession(model, params, ByteTokens(), ROWS, capacity=8)

    @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.binary(max_size=LENGTH - 2), min_size=ROWS, max_size=ROWS))
    def check(texts):
        whole = whole_nats(model, params, token_batch(texts, LENGTH))
        incremental = incremental_nats(session, texts, LENGTH)
        np.testing.assert_allclose(incremental, whole, rtol=0, atol=TOLERANCE)

    check()
    if window is not None:
        assert session._cache.size == window


def test_refusals_change_nothing():
    model, params = built(llama_config(window=5))
    session = LlamaSession(model, params, ByteTokens(), ROWS, capacity=8)
    ids = np.full(ROWS, PAD)
    ids[0] = 97
    with pytest.raises(ValueError, match="first id must be BOS"):
        session.push(ids)
    ids[0] = EOT + 2  # of padding rows
    with pytest.raises(ValueError, match="cannot be read"):
        session.push(ids)
    with pytest.raises(ValueError, match=f"{ROWS} rows"):
        session.push(ids[:1])
    ids[0] = BOS
    assert session.push(ids).shape == (ROWS, model.config.num_ids)
