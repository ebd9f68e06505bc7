"""Scripts that are written without spaces, and rules whose words of them reach a length.

Rules over characters make one word of every Chinese character or of a whole Thai sentence. With a
length in bytes for a script, `reaching` turns such a rule into one whose words of that script go
on, from one place where a word may end to the next, until they have at least so many bytes. No
word looks ahead, none ends inside a character or before a combining mark, and a Tibetan word ends
between syllables. Text of other scripts is split as before.

A script is a set of Unicode blocks, which never change, without punctuation and white space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from hat.text import unicode_classes
from hat.text.unicode_classes import CharacterClass

# First and last code points. Characters are 3 bytes long below U+10000, else 4.
SCRIPTS: dict[str, tuple[tuple[int, int], ...]] = {
    "han": (
        (0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3021, 0x3029), (0x3038, 0x303B), (0x3400, 0x4DBF),
        (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF),
    ),
    "kana": (
        (0x3040, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F), (0x1AFF0, 0x1AFFF), (0x1B000, 0x1B16F),
    ),
    "thai": ((0x0E00, 0x0E7F),),
    "lao": ((0x0E80, 0x0EFF),),
    "khmer": ((0x1780, 0x17FF), (0x19E0, 0x19FF)),
    "myanmar": ((0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F)),
    "tibetan": ((0x0F00, 0x0FFF),),
}  # fmt: skip
_SYLLABLE_ENDS = (0x0F0B, 0x0F0C)  # the tsheg, which is punctuation, stands after every syllable

LONGEST = 36  # bytes: the automata count them, in at most 512 states


class ScriptCharacter(NamedTuple):
    """A character class and, where its script has a length, what counts towards it."""

    character: CharacterClass
    script: str  # "" where it has none
    num_bytes: int  # 0 likewise


class RunState(NamedTuple):
    rule: Any  # state of the rule
    run: int  # bytes of the scripts at the end of the word; 0 if another character ends it


def script_characters(scripts: tuple[str, ...]) -> tuple[tuple[ScriptCharacter, ...], np.ndarray]:
    """The classes that occur, and the class of every code point, uint8 [0x110000]."""
    runs = unicode_classes.load()
    base = unicode_classes.class_of_code_points(runs)
    excluded = np.array([c.punctuation or c.white_space for c in runs.classes])[base]
    excluded[list(_SYLLABLE_ENDS)] = False
    script = np.zeros(len(base), np.int64)
    for number, name in enumerate(scripts, 1):
        for first, last in SCRIPTS[name]:
            script[first : last + 1] = number
    script[excluded] = 0
    num_bytes = np.where(np.arange(len(base)) < 0x10000, 3, 4) * (script > 0)
    key = (base.astype(np.int64) * (len(scripts) + 1) + script) * 5 + num_bytes
    kinds, class_of = np.unique(key, return_inverse=True)
    names = ("", *scripts)
    classes = []
    for kind in kinds.tolist():
        rest, size = divmod(kind, 5)
        number, index = divmod(rest, len(names))[::-1]
        classes.append(ScriptCharacter(runs.classes[index], names[number], size))
    return tuple(classes), class_of.reshape(-1).astype(np.uint8)


def reaching(step: Callable, lengths: Mapping[str, int], anywhere: bool) -> Callable:
    """A step of a rule, (state, CharacterClass) -> (state, starts), with lengths for scripts.

    A word of such a script may end where the rule ends it; with `anywhere` wherever no combining
    mark follows, for rules that would not end it at all.
    """
    longest = max(lengths.values())

    def longer(state: RunState, c: ScriptCharacter) -> tuple[RunState, bool]:
        rule, starts = step(state.rule, c.character)
        mark = c.character.word_break in ("Extend", "Format", "ZWJ")
        if not c.script:
            return RunState(rule, state.run if mark and not starts else 0), starts
        if state.run:
            may_end = not mark if anywhere else starts
            starts = may_end and state.run >= lengths[c.script]
        run = c.num_bytes + (0 if starts else state.run)
        return RunState(rule, min(run, longest)), starts

    return longer
