"""Damage done to bytes: in storage, in transit, by the wrong encoding.

What ends as invalid UTF-8 reads bytes, any bytes, and is for models of bytes only.
"""

from __future__ import annotations

import numpy as np

from hat.evaluation.perturbations.core import (
    AMOUNT,
    CHOICE,
    Perturbation,
    Proposal,
    Selection,
    Text,
    each_character,
)
from hat.evaluation.streams import Stream

# --- these see every byte as a character of its own --------------------------------------------


def flip_bit(text: Text, stream: Stream) -> Proposal:
    bits = stream.below(CHOICE, len(text), 8)
    return _each_byte(text, lambda unit, i: chr(ord(text.text[i]) ^ 1 << int(bits[unit])))


def replace_byte(text: Text, stream: Stream) -> Proposal:
    steps = 1 + stream.below(CHOICE, len(text), 255)
    return _each_byte(text, lambda unit, i: chr((ord(text.text[i]) + int(steps[unit])) % 256))


def drop_byte(text: Text, stream: Stream) -> Proposal:
    return _each_byte(text, lambda unit, i: "")


def insert_byte(text: Text, stream: Stream) -> Proposal:
    """A unit is the place before a byte."""
    places = np.arange(len(text))
    draws = stream.below(CHOICE, len(text), 256)
    return Proposal(places, places, lambda unit: chr(int(draws[unit])))


def _each_byte(text: Text, replace) -> Proposal:
    return each_character(text, np.ones(len(text), bool), replace)


def truncate(text: Text, stream: Stream) -> Proposal:
    """A unit is a multi-byte character; 1 to all but one of its last bytes are cut off."""
    starts, ends = _sequences(text)
    kept = 1 + stream.below(AMOUNT, len(starts), ends - starts - 1)
    return Proposal(starts + kept, ends, lambda unit: "")


def decode_as_latin1(text: Text, stream: Stream) -> Proposal:
    """A unit is a two-byte character up to U+00FF; it becomes its one byte of Latin-1."""
    starts, ends = _sequences(text)
    latin = (ends - starts == 2) & (text.codes[starts] <= 0xC3)
    starts, ends = starts[latin], ends[latin]
    return Proposal(
        starts, ends,
        lambda u: text.text[starts[u] : ends[u]].encode("latin-1").decode("utf-8"),
    )  # fmt: skip


def overlong(text: Text, stream: Stream) -> Proposal:
    """An ASCII byte spelled in two bytes, which no decoder may accept."""
    ascii_ = text.codes < 0x80
    return each_character(
        text, ascii_, lambda unit, i: chr(0xC0 | ord(text.text[i]) >> 6)
        + chr(0x80 | ord(text.text[i]) & 0x3F),
    )  # fmt: skip


def _sequences(text: Text) -> tuple[np.ndarray, np.ndarray]:
    """int64[u] starts and ends of the lead bytes with the continuation bytes they ask for."""
    codes = text.codes
    wanted = np.select([codes < 0xC2, codes < 0xE0, codes < 0xF0, codes < 0xF5], [0, 1, 2, 3], 0)
    continuation = codes >> 6 == 0b10
    count = np.concatenate([[0], np.cumsum(continuation)])
    starts = np.flatnonzero(wanted)
    ends = starts + 1 + wanted[starts]
    inside = ends <= len(codes)
    starts, ends = starts[inside], ends[inside]
    whole = count[ends] - count[starts + 1] == ends - starts - 1
    return starts[whole], ends[whole]


# --- and these leave valid UTF-8 ---------------------------------------------------------------


def nul(text: Text, stream: Stream) -> Proposal:
    places = np.arange(len(text))
    return Proposal(places, places, lambda unit: "\0")


def crlf(text: Text, stream: Stream) -> Proposal:
    newline = text.where("\n".__eq__)
    newline[1:] &= ~text.where("\r".__eq__)[:-1]
    return each_character(text, newline, lambda unit, _: "\r\n")


def byte_order_mark(text: Text, stream: Stream) -> Proposal:
    place = np.zeros(1, np.int64)
    return Proposal(place, place, lambda unit: "\ufeff")


def mojibake(text: Text, stream: Stream) -> Proposal:
    """The bytes of a character read as Latin-1 and written as UTF-8 again."""
    wide = text.codes >= 0x80
    return each_character(text, wide, lambda unit, i: text.text[i].encode().decode("latin-1"))


def _perturbation(name, unit, summary, propose, valid_utf8=False, **options) -> Perturbation:
    family = "encoding" if valid_utf8 else "invalid-bytes"
    options = {"keeps_words": False} | options
    return Perturbation(name, family, unit, summary, "own", propose, valid_utf8=valid_utf8,
                        **options)


PERTURBATIONS = (
    _perturbation("bit-flip", "byte", "flip one of its bits", flip_bit),
    _perturbation("replace-byte", "byte", "another byte in its place", replace_byte),
    _perturbation("drop-byte", "byte", "drop it", drop_byte),
    _perturbation("insert-byte", "byte", "any byte before it", insert_byte),
    _perturbation("truncate-character", "multi-byte character", "cut off its last bytes", truncate),
    _perturbation("latin1-bytes", "character U+0080 to U+00FF", "its one byte of Latin-1",
                  decode_as_latin1),
    _perturbation("overlong", "ASCII character", "spelled in two bytes", overlong),
    _perturbation("nul", "character", "a NUL before it", nul, valid_utf8=True),
    _perturbation("crlf", "newline", "carriage return and newline", crlf, valid_utf8=True,
                  keeps_words=True),
    _perturbation("byte-order-mark", "text", "U+FEFF at its beginning", byte_order_mark,
                  valid_utf8=True, selection=Selection.ALL),
    _perturbation("mojibake", "character beyond ASCII", "its bytes read as Latin-1", mojibake,
                  valid_utf8=True),
)  # fmt: skip
