"""Jitter of word boundaries: the text stays, the words of the backbone change.

The counterpart, for models with a splitter, of reading a text in another tokenization of the same
bytes (Broken Tokens, arXiv 2506.19004). Of tokens, only "split" can be had: a tokenizer encodes the
text between added boundaries by itself.
"""

from __future__ import annotations

import dataclasses
import difflib

import numpy as np

from hat.errors import UserError
from hat.evaluation.perturbations.core import CHOICE, PRIORITY
from hat.evaluation.streams import Stream
from hat.text.rows import Units, word_units
from hat.text.splitters import Split, Splitter
from hat.text.tokenizers import Tokenizer

MODES = ("merge", "split", "delay", "move")


@dataclasses.dataclass(frozen=True)
class Jitter:
    """What a report says of one mode, as of a perturbation of text (`core.Perturbation`)."""

    mode: str
    unit: str
    summary: str
    family: str = "segmentation"
    source: str = "Broken Tokens, arXiv 2506.19004"
    keeps_words: bool = True  # between white space: the text does not change
    valid_utf8: bool = True

    @property
    def name(self) -> str:
        return f"jitter-{self.mode}"


BOUNDARY = "boundary between words"
JITTERS = (
    Jitter("merge", BOUNDARY, "take a word boundary of the model away"),
    Jitter("split", "character inside a word", "put a boundary of words or tokens before it"),
    Jitter("delay", BOUNDARY, "move a word boundary a character to the right"),
    Jitter("move", BOUNDARY, "move a word boundary a character to the left or right"),
)


def jittered_units(
    rule: Splitter | Tokenizer, text: bytes, mode: str, rate: float, seed: int, item_id: str | int
) -> Units:
    """The ids and words of a text, not ended, under jitter. UserError: a tokenizer, and another
    mode than "split"."""
    data = np.frombuffer(text, np.uint8)
    if not isinstance(rule, Tokenizer):
        split = jitter(text, rule.split(data), mode, rate, seed, item_id)
        return word_units(data, split, ends=False)
    if mode != "split":
        raise UserError(f"jitter-{mode} is of words, and tokens have only jitter-split; leave it out")
    whole = Split(np.arange(len(data)) == 0, np.zeros(len(data), np.int32))
    starts = np.flatnonzero(jitter(text, whole, mode, rate, seed, item_id).starts)
    pieces = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)])]
    return Units(np.concatenate([rule.encode(piece) for piece in pieces]), ends=False)


def jitter(
    data: bytes, split: Split, mode: str, rate: float, seed: int, item_id: str | int
) -> Split:
    """The words of `data` with a share `rate` of the boundaries between them disturbed.

    "merge" takes a boundary away; "delay" moves it one character to the right, "move" to the left
    or the right; where two meet, they are one. "split" adds a boundary before a character that
    starts no word, so that `rate` counts those characters. No character is cut, and the first
    start stays. Every place of `data` has its own numbers: the boundaries that a rate disturbs are
    among those of any higher rate. Words may grow beyond the limit of the rule.

    The result is as causal as `split`: a word counts in known[t] once all boundaries up to its end
    are known to stand, never before the next word has begun. UserError: a rate outside 0 to 1, an
    unknown mode.
    """
    if not 0 <= rate <= 1:
        raise UserError(f"rate {rate} is no share; give a number from 0 to 1")
    if mode not in MODES:
        near = difflib.get_close_matches(mode, MODES, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(MODES)}"
        raise UserError(f"no jitter {mode!r}; {hint}")
    if rate == 0 or not data:
        return split
    stream = Stream(seed, f"jitter-{mode}", item_id)
    characters = np.flatnonzero(np.frombuffer(data, np.uint8) >> 6 != 0b10)
    chosen = np.zeros(len(data), bool)
    chosen[characters] = stream.uniform(PRIORITY, len(data))[characters] < rate
    starts = np.flatnonzero(split.starts)[1:]
    # By which byte; a word that closes itself counts here when the next begins.
    revealed = np.maximum(np.searchsorted(split.known, np.arange(1, len(starts) + 1)), starts)
    if mode == "merge":
        stay = ~chosen[starts]
        starts, revealed = starts[stay], revealed[stay]
    elif mode == "split":
        added = np.flatnonzero(chosen)
        starts, revealed = np.append(starts, added), np.append(revealed, added)
    else:
        steps = np.ones(len(data), np.int64)
        if mode == "move":
            steps -= 2 * stream.below(CHOICE, len(data), 2)
        moved = chosen[starts]
        numbers = np.searchsorted(characters, starts[moved]) + steps[starts[moved]]
        starts[moved] = np.append(characters, len(data))[np.maximum(numbers, 0)]
    return _split(starts, revealed, len(data))


def _split(starts: np.ndarray, revealed: np.ndarray, size: int) -> Split:
    """The split of starts in any order, with repetitions, each known from byte `revealed` on."""
    order = np.lexsort((revealed, starts))
    starts, first = np.unique(starts[order], return_index=True)
    revealed = np.maximum(revealed[order][first], starts)
    inside = (starts > 0) & (starts < size)
    mask = np.zeros(size, bool)
    mask[0] = True
    mask[starts[inside]] = True
    # A word is known to be complete when its end is, and the ends of all before it.
    complete = np.maximum.accumulate(revealed[inside])
    return Split(mask, np.searchsorted(complete, np.arange(size), "right").astype(np.int32))
