"""The HAT paper's editor as its authors released it, to reproduce their published numbers.

Aleph Alpha's eval-framework at commit ec43333 (Apache-2.0), rewritten from a description. One
random generator serves a whole task, so what an item becomes depends on all items before it, and
severities are not nested: for anything but parity, use `hat_paper`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

from hat.errors import UserError
from hat.evaluation.perturbations.hat_paper import PRINTABLE

KINDS = ("permute", "replace", "delete", "uppercase")


class EvalFrameworkEditor:
    """Edits the prompts of one task, one after the other. kind: one of KINDS; seed: their default.

    UserError: an unknown kind.
    """

    def __init__(self, kind: str, seed: int = 42):
        if kind not in KINDS:
            raise UserError(f"eval-framework has no editor {kind!r}; choose from {', '.join(KINDS)}")
        self._kind = kind
        self._random = random.Random(seed)

    def edit(self, text: str, rate: float, protected_words: Iterable[str] = ()) -> str:
        """`text` with floor(rate * eligible) characters edited; "uppercase" edits them all, and
        protects no word."""
        if self._kind == "uppercase":
            return text.upper()
        positions = self._eligible(text, protected_words)
        drawn = self._random.sample(positions, int(len(positions) * rate))
        characters = list(text)
        for index in drawn:
            if self._kind == "permute":  # in the order drawn: a later swap may undo an earlier one
                characters[index : index + 2] = characters[index : index + 2][::-1]
            elif self._kind == "replace":
                characters[index] = chr(self._random.randint(PRINTABLE[0], PRINTABLE[-1]))
            else:
                characters[index] = ""
        return "".join(characters)

    @staticmethod
    def _eligible(text: str, protected_words: Iterable[str]) -> list[int]:
        protected = {index for start, end in word_spans(text, protected_words)
                     for index in range(start, end)}
        return [
            index
            for index in range(1, len(text) - 1)
            if text[index - 1 : index + 2].isalnum() and index not in protected
        ]


def word_spans(text: str, words: Iterable[str]) -> list[tuple[int, int]]:
    """Where any of the words stands as a word in `text`, in whatever case: spans of characters."""
    return [
        match.span()
        for word in words
        for match in re.finditer(rf"\b{re.escape(word)}\b", text, re.IGNORECASE)
    ]
