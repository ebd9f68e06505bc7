"""Words of scripts without spaces: against a second writing of the rule, and how early they end."""

from __future__ import annotations

import bisect
import functools
import itertools
import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hat.text import scripts, split_loop, unicode_classes
from hat.text.splitters import make_splitter
from tests.text.reference import characters, limited

LENGTHS = {"han": 6, "kana": 9, "thai": 12, "lao": 7, "khmer": 10, "myanmar": 9, "tibetan": 18}
SPEC = ",".join(f"{script}={length}" for script, length in LENGTHS.items())
# By name, where the library goes by blocks. None of the pieces below is named otherwise.
NAMES = {
    "CJK UNIFIED": "han", "HIRAGANA": "kana", "KATAKANA": "kana", "THAI": "thai", "LAO": "lao",
    "KHMER": "khmer", "MYANMAR": "myanmar", "TIBETAN": "tibetan",
}  # fmt: skip
_PIECES = [
    *"ab. 1\n，。你好吗𠀀𪜶こんカタ゠ー ๆำกขีู้๏ກຂີកខិ្។ကခိ်།་༌ཀབིེ\u0301\u200d\u00ad\u3000éА",
]
_PIECES = [piece.encode() for piece in _PIECES] + [b"\xe0", b"\xe0\xb8", b"\xe4\xbd", b"\xf0\xa0", b"\xff"]
texts = st.lists(st.sampled_from(_PIECES), max_size=30).map(b"".join) | st.binary(max_size=20)


def array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def words(spec: str, text: str) -> list[str]:
    data = text.encode()
    starts = np.flatnonzero(make_splitter(spec).split(array(data)).starts).tolist()
    return [data[a:b].decode() for a, b in itertools.pairwise([*starts, len(data)])]


@pytest.mark.parametrize(
    ("spec", "text", "expected"),
    [
        ("words:han=6", "你好吗 世界，很好", ["你好", "吗", " 世界，", "很好"]),
        ("words:han=7", "今天天气很好", ["今天天", "气很好"]),
        ("words:han=6,kana=6", "食べる世界 カタカナ", ["食べ", "る世", "界", " カタカナ"]),
        ("words:han=6", "食べる", ["食", "べ", "る"]),
        ("words:thai=12", "สวัสดีชาวโลก", ["สวัส", "ดีชา", "วโลก"]),
        ("words:tibetan=18", "བོད་ཡིག་ནི་", ["བོད་ཡིག་", "ནི་"]),  # between syllables
        ("words:tibetan=18", "བོད།ཡིག་", ["བོད།", "ཡིག་"]),  # the shad ends a clause
        ("whitespace:thai=12", "สวัสดีชาว โลก", ["สวัส", "ดีชา", "ว ", "โลก"]),
        ("words:8,han=6", "你好吗", ["你好", "吗"]),
        ("words:han=6", "hello, wörld! aB", ["hello,", " wörld!", " a", "B"]),
    ],
)
def test_examples(spec, text, expected):
    assert words(spec, text) == expected


def script_of(code_point: int) -> str:
    name = unicodedata.name(chr(code_point), "") if code_point not in range(0xD800, 0xE000) else ""
    found = next((script for start, script in NAMES.items() if name.startswith(start)), "")
    is_punctuation = unicodedata.category(chr(code_point)).startswith("P")
    return "" if is_punctuation and code_point not in (0xF0B, 0xF0C) else found


def long_words(decoded, natural: list[bool], is_mark: list[bool], anywhere: bool) -> list[bool]:
    """Whether a word starts at each character: looks back over the word so far every time."""
    starts: list[bool] = []
    scripts_of = [script_of(code_point) for code_point, _ in decoded]
    for i, (script, start) in enumerate(zip(scripts_of, natural)):
        run, j = 0, i - 1
        while j >= 0 and (scripts_of[j] or is_mark[j] and not starts[j]):
            run += decoded[j][1] if scripts_of[j] else 0
            if starts[j]:
                break
            j -= 1
        last = next((k for k in range(i - 1, -1, -1) if not is_mark[k] or scripts_of[k] or starts[k]), -1)
        if script and run and last >= 0 and scripts_of[last]:
            start = (not is_mark[i] if anywhere else start) and run >= LENGTHS[script]
        starts.append(bool(start))
    return starts


@pytest.mark.parametrize("rule", ["words", "whitespace"])
@given(data=texts, limit=st.sampled_from([18, 100]))
@settings(max_examples=300)
@example(data="ก\u200d".encode(), limit=18)
def test_against_looking_back(reference, class_of, rule, data, limit):
    decoded = characters(data)
    classes = unicode_classes.load().classes
    kinds = [int(class_of[c]) for c, _ in decoded]
    blank = [classes[k].white_space for k in kinds]
    if rule == "words":
        natural = reference.causal_starts(kinds)
    else:
        natural = [i == 0 or blank[i - 1] and not blank[i] for i in range(len(blank))]
    is_mark = [classes[k].word_break in ("Extend", "Format", "ZWJ") for k in kinds]
    starts = long_words(decoded, natural, is_mark, anywhere=rule == "whitespace")
    expected = limited([length for _, length in decoded], starts, limit)
    split = make_splitter(f"{rule}:{limit},{SPEC}").split(array(data))
    assert np.flatnonzero(split.starts).tolist() == expected


@pytest.fixture(scope="module")
def continuations():
    """One continuation of a pending sequence for every class and length of character."""
    _, class_of = scripts.script_characters(tuple(LENGTHS))
    points = np.r_[0:0xD800, 0xE000:0x110000]
    encoded = [chr(c).encode() for c in points.tolist()]
    lengths = np.array([len(e) for e in encoded])

    @functools.cache
    def after(pending: bytes) -> tuple[bytes, ...]:
        low = bisect.bisect_left(encoded, pending)  # in order, as the points are
        high = bisect.bisect_left(encoded, pending + b"\xff")
        kinds = class_of[points[low:high]].astype(int) * 5 + lengths[low:high]
        _, first = np.unique(kinds[lengths[low:high] > len(pending)], return_index=True)
        longer = low + np.flatnonzero(lengths[low:high] > len(pending))
        return (pending + b"\xff", *(encoded[i] for i in longer[first]))

    return after


@pytest.mark.parametrize("rule", ["words:18", "whitespace"])
def test_words_are_known_as_early_as_can_be(continuations, rule):
    """Word k is counted at byte t iff its end is the same whatever character comes next."""
    splitter = make_splitter(f"{rule},{SPEC}" if ":" in rule else f"{rule}:{SPEC}")
    text = "ab你好吗，こんカ กิ้ขค\nབོད་བ།ကិ".encode() + b"\xe0\xb8a\xf0\xa0\xa0"
    known = splitter.split(array(text)).known
    for t in range(len(text)):
        prefix = text[: t + 1]
        pending = b""
        for back in (1, 2, 3):
            tail = prefix[-back:]
            if len(tail) == back and tail[0] >= 0xC2 and len(continuations(tail)) > 1:
                pending = tail
        complete = len(prefix) - len(pending)
        begun, closed = set(), []
        for following in continuations(pending):
            starts = splitter.split(array(prefix[:complete] + following)).starts
            begun.add(int(starts[:complete].sum()))
            closed.append(bool(starts[complete]))
        assert len(begun) == 1  # complete characters keep their words
        assert known[t] == begun.pop() - 1 + all(closed), (prefix, t)


def test_every_length_fits_the_tables():
    """Where all scripts have lengths, the longest or all of them different."""
    for rule in ("words", "whitespace"):
        for lengths in ([scripts.LONGEST] * 7, range(scripts.LONGEST - 6, scripts.LONGEST + 1)):
            spec = ",".join(f"{script}={n}" for script, n in zip(scripts.SCRIPTS, lengths))
            split_loop.pack(make_splitter(f"{rule}:{spec}").tables)
