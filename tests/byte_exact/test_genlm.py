"""Law `all` against genlm-bytes, where that is installed (pip install genlm-bytes)."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from hat.byte_exact.tokenized import TokenizedModel
from tests.byte_exact.families import tokenizer
from tests.byte_exact.llamas import random_llama

TOLERANCE = 1e-5  # both in float32, the masses summed in another order


@pytest.mark.parametrize("family, text", [
    ("gpt2", "the  e'll"), ("llama3-whole", "12 théa"), ("fallback", " do色"),
])  # fmt: skip
def test_law_all_is_theirs(family, text):
    pytest.importorskip("genlm.bytes", reason="genlm-bytes is not installed")
    from hat.benchmarks.genlm_peer import rows

    its, text = tokenizer(family), text.encode()
    model = TokenizedModel(*random_llama(its), its, "all", beam=None)
    theirs = np.exp(asyncio.run(rows(model, text, beam=100_000)))
    ours = np.exp(model.logprobs(text))
    # Ends of theirs begin with 0xff as bytes too.
    assert np.abs(np.delete(ours - theirs, 0xFF, axis=1)).sum(axis=1).max() / 2 < TOLERANCE
