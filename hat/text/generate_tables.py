"""Writes the checked-in Unicode class data: `python -m hat.text.generate_tables`.

Word_Break and Extended_Pictographic come from uniseg 0.10.1, general categories from
unicodedata2 16.0.0, both of Unicode 16.0 and both needed only here and in the test that
regenerates the file.
"""

from __future__ import annotations

import numpy as np

from hat.text import unicode_classes
from hat.text.unicode_classes import CharacterClass, ClassRuns

_WHITE_SPACE_CONTROLS = (0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x85)  # White_Space outside \\p{Z}


def generate() -> ClassRuns:
    """The class runs of all code points. Classes are numbered in order of first appearance."""
    import unicodedata2
    from uniseg.emoji import extended_pictographic
    from uniseg.wordbreak import word_break

    if not unicodedata2.unidata_version.startswith(unicode_classes.UNICODE_VERSION):
        raise RuntimeError(f"unicodedata2 carries Unicode {unicodedata2.unidata_version}")
    numbers: dict[CharacterClass, int] = {}
    class_of = np.empty(unicode_classes.NUM_CODE_POINTS, np.uint8)
    for code_point in range(unicode_classes.NUM_CODE_POINTS):
        character = chr(code_point)
        category = unicodedata2.category(character)
        character_class = CharacterClass(
            word_break=word_break(character).value,
            punctuation=category.startswith("P"),
            lower=category == "Ll",
            upper=category == "Lu",
            white_space=category.startswith("Z") or code_point in _WHITE_SPACE_CONTROLS,
            space=code_point == 0x20,
            pictographic=extended_pictographic(character),
        )
        class_of[code_point] = numbers.setdefault(character_class, len(numbers))
    first = np.flatnonzero(np.diff(class_of, prepend=class_of[0] + 1))
    lengths = np.diff(first, append=unicode_classes.NUM_CODE_POINTS)
    return ClassRuns(tuple(numbers), lengths.astype(np.int32), class_of[first])


if __name__ == "__main__":
    unicode_classes.save(generate())
