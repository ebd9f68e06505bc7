"""The character classes of the word rule: everything it ever asks of a code point.

The data are those of Unicode 16.0, checked in beside this file and written by
`hat/text/generate_tables.py`; the runtime's own Unicode version is never consulted, so a corpus
splits alike under every Python. There are 33 classes in 3,439 runs of code points.
"""

from __future__ import annotations

import functools
import pathlib
from typing import NamedTuple

import numpy as np

UNICODE_VERSION = "16.0"
NUM_CODE_POINTS = 0x110000
REPLACEMENT = 0xFFFD  # an invalid byte is a character of this code point's class
DATA_FILE = pathlib.Path(__file__).with_name("unicode_16_0.npz")


class CharacterClass(NamedTuple):
    """One combination of properties that occurs. Code points of a class are interchangeable."""

    word_break: str  # Word_Break of UAX #29, such as "ALetter"
    punctuation: bool  # \\p{P}
    lower: bool  # \\p{Ll}
    upper: bool  # \\p{Lu}
    white_space: bool  # White_Space, the \\s of the rule: not U+001C-1F, unlike str.isspace
    space: bool  # U+0020 itself
    pictographic: bool  # Extended_Pictographic


class ClassRuns(NamedTuple):
    """All code points as runs of equal class, in order: the form that is checked in."""

    classes: tuple[CharacterClass, ...]
    run_lengths: np.ndarray  # int32[R], sums to NUM_CODE_POINTS
    run_classes: np.ndarray  # uint8[R], index into `classes`


def save(runs: ClassRuns, path: pathlib.Path = DATA_FILE) -> None:
    np.savez_compressed(
        path,
        word_break=np.array([c.word_break for c in runs.classes]),
        flags=np.array([c[1:] for c in runs.classes], dtype=bool),
        run_lengths=runs.run_lengths.astype(np.int32),
        run_classes=runs.run_classes.astype(np.uint8),
    )


@functools.cache
def load(path: pathlib.Path = DATA_FILE) -> ClassRuns:
    with np.load(path, allow_pickle=False) as data:
        classes = tuple(
            CharacterClass(str(word_break), *map(bool, flags))
            for word_break, flags in zip(data["word_break"], data["flags"], strict=True)
        )
        return ClassRuns(classes, data["run_lengths"], data["run_classes"])


def class_of_code_points(runs: ClassRuns) -> np.ndarray:
    """uint8[0x110000]: the class of every code point, surrogates included."""
    return np.repeat(runs.run_classes, runs.run_lengths)
