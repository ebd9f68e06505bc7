"""Case by words. `uppercase` and `random-case` are among the noises of ByT5 and BLT."""

from __future__ import annotations

from collections.abc import Callable

from hat.evaluation.perturbations.core import Perturbation, Text, each_word


def _alternate(word: str) -> str:
    return "".join(c.upper() if i % 2 else c.lower() for i, c in enumerate(word))


def _perturbation(name: str, summary: str, change: Callable[[str], str], source: str):
    def propose(text: Text, stream):
        return each_word(text, lambda unit, word: change(word))

    return Perturbation(name, "casing", "word", summary, source, propose, keeps_words=True)


PERTURBATIONS = (
    _perturbation("lowercase", "lower-case a word", str.lower, "own"),
    _perturbation("capitalize", "capitalize a word", str.capitalize, "own"),
    _perturbation("swap-case", "swap the case of a word", str.swapcase, "own"),
    _perturbation("alternate-case", "aLtErNaTe the case of a word", _alternate, "own"),
)
