"""Real misspellings, from a list of them."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hat.errors import UserError
from hat.evaluation.perturbations.core import CHOICE, Perturbation, Proposal, Text
from hat.evaluation.streams import Stream

NAME = "misspelling"
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def read_misspellings(path: Path) -> dict[str, tuple[str, ...]]:
    """The misspellings of each word, from a file with one of three kinds of line: of codespell,
    "wrong->right, right, reason"; of aspell, "wrong TAB right"; or "right wrong wrong ...".

    An entry of several words on either side is left out. UserError: no such file, not UTF-8, a
    line of none of these kinds, no entry left.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"cannot read the misspellings {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"the misspellings {path} are not UTF-8") from None
    found: dict[str, dict[str, None]] = {}
    for number, line in enumerate(lines, start=1):
        for right, wrong in _pairs(line, f"{path}:{number}"):
            if right != wrong and not re.search(r"\s", right + wrong):
                found.setdefault(right, {})[wrong] = None
    if not found:
        raise UserError(f"{path} holds no misspelling; give lines such as 'recieve->receive'")
    return {right: tuple(wrong) for right, wrong in found.items()}


def _pairs(line: str, where: str) -> list[tuple[str, str]]:
    """(right, wrong) of one line."""
    if not line.strip():
        return []
    if "->" in line:
        wrong, _, rights = line.partition("->")
        # A comma after the last word opens a remark, or nothing.
        words = [right.strip() for right in rights.split(",")]
        return [(right, wrong.strip()) for right in (words[:-1] if "," in rights else words)]
    if "\t" in line:
        wrong, _, right = line.partition("\t")
        return [(right.strip(), wrong.strip())]
    right, *wrongs = line.split()
    if not wrongs:
        raise UserError(f"{where}: no misspelling in {line!r}; write it as 'wrong->right'")
    return [(right, wrong) for wrong in wrongs]


def misspell(misspellings: Mapping[str, Sequence[str]]) -> Perturbation:
    """A unit is a word that has misspellings. Its capitals are kept: First, or ALL."""
    propose = functools.partial(_propose, misspellings)
    return Perturbation(NAME, "misspellings", "word of the list", "a real misspelling, from a list",
                        "codespell, aspell, nlpaug lists", propose, keeps_words=True)


def _propose(misspellings, text: Text, stream: Stream) -> Proposal:
    found = [match for match in _WORD.finditer(text.text)
             if match[0] in misspellings or match[0].lower() in misspellings]
    draws = stream.uniform(CHOICE, len(found))

    def replace(unit: int) -> str:
        word = found[unit][0]
        options = misspellings.get(word) or misspellings[word.lower()]
        wrong = options[int(draws[unit] * len(options))]
        if word in misspellings:
            return wrong
        return wrong.upper() if word.isupper() and len(word) > 1 else wrong[0].upper() + wrong[1:]

    starts, ends = np.array([m.span() for m in found], np.int64).reshape(-1, 2).T
    return Proposal(starts, ends, replace)
