"""The fill that the default configuration reaches on the corpus of the quickstart."""

from __future__ import annotations

import pytest

from hat.data.config import DataConfig
from hat.data.prepare import prepare
from hat.text import splitters


@pytest.mark.skipif(not hasattr(splitters, "WordRule"), reason="needs the word rule")
def test_fill_of_the_standard_library(tmp_path):
    info = prepare(DataConfig(), tmp_path / "corpus").info
    train, heldout = info.splits["train"], info.splits["heldout"]
    assert train.position_fill >= 0.97
    assert train.word_fill >= 0.85
    assert train.mean_piece_bytes > 900  # of rows of 1,024: few documents are cut more than needed
    assert heldout.bytes / (train.bytes + heldout.bytes) == pytest.approx(0.05, abs=0.005)
