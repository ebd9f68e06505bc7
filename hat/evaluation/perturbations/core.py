"""How every perturbation works: it proposes an edit for each of its units, and the rate decides.

A perturbation never sees the rate. It proposes, for one text, the edits of all its units, and each
unit has a priority, a number of its own; the rate says which priorities are edited. So the edits
at one rate are among those at any higher rate, and a severity curve compares like with like.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hat.errors import UserError
from hat.evaluation.edits import Edit, Perturbed
from hat.evaluation.streams import Stream

PRIORITY, CHOICE, AMOUNT = range(3)  # lanes of a stream


class Text:
    """A text of n characters, with what the families ask of it."""

    def __init__(self, text: str):
        self.text = text
        self.codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)

    def __len__(self) -> int:
        return len(self.codes)

    def where(self, test: Callable[[str], bool]) -> np.ndarray:
        """bool[n]: whether the test holds for the character. It is asked once per letter."""
        alphabet, inverse = self._alphabet
        return np.array([bool(test(chr(code))) for code in alphabet], bool)[inverse]

    def words(self) -> tuple[np.ndarray, np.ndarray]:
        """int64[w] starts and ends of the runs of characters that are no white space."""
        return runs(~self.where(str.isspace))

    @functools.cached_property
    def _alphabet(self) -> tuple[np.ndarray, np.ndarray]:
        return np.unique(self.codes, return_inverse=True)


def runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64[r] starts and ends of the runs of True in bool[n]."""
    steps = np.diff(mask.astype(np.int8), prepend=0, append=0)
    return np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)


class Proposal(NamedTuple):
    """An edit for each of u units of a text.

    starts, ends: int64[u], spans of characters; starts ascend. Units may overlap: of two that do,
    the one of the lower priority is edited.
    replace: what stands in the place of a unit, by its number.
    """

    starts: np.ndarray
    ends: np.ndarray
    replace: Callable[[int], str]


class Selection(enum.Enum):
    """Which units a rate edits."""

    SHARE = "each with probability `rate`"
    COUNT = "exactly floor(rate * units), as far as they do not overlap"
    ALL = "all, whatever the rate, unless it is 0"


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """One way to disturb a text.

    source: where it is from. unit: what the rate counts. valid_utf8: whether valid UTF-8 stays
    valid; where not, the family reads bytes (each a character of its own) and is for models of
    bytes only. keeps_words: whether the number of words between white space never changes.
    """

    name: str
    family: str
    unit: str
    summary: str
    source: str
    propose: Callable[[Text, Stream], Proposal]
    keeps_words: bool
    selection: Selection = Selection.SHARE
    valid_utf8: bool = True


def perturb_with(
    perturbation: Perturbation,
    text: bytes,
    *,
    rate: float,
    seed: int,
    item_id: str | int,
    protect: Sequence[tuple[int, int]] = (),
) -> Perturbed:
    """`perturbations.perturb`, with a perturbation that is at hand."""
    if not 0 <= rate <= 1:
        raise UserError(f"rate {rate} is no share; give a number from 0 to 1")
    encoding = "utf-8" if perturbation.valid_utf8 else "latin-1"
    try:
        decoded = Text(text.decode(encoding))
    except UnicodeDecodeError as error:
        raise UserError(
            f"item {item_id}: byte {error.start} is no UTF-8, and {perturbation.name} perturbs "
            "characters; choose a perturbation of bytes"
        ) from None
    if rate == 0 or not text:
        return Perturbed(text, ())
    stream = Stream(seed, perturbation.name, item_id)
    proposal = perturbation.propose(decoded, stream)
    offsets = _byte_offsets(decoded.codes, encoding)
    allowed = _outside(proposal, offsets, protect, len(text))
    edits = []
    for unit in _select(proposal, allowed, rate, stream, perturbation.selection, len(decoded)):
        start, end = int(proposal.starts[unit]), int(proposal.ends[unit])
        replacement = proposal.replace(unit)
        if replacement != decoded.text[start:end]:
            edits.append(Edit(int(offsets[start]), int(offsets[end]), replacement.encode(encoding)))
    return Perturbed(text, tuple(edits))


def _byte_offsets(codes: np.ndarray, encoding: str) -> np.ndarray:
    """int64[n + 1]: where every character starts, and the end."""
    if encoding == "latin-1":
        return np.arange(len(codes) + 1)
    lengths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    return np.concatenate([[0], np.cumsum(lengths)])


def _outside(proposal, offsets, protect, size: int) -> np.ndarray:
    """bool[u]: units that touch no protected byte. Inside a protected span nothing is inserted."""
    inside = np.zeros(len(offsets), np.int64)  # [i]: protected characters before character i
    for start, end in protect:
        if not 0 <= start <= end <= size:
            raise ValueError(f"protected span {(start, end)} lies outside {size} bytes")
        first = np.searchsorted(offsets, start, "right") - 1
        inside[1:][first : np.searchsorted(offsets, end, "left")] = 1
    is_protected = np.concatenate([[0], inside[1:], [0]])
    inside = np.cumsum(inside)
    starts, ends = proposal.starts, proposal.ends
    hemmed_in = (starts == ends) & (is_protected[starts] & is_protected[starts + 1]).astype(bool)
    return (inside[ends] == inside[starts]) & ~hemmed_in


def _select(proposal, allowed, rate, stream, selection, size: int) -> list[int]:
    """The units that are edited, ascending."""
    priority = stream.uniform(PRIORITY, len(proposal.starts))
    candidates = np.flatnonzero(allowed)
    quota = len(candidates)
    if selection is Selection.COUNT:
        quota = int(quota * rate)
    elif selection is Selection.SHARE:
        candidates = candidates[priority[candidates] < rate]
    order = candidates[np.argsort(priority[candidates], kind="stable")]
    starts, ends = proposal.starts, proposal.ends
    if (ends[:-1] <= starts[1:]).all():
        return np.sort(order[:quota]).tolist()
    chosen = []
    taken = bytearray(size)
    for unit, start, end in zip(order.tolist(), starts[order].tolist(), ends[order].tolist()):
        if len(chosen) == quota:
            break
        if taken.find(1, start, end) < 0:
            taken[start:end] = bytes([1]) * (end - start)
            chosen.append(unit)
    return sorted(chosen)


# --- what several families are made of ---------------------------------------------------------


def each_character(text: Text, eligible: np.ndarray, replace: Callable[[int, int], str]) -> Proposal:
    """A unit for each eligible character; replace(unit, its index in the text)."""
    index = np.flatnonzero(eligible)
    return Proposal(index, index + 1, lambda unit: replace(unit, int(index[unit])))


def each_word(text: Text, replace: Callable[[int, str], str]) -> Proposal:
    """A unit for each word between white space; replace(unit, word)."""
    starts, ends = text.words()
    return Proposal(
        starts, ends, lambda unit: replace(unit, text.text[int(starts[unit]) : int(ends[unit])])
    )


def substitute(text: Text, stream: Stream, table: Mapping[str, Sequence[str]]) -> Proposal:
    """A unit for each character of the table, which becomes one of those that it lists."""
    eligible = text.where(table.__contains__)
    draws = stream.uniform(CHOICE, int(eligible.sum()))

    def replace(unit: int, index: int) -> str:
        options = table[text.text[index]]
        return options[int(draws[unit] * len(options))]

    return each_character(text, eligible, replace)
