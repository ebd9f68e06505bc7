"""Tokenizer traps: two pairs of words that run together to the same letters.

"moves table" and "move stable", say. A tokenizer sees only the letters, and may cut where neither
word ends; a model that then answers for the wrong pair has been trapped (ADT, arXiv 2405.17067).
Built from any list of words, always the same traps for the same list, seed and number.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from hat.evaluation.streams import Stream
from hat.text.tokenizers import Tokenizer


class Trap(NamedTuple):
    """first[0] + first[1] == second[0] + second[1], and the two differ. The first word of `first`
    is the longer one: it holds the letters that `second` gives to its last word."""

    first: tuple[str, str]
    second: tuple[str, str]

    @property
    def joined(self) -> str:
        return "".join(self.first)


def find_traps(
    words: Iterable[str], count: int, seed: int = 0, *, min_letters: int = 3
) -> list[Trap]:
    """Up to `count` traps of four words of the list, of at least `min_letters` letters each.

    Every string of letters that can change sides ("s" above) gives one trap before any gives a
    second, and so on, the pairs of each in an order drawn from the seed.
    """
    known = {word for word in words if len(word) >= min_letters}
    ending: dict[str, list[str]] = {}  # letters -> the words that are a word without them
    opening: dict[str, list[str]] = {}
    for word in sorted(known):
        for cut in range(1, len(word)):
            if word[:cut] in known:
                ending.setdefault(word[cut:], []).append(word)
            if word[cut:] in known:
                opening.setdefault(word[:cut], []).append(word)
    movable = sorted(ending.keys() & opening.keys())
    pairs = [_pairs(len(ending[s]) * len(opening[s]), count, Stream(seed, "trap", s))
             for s in movable]
    traps: list[Trap] = []
    for turn in range(count):
        for letters, drawn in zip(movable, pairs):
            if turn < len(drawn) and len(traps) < count:
                left, right = divmod(int(drawn[turn]), len(opening[letters]))
                longer, last = ending[letters][left], opening[letters][right]
                size = len(letters)
                traps.append(Trap((longer, last[size:]), (longer[:-size], last)))
    return traps


def _pairs(total: int, count: int, stream: Stream) -> np.ndarray:
    """Up to `count` different numbers below `total`, in the order they are drawn."""
    if total <= 4 * count:
        return np.argsort(stream.uniform(0, total), kind="stable")[:count]
    drawn, first = np.unique(stream.below(0, 2 * count, total), return_index=True)
    return drawn[np.argsort(first)][:count]


def items(
    traps: Iterable[Trap], seed: int = 0, tokenizer: Tokenizer | None = None
) -> list[dict[str, object]]:
    """Items of choices (`hat.evaluation.tasks`) that tell which two words were run together, and
    ask for them: one of the two readings of each trap, drawn from the seed, is right, and the other
    is the wrong choice. tokenizer: only the items whose right reading it loses (`crosses`)."""
    found: list[dict[str, object]] = []
    for trap in traps:
        which = int(Stream(seed, "trap item", trap.joined).below(0, 1, 2)[0])
        words = (trap.first, trap.second)[which]
        if tokenizer is not None and not crosses(tokenizer, *words):
            continue
        told = " and ".join(words)
        found.append({
            "context": f"The words {told}, without the space: {trap.joined}. With the space:",
            "choices": [" ".join(trap.first), " ".join(trap.second)],
            "gold": which,
        })  # fmt: skip
    return found


def crosses(tokenizer: Tokenizer, left: str, right: str) -> bool:
    """Whether a token of left + right holds letters of both: the boundary is lost."""
    ids = tokenizer.encode((left + right).encode())
    return len(left.encode()) not in np.cumsum(tokenizer.byte_lengths[ids])
