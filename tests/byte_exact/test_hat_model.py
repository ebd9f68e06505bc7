"""A HAT as a model of bytes: sessions that branch give the rows of one pass."""

from __future__ import annotations

import numpy as np
import pytest

from hat.byte_exact.hat_model import HatByteModel
from hat.byte_exact.run import load_byte_model
from hat.text.splitters import make_splitter
from tests.inference.helpers import WORDS_OF, built, write_run


@pytest.mark.parametrize("kind", WORDS_OF)
def test_sessions_branch(kind):
    model = HatByteModel(*built(WORDS_OF[kind]), make_splitter("words"), 64, 64)
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


def test_words_that_the_model_draws_have_room(tmp_path):
    """More of them than rows had in training; the session drops none either."""
    write_run(tmp_path / "run", WORDS_OF["cosine"], splitter="words", row_length=64, row_words=4)
    model = load_byte_model(tmp_path / "run")
    text, session = b"one two three four five", model.session()
    for byte in text:
        session.push(byte)
    np.testing.assert_allclose(session.logprobs(), model.logprobs(text)[-1], rtol=0, atol=1e-4)
