"""Perturbations: pure functions of a text, a name, a rate, a seed and the id of the item.

    perturb(text, "keyboard", rate=0.1, seed=7, item_id="arc-12").text

The registry below names them all; a file of this package is a family.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from hat.errors import UserError
from hat.evaluation.edits import Perturbed
from hat.evaluation.perturbations import (
    byt5_blt,
    casing,
    damaged_bytes,
    graphemes,
    hat_paper,
    keyboard,
    lookalikes,
    misspellings,
    repetition,
    styling,
    whitespace,
)
from hat.evaluation.perturbations.core import Perturbation, perturb_with
from hat.evaluation.perturbations.eval_framework import word_spans

_FAMILIES = (hat_paper, byt5_blt, keyboard, lookalikes, casing, repetition, whitespace, graphemes,
             styling, damaged_bytes)  # fmt: skip
REGISTRY = {p.name: p for family in _FAMILIES for p in family.PERTURBATIONS}
APPLY_TO = ("context", "continuation", "both")


def find(name: str) -> Perturbation:
    """The perturbation of that name. UserError, with the nearest name, where there is none."""
    if name in REGISTRY:
        return REGISTRY[name]
    if name == misspellings.NAME:
        raise UserError(f"{name} needs a list of misspellings; give one with --misspellings FILE")
    near = difflib.get_close_matches(name, [*REGISTRY, misspellings.NAME], n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"no perturbation {name!r}; {hint}(hat perturb --list shows them all)")


def perturb(
    text: bytes,
    name: str | Perturbation,
    rate: float,
    seed: int,
    item_id: str | int,
    *,
    protect: Sequence[tuple[int, int]] = (),
) -> Perturbed:
    """`text` with about `rate` of its units edited; at rate 0, the text itself.

    The result depends on these arguments alone: not on other items, their order or the number of
    workers. The edits at one rate are among those at any higher one. protect: spans of bytes that
    no edit touches. UserError: a rate outside 0 to 1, an unknown name, text that is not UTF-8
    where characters are perturbed.
    """
    perturbation = find(name) if isinstance(name, str) else name
    return perturb_with(
        perturbation, text, rate=rate, seed=seed, item_id=item_id, protect=protect
    )


def find_words(text: bytes, words: Iterable[str]) -> list[tuple[int, int]]:
    """Spans of bytes, for `protect`, where any of the words stands as a word, in whatever case.
    Bytes that are no UTF-8 are no part of a word."""
    decoded = text.decode("utf-8", "surrogateescape")
    spans = word_spans(decoded, words)
    offsets, done, size = {}, 0, 0
    for index in sorted({index for span in spans for index in span}):
        size += len(decoded[done:index].encode("utf-8", "surrogateescape"))
        offsets[index], done = size, index
    return [(offsets[start], offsets[end]) for start, end in spans]
