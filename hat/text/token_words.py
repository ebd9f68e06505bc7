"""Words that are the tokens of a subword tokenizer.

With them the backbone of a HAT reads what a Llama reads, token for token. Where a token ends depends
on bytes after it, so that they suit models that predict where their words end (hat.models.hat_2025):
their nats are those of the text and its tokens together, as those of the Llama are.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from hat.text.splitters import Causality, Split, checked
from hat.text.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class TokenWords:
    """The splitter "tokens:PATH", the tokenizer at PATH being loaded."""

    tokenizer: Tokenizer
    causality = Causality("sequence")

    @property
    def name(self) -> str:
        return f"tokens-v1-{self.tokenizer.name}"

    @property
    def max_word_bytes(self) -> int:
        return int(self.tokenizer.byte_lengths.max())

    def split(self, data: np.ndarray) -> Split:
        """uint8[T] -> Split of length T; a word is known to be complete once the next has begun."""
        lengths = self.tokenizer.byte_lengths[self.tokenizer.encode(checked(data).tobytes())]
        starts = np.zeros(len(data), bool)
        starts[np.cumsum(lengths) - lengths] = True
        return Split(starts, np.cumsum(starts, dtype=np.int32) - 1)
