"""Runs of subword Llamas as teachers of bytes (hat.training.objectives.ByteTeacher)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hat.errors import UserError


class ExactTeacher:
    """The next-byte distributions of a tokenized model under a law, each made to sum to 1."""

    def __init__(self, folder: str | Path, law: str = "canonical"):
        """UserError: no run of a subword Llama in `folder`, or no such law."""
        from hat.byte_exact.run import load_tokenized

        self._model = load_tokenized(Path(folder), law)

    def logprobs_of(self, texts: Sequence[bytes]) -> list:
        """float64 [T + 1, 257] of every text. UserError: the law gives one no probability."""
        import numpy as np

        from hat.byte_exact.model import normalized

        found = self._model.logprobs_of(texts)
        for text, logprobs in zip(texts, found):
            if not np.isfinite(logprobs.max(axis=1)).all():
                raise UserError(
                    f"law {self._model.law} gives the teacher's text {text[:30]!r}... no "
                    "probability; use NextBytes"
                )
        return [normalized(logprobs) for logprobs in found]
