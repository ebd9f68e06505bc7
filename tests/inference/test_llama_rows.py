"""The Llama's memory gives the numbers of one pass over the whole document."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hat.inference.llama_rows import CHUNKS
from hat.text.ids import BOS
from hat.text.tokenizers import ByteTokenizer
from tests.inference.helpers import (
    Lockstep,
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
    config = llama_config(window=window, tie_embeddings=window is None)
    rows = Lockstep(config, ByteTokenizer(), ROWS)

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.binary(max_size=LENGTH - 2), min_size=ROWS, max_size=ROWS))
    def check(texts):
        whole = whole_nats(*built(config), token_batch(texts, LENGTH))
        incremental = incremental_nats(rows, texts, LENGTH)
        np.testing.assert_allclose(incremental, whole, rtol=0, atol=TOLERANCE)

    check()
    if window is not None:
        assert {memory.size for memory in rows.state.backbone} == {window}


@pytest.mark.parametrize("window", [None, 5])
def test_prompts_in_chunks_are_as_id_by_id(window):
    rows = Lockstep(llama_config(window=window), ByteTokenizer(), 1)
    text = bytes(range(100)) * 3
    assert len(text) > 2 * CHUNKS[-1]
    rows.start()
    for byte in text:
        expected = rows.push([byte])
    expected_after = rows.push([7])
    for size in (37, 10**9):
        logits = rows.start([BOS, *text], size)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(rows.push([7]), expected_after, rtol=0, atol=TOLERANCE)
