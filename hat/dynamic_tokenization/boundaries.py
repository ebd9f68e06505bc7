"""Where tokens must not be merged: the boundary kinds of arXiv 2411.18553, as rules over bytes.

A rule cuts a text into pieces, and a merge never crosses a cut: it is the junction between two
tokens that is open or closed. So what holds in the paper for strings holds here for places, and a
table of merges that was learned elsewhere keeps to the rule too.

  pretoken     the pieces of the base tokenizer's own pretokenizer; for one without, as `word`
  word         a run of other characters with the one space before it, or a run of white space (less
               the space that the next word takes)
  word-hyphen  the same, cut between punctuation and what is none; "-" joins
  sentence     up to a newline, or to . ! ? ... before white space (of Chinese and Japanese, anywhere)

White space and punctuation are those of Unicode 16.0 (hat.text.unicode_classes). An invalid byte is
a character that is neither, and takes no space to itself.
"""

from __future__ import annotations

import functools
import re
import typing
from typing import Literal, NamedTuple

import numpy as np

from hat.errors import UserError
from hat.text import unicode_classes
from hat.text.tokenizers import JsonTokenizer, Tokenizer

Boundary = Literal["pretoken", "word", "word-hyphen", "sentence"]
BOUNDARIES: tuple[str, ...] = typing.get_args(Boundary)

_CLOSERS = "\"')\\]}\u201d\u2019\u00bb\u300d\u300f\uff09"


class Encoded(NamedTuple):
    """A text in base tokens. tokens: int32 [n]; opened: bool [n], whether a token may be merged
    with the one before it; False for the first."""

    tokens: np.ndarray
    opened: np.ndarray


def encode(text: bytes, tokenizer: Tokenizer, boundary: Boundary) -> Encoded:
    """The base tokens of a text, and which junctions the rule leaves open."""
    check_boundary(boundary)
    tokens = tokenizer.encode(text)
    starts = piece_starts(text, tokenizer, boundary)
    firsts = np.cumsum(tokenizer.byte_lengths[tokens], dtype=np.int64)
    firsts = np.concatenate([[0], firsts])[: len(tokens)]
    return Encoded(tokens, ~starts[firsts])


def check_boundary(boundary: str) -> None:
    if boundary not in BOUNDARIES:
        raise UserError(f"boundary {boundary!r} is not known; choose one of {', '.join(BOUNDARIES)}")


def piece_starts(text: bytes, tokenizer: Tokenizer, boundary: Boundary) -> np.ndarray:
    """bool [T]: whether a piece of the rule starts at each byte; the first one does."""
    characters = text.decode("utf-8", "surrogateescape")
    if boundary == "pretoken" and isinstance(tokenizer, JsonTokenizer):
        starts = tokenizer.pretoken_starts(characters)
    elif boundary == "sentence":
        starts = [match.end() for match in _sentence_end().finditer(characters)]
    else:
        starts = [match.start() for match in _word().finditer(characters)]
    found = np.zeros(len(characters) + 1, bool)
    found[0] = True
    found[starts] = True
    found = found[:-1]
    code_points = np.frombuffer(characters.encode("utf-32-le", "surrogatepass"), np.uint32)
    if boundary == "word-hyphen":
        found |= _punctuation_borders(code_points)
    sizes = 1 + (code_points > 0x7F) + (code_points > 0x7FF) + (code_points > 0xFFFF)
    sizes[(code_points >> 8) == 0xDC] = 1  # an invalid byte
    out = np.zeros(len(text), bool)
    out[(np.cumsum(sizes) - sizes)[found]] = True
    return out


def _punctuation_borders(code_points: np.ndarray) -> np.ndarray:
    """bool [n]: whether punctuation (but "-") begins or ends before each character, white space
    aside."""
    punctuation, white = _class_tables()
    is_white = white[code_points]
    is_mark = punctuation[code_points] & (code_points != ord("-"))
    found = np.zeros(len(code_points), bool)
    found[1:] = (is_mark[1:] != is_mark[:-1]) & ~is_white[1:] & ~is_white[:-1]
    return found


@functools.cache
def _class_tables() -> tuple[np.ndarray, np.ndarray]:
    """bool [0x110000] each: punctuation, white space."""
    runs = unicode_classes.load()
    of = unicode_classes.class_of_code_points(runs)
    punctuation = np.array([c.punctuation for c in runs.classes])
    white = np.array([c.white_space for c in runs.classes])
    return punctuation[of], white[of]


@functools.cache
def _white_space() -> str:
    return "".join(map(chr, np.flatnonzero(_class_tables()[1])))


@functools.cache
def _word() -> re.Pattern:
    white = re.escape(_white_space())
    opener = f" [^{white}\udc80-\udcff]"  # tokenizers end the text before an invalid byte
    return re.compile(f"{opener}[^{white}]*|[^{white}]+|[{white}]+(?={opener})|[{white}]+")


@functools.cache
def _sentence_end() -> re.Pattern:
    white = re.escape(_white_space())
    return re.compile(
        f"\\n+|[.!?\u2026]+[{_CLOSERS}]*(?=[{white}])(?!\\n)|[\u3002\uff01\uff1f\uff61]+[{_CLOSERS}]*"
    )
