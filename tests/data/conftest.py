"""A splitter that these tests own, so that they fail for their own reasons only."""

from __future__ import annotations

import numpy as np
import pytest

from hat.text import splitters
from hat.text.splitters import BYTE_CAUSAL, Split


class SpaceSplitter:
    """A word ends after a byte of white space, or after 40 bytes; known at once."""

    name = "spaces-1"
    causality = BYTE_CAUSAL

    def split(self, data: np.ndarray) -> Split:
        starts = np.zeros(len(data), bool)
        known = np.zeros(len(data), np.int32)
        begun, size = 0, 40
        for t, byte in enumerate(data.tolist()):
            if size == 40:
                starts[t], begun, size = True, begun + 1, 0
            size = 40 if byte in b" \n\t" else size + 1
            known[t] = begun if size == 40 else begun - 1
        return Split(starts, known)


@pytest.fixture(autouse=True)
def space_splitter(monkeypatch):
    """The spec "spaces" names the splitter above."""
    real = getattr(splitters, "make_splitter", None)

    def make(spec: str):
        return SpaceSplitter() if spec == "spaces" else real(spec)

    monkeypatch.setattr(splitters, "make_splitter", make, raising=False)
