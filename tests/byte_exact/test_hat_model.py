"""A HAT as a model of bytes: sessions that branch give the rows of one pass."""

from __future__ import annotations

import numpy as np

from hat.byte_exact.hat_model import HatByteModel
from hat.text.splitters import make_splitter
from tests.inference.helpers import built, hat_config


def test_sessions_branch():
    model = HatByteModel(*built(hat_config()), make_splitter("words"), 64, 64)
    text, other = "two wörds\n".encode(), b"two wor"
    rows = {whole: model.logprobs(whole) for whole in (text, other)}
    session = model.session()
    for place, byte in enumerate(text):
        # fp32 sums in another order
        np.testing.assert_allclose(session.logprobs(), rows[text][place], rtol=0, atol=1e-4)
        if place == 5:
            branch = session.fork()
        session.push(byte)
    for byte in other[5:]:
        branch.push(byte)
    np.testing.assert_allclose(branch.logprobs(), rows[other][-1], rtol=0, atol=1e-4)
