from __future__ import annotations

import bisect
import functools
import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hat.errors import UserError
from hat.text import split_loop, unicode_classes
from hat.text.splitters import (
    BYTE_CAUSAL,
    FixedStride,
    SpaceByte,
    WhitespaceRule,
    WordRule,
    make_splitter,
)
from tests.text.reference import characters, limited

SPLITTERS = [
    WordRule(), WordRule(1), WordRule(2), WordRule(3), WordRule(4), WordRule(7),
    WhitespaceRule(), WhitespaceRule(5), FixedStride(1), FixedStride(8),
    SpaceByte(), SpaceByte(1), SpaceByte(5),
    make_splitter("words:20,han=6,kana=9,thai=12,tibetan=18"), make_splitter("whitespace:thai=7"),
]  # fmt: skip

EXACT = [WordRule(4), WordRule(5), WordRule(9), WordRule(), WhitespaceRule(5), WhitespaceRule()]

# Bytes at which something happens: every class with few bytes, and what corrupts them.
_PIECES = [
    "a", "b", "B", "1", ".", "'", '"', ",", ":", "_", "+", " ", " ", "\t", "\n", "\r", "\v", "\x00",
    "é", "É", "\u0301", "\u200d", "\u00ad", "א", "ア", "゠", "你", "ก", "🙂", "ℹ", "🇩", "⁄", "٫",
    "\u202f", "\u00a0", "\u3000", "‼", "𝐀", "𝐚", "\ufffd",
]  # fmt: skip
_PIECES = [piece.encode() for piece in _PIECES] + [
    b"\xc3", b"\xe4", b"\xe4\xbd", b"\xf0\x9f", b"\xf0\x9f\x98", b"\x80", b"\xbf", b"\xff", b"\xe0",
    b"\xed\xa0", b"\xcc", b"\xc2", b"\xe2\x80", b"\xf4\x90", b"\xc0",
]  # fmt: skip
any_bytes = st.binary(max_size=30) | st.lists(st.sampled_from(_PIECES), max_size=24).map(b"".join)


def array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def words(splitter, text: str | bytes) -> list:
    data = text.encode() if isinstance(text, str) else text
    starts = np.flatnonzero(splitter.split(array(data)).starts).tolist()
    parts = [data[a:b] for a, b in itertools.pairwise([*starts, len(data)])]
    return [part.decode() for part in parts] if isinstance(text, str) else parts


# Outputs of the published rule (version 0.1.10). None of these strings is of the three kinds in
# which it looks ahead (see WordRule).
PUBLISHED = {
    "Hello, world!": ["Hello,", " world!"],
    "don't can't l'été": ["don'", "t", " can'", "t", " l'", "été"],
    "HTTPServerError iPhone 3D h2o aB1C":
        ["HTTPServer", "Error", " i", "Phone", " 3D", " h2o", " a", "B1C"],
    "how_are_you": ["how_", "are_", "you"],
    "kebab-case SCREAMING_CASE": ["kebab-", "case", " SCREAMING_", "CASE"],
    "if (a==b && c!=d) { x += 1; }":
        ["if", " (", "a", "=", "=", "b", " &&", " c!", "=", "d)", " {", " x", " +", "=", " 1;",
         " }"],
    'def foo(x: int) -> str:\n    return f"{x}"\n':
        ["def", " foo(", "x:", " int)", " -", ">", " str:", "\n", "    ", "return", ' f"{', 'x}"',
         "\n"],
    "a  b   c": ["a", "  ", "b", "   ", "c"],
    "tab\there\n\n  indented\r\nnext":
        ["tab", "\t", "here", "\n", "\n", "  ", "indented", "\r\n", "next"],
    "  leading and trailing  ": ["  ", "leading", " and", " trailing", "  "],
    "1,234.56 2025-01-20 $5.00 50%":
        ["1,", "234.", "56", " 2025-", "01-", "20", " $", "5.", "00", " 50%"],
    "user@example.com https://a.b/c?d=e&f=1":
        ["user@", "example.", "com", " https://", "a.", "b/", "c?", "d", "=", "e&", "f", "=", "1"],
    "U.S.A. e.g. ... !!!": ["U.", "S.", "A.", " e.", "g.", " ...", " !!!"],
    "C++ C# .NET #hashtag x->y a::b":
        ["C", "+", "+", " C#", " .", "NET", " #", "hashtag", " x-", ">", "y", " a::", "b"],
    "\\frac{a}{b} $x_1$": ["\\", "frac{", "a}{", "b}", " $", "x_", "1", "$"],
    "你好吗 世界": ["你", "好", "吗", " 世", "界"],
    "こんにちは世界 カタカナテスト": ["こ", "ん", "に", "ち", "は", "世", "界", " カタカナテスト"],
    "안녕하세요 세계": ["안녕하세요", " 세계"],
    "สวัสดีชาวโลก": ["ส", "วั", "ส", "ดี", "ช", "า", "ว", "โ", "ล", "ก"],
    "مرحبا بالعالم": ["مرحبا", " بالعالم"],
    "हिन्दी भाषा": ["हिन्दी", " भाषा"],
    "🤖🍕 👨\u200d👩\u200d👧\u200d👦 🇩🇪🇫🇷 👍🏽 hi🙂there":
        ["🤖", "🍕", " 👨\u200d👩\u200d👧\u200d👦", " 🇩🇪", "🇫🇷", " 👍🏽", " hi", "🙂", "there"],
    "x²+y² 5€ α≤β": ["x", "²", "+", "y", "²", " 5", "€", " α", "≤", "β"],
    "nbsp\xa0here word\u200bzero": ["nbsp", "\xa0", "here", " word", "\u200b", "zero"],
    "café": ["café"],
    "\x00\x01a": ["\x00", "\x01", "a"],
    "<|eot_id|>": ["<", "|", "eot_", "id", "|", ">"],
}  # fmt: skip


@pytest.mark.parametrize("text", PUBLISHED)
def test_published_examples(text):
    assert len(PUBLISHED) == 27
    assert words(WordRule(), text) == PUBLISHED[text]


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("verylongword", 10, [b"verylongwo", b"rd"]),
        ("🌝", 2, [b"\xf0\x9f", b"\x8c\x9d"]),
        ("für", 2, [b"f", b"\xc3\xbc", b"r"]),
        ("你好", 4, [b"\xe4\xbd\xa0", b"\xe5\xa5\xbd"]),
    ],
)
def test_published_examples_with_a_limit(text, limit, expected):
    assert words(WordRule(limit), text.encode()) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1⁄2", ["1", "⁄2"]),  # published: one word
        (" \u202fa", [" ", "\u202fa"]),  # published: one word
        (" \t\u0301", [" ", "\t\u0301"]),  # published: one word
        ("a\u200dℹb", ["a\u200dℹ", "b"]),  # UAX #29 would join the b
    ],
)
def test_causal_reading(text, expected):
    assert words(WordRule(), text) == expected


def test_invalid_bytes_are_characters():
    assert words(WordRule(), b"a\xf0\x9f\x98b") == [b"a", b"\xf0", b"\x9f", b"\x98", b"b"]
    assert words(WordRule(), b"x \xff, \xe4\xbd") == [b"x", b" \xff,", b" \xe4", b"\xbd"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two words  and\n\tmore ", ["two ", "words  ", "and\n\t", "more "]),
        ("  led", ["  ", "led"]),
        ("a\u3000你好\u00a0b", ["a\u3000", "你好\u00a0", "b"]),
        ("\x1f\x1cb", ["\x1f\x1cb"]),  # no White_Space, unlike str.isspace
    ],
)
def test_whitespace_rule(text, expected):
    assert words(WhitespaceRule(), text) == expected


@given(any_bytes, st.sampled_from([5, 100]))
@settings(max_examples=200)
def test_whitespace_rule_against_decoding(data, limit):
    white = {*range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029,
             0x202F, 0x205F, 0x3000}  # fmt: skip
    decoded = characters(data)
    blank = [code_point in white for code_point, _ in decoded]
    rule = [i == 0 or (blank[i - 1] and not blank[i]) for i in range(len(blank))]
    expected = limited([length for _, length in decoded], rule, limit)
    split = WhitespaceRule(limit).split(array(data))
    assert np.flatnonzero(split.starts).tolist() == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello, world!  foo_bar x", ["hello,", " world!", "  foo_", "bar ", "x"]),
        (" led", [" led"]),  # BOS is spacelike
        ("a\n\n\tb", ["a\n", "\n\tb"]),
    ],
)
def test_spacebyte(text, expected):
    assert words(SpaceByte(), text) == expected


@given(any_bytes, st.sampled_from([1, 2, 5, 100]))
@settings(max_examples=200)
def test_spacebyte_against_its_definition(data, limit):
    """Of the paper: after a spacelike byte that follows one that is not. All is known at once."""
    spacelike = [not (b in range(0x80, 0xC0) or b < 0x80 and chr(b).isalnum()) for b in data]
    starts, known, length = [], [], limit
    for t in range(len(data)):
        if length == limit or t > 1 and spacelike[t - 1] and not spacelike[t - 2]:
            starts.append(t)
            length = 0
        length += 1
        ends = length == limit or t > 0 and spacelike[t] and not spacelike[t - 1]
        known.append(len(starts) - 1 + ends)
    split = SpaceByte(limit).split(array(data))
    assert np.flatnonzero(split.starts).tolist() == starts
    assert split.known.tolist() == known


@given(any_bytes, st.sampled_from([1, 2, 3, 4, 6, 100]))
@settings(max_examples=300)
def test_word_rule_against_decoding(reference, class_of, data, limit):
    decoded = characters(data)
    rule = reference.causal_starts([class_of[c] for c, _ in decoded])
    expected = limited([length for _, length in decoded], rule, limit)
    split = WordRule(limit).split(array(data))
    assert np.flatnonzero(split.starts).tolist() == expected


@pytest.mark.parametrize("splitter", SPLITTERS, ids=lambda s: s.name)
@given(any_bytes)
@example(b"")
@settings(max_examples=60)
def test_streaming_equals_whole(splitter, data):
    split = splitter.split(array(data))
    assert split.starts.dtype == bool and split.known.dtype == np.int32
    assert split.starts.shape == split.known.shape == (len(data),)
    stream, starts = splitter.stream(), []
    all_starts = np.flatnonzero(split.starts).tolist()
    for t, byte in enumerate(data):
        revealed = stream.push(byte)
        assert revealed.known == split.known[t]
        assert all(start <= t for start in revealed.starts)
        starts += revealed.starts
        # The start that completes a word is revealed with it, unless it is the next byte's.
        assert set(s for s in all_starts[: revealed.known + 1] if s <= t) <= set(starts)
    starts += stream.finish()
    assert starts == all_starts


@pytest.mark.parametrize("splitter", SPLITTERS, ids=lambda s: s.name)
@given(any_bytes)
@settings(max_examples=60)
def test_lossless_limited_and_counted(splitter, data):
    split = splitter.split(array(data))
    parts = words(splitter, data)
    assert b"".join(parts) == data
    assert all(parts)
    limit = getattr(splitter, "max_word_bytes", None) or splitter.stride
    assert all(len(part) <= limit for part in parts)
    assert (np.diff(split.known) >= 0).all()
    started = np.cumsum(split.starts)
    assert (split.known <= started).all()
    # Every word but the last is known to be complete at the latest three bytes into the next.
    assert (split.known[3:] >= started[:-3] - 1).all()


@pytest.mark.parametrize("splitter", SPLITTERS, ids=lambda s: s.name)
@given(any_bytes, any_bytes, any_bytes)
@settings(max_examples=60)
def test_known_never_depends_on_later_bytes(splitter, prefix, one, other):
    split, changed = (splitter.split(array(prefix + rest)) for rest in (one, other))
    assert (split.known[: len(prefix)] == changed.known[: len(prefix)]).all()
    complete = int(split.known[len(prefix) - 1]) if prefix else 0
    words_of_one, words_of_other = (words(splitter, prefix + rest) for rest in (one, other))
    assert words_of_one[:complete] == words_of_other[:complete]
    assert len(b"".join(words_of_one[:complete])) <= len(prefix)


@pytest.fixture(scope="module")
def next_characters(class_of):
    """(class, bytes) of every character that may come next, given the bytes of it so far: those
    that begin with them, or an invalid byte. Just that if none begins with them."""
    points = np.r_[0:0xD800, 0xE000:0x110000]
    encoded = [chr(c).encode() for c in points.tolist()]  # in order, as the points are
    lengths = np.array([len(e) for e in encoded])

    @functools.cache
    def after(pending: bytes) -> frozenset[tuple[int, int]]:
        low = bisect.bisect_left(encoded, pending)
        high = bisect.bisect_left(encoded, pending + b"\xff")
        found = {(int(class_of[0xFFFD]), 1)}
        for length in range(len(pending) + 1, 5):
            fitting = points[low:high][lengths[low:high] == length]
            found |= {(c, length) for c in np.unique(class_of[fitting]).tolist()}
        return frozenset(found)

    return after


@pytest.mark.parametrize("splitter", EXACT, ids=lambda s: s.name)
@given(data=any_bytes)
@settings(max_examples=40)
@example(data="a\n你好🙂 b\u0301  ア".encode())
@example(data=b"aaaaaaaa\xcc\x81b ")
def test_known_is_exact(reference, class_of, next_characters, splitter, data):
    """Word k is counted at byte t iff its end is the same in every continuation: brute force over
    every character that may follow, by the reference."""
    white = np.array([c.white_space for c in unicode_classes.load().classes])

    def rule_starts(strings: np.ndarray) -> list[bool]:
        if isinstance(splitter, WordRule):
            return reference.last_starts(strings).tolist()
        blank = white[strings[:, -2:]]
        return (blank[:, 0] & ~blank[:, -1] | (strings.shape[1] == 1)).tolist()

    known = splitter.split(array(data)).known
    rule: list[bool] = []
    for t in range(len(data)):
        prefix = data[: t + 1]
        decoded = characters(prefix)
        pending = b""
        for back in (1, 2, 3):  # the end of the prefix may be the beginning of a character
            if len(next_characters(prefix[-back:])) > 1:
                pending = prefix[-back:]
        if pending:
            decoded = decoded[: -len(pending)]
        lengths = [length for _, length in decoded]
        classes = [int(class_of[c]) for c, _ in decoded]
        while len(rule) < len(classes):  # characters, once complete, stay
            rule += rule_starts(np.array([classes[: len(rule) + 1]]))
        starts = limited(lengths, rule, splitter.max_word_bytes)
        candidates = sorted(next_characters(pending))
        nexts = rule_starts(np.array([[*classes, character] for character, _ in candidates]))
        closed = all(
            sum(lengths) in limited([*lengths, length], [*rule, start], splitter.max_word_bytes)
            for (_, length), start in zip(candidates, nexts, strict=True)
        )
        assert known[t] == len(starts) - 1 + closed, (data, t)


def test_known_is_early():
    def known(text):
        return WordRule().split(array(text.encode())).known.tolist()

    assert known("a\nb") == [0, 2, 2]  # a newline closes its word
    assert known("\r\na") == [0, 1, 1]  # a carriage return waits for the line feed
    assert known("a  b") == [0, 1, 1, 2]  # spaces may go on
    assert known("你好") == [0, 0, 0, 1, 1, 1]  # E5 begins nothing that joins
    assert known("你、") == [0, 0, 0, 0, 0, 0]  # E3 may, and does
    assert FixedStride(3).split(array(b"abcdefg")).known.tolist() == [0, 0, 1, 1, 1, 2, 2]
    # At the limit: one byte of room takes an ASCII letter; none takes nothing.
    assert WordRule(4).split(array(b"abcde")).known.tolist() == [0, 0, 0, 1, 1]


def test_long_words_and_the_room_left():
    for length in (95, 96, 97, 98, 99, 100, 101, 199, 200, 201):
        for tail in ("", "é", "\u0301", "🙂", "b", "_"):
            text = ("a" * length + tail).encode()
            decoded = characters(text)
            rule = [i == 0 or c == ord("🙂") for i, (c, _) in enumerate(decoded)]
            expected = limited([n for _, n in decoded], rule, 100)
            split = WordRule().split(array(text))
            assert np.flatnonzero(split.starts).tolist() == expected


def test_tables_run_in_a_jitted_scan():
    import jax
    import jax.numpy as jnp

    from hat.text import split_tables

    splitter = WordRule(9)
    tables = jax.tree.map(jnp.asarray, splitter.tables)
    state = jax.tree.map(jnp.int32, split_tables.initial_state(9))

    @jax.jit
    def scan(data):
        def one(carry, byte):
            state, count = carry
            state, (starts, closed) = split_tables.step(tables, state, byte)
            count = count + tables.num_starts[starts]
            return (state, count), (starts, count - 1 + closed)

        return jax.lax.scan(one, (state, jnp.int32(0)), data)[1]

    random = np.random.default_rng(0)
    text = "Hello, 你好 wörld 👨\u200d👩 don't\r\n हिन्दी".encode() * 20
    data = array(text).copy()
    data[random.integers(0, len(data), 60)] = random.integers(0, 256, 60)
    starts, known = scan(data.astype(np.int32))
    split = splitter.split(data)
    np.testing.assert_array_equal(known, split.known)
    found = {t - back for t, mask in enumerate(np.asarray(starts).tolist())
             for back in range(4) if mask >> back & 1}  # fmt: skip
    assert sorted(found) == np.flatnonzero(split.starts).tolist()


def test_make_splitter():
    assert make_splitter("words") == WordRule(100)
    assert make_splitter("words:64") == WordRule(64)
    assert make_splitter("whitespace") == WhitespaceRule(100)
    assert make_splitter("whitespace:32") == WhitespaceRule(32)
    assert make_splitter("stride:8") == FixedStride(8)
    assert make_splitter("spacebyte") == SpaceByte(100)
    assert make_splitter("spacebyte:6") == SpaceByte(6)
    assert make_splitter("words:64,thai=12,han=6") == WordRule(64, (("han", 6), ("thai", 12)))
    assert make_splitter("whitespace:lao=9") == WhitespaceRule(100, (("lao", 9),))
    assert make_splitter("words:lao=9").name == "words-v1-unicode16.0-max100-lao9"
    assert make_splitter("words:64").name == "words-v1-unicode16.0-max64"
    assert len({s.name for s in SPLITTERS}) == len(SPLITTERS)
    assert all(s.causality == BYTE_CAUSAL for s in SPLITTERS)


@pytest.mark.parametrize(
    "spec", ["", "word", "words:", "words:x", "words:0", "words:-3", "stride", "stride:0", "words:²",
             "words:,", "words:6,7", "words:han=", "words:han=x", "words:han=6,7", "stride:han=6",
             "spacebyte:han=6", "spacebyte:0", "words:=6", "stride:3,han=6"]
)
def test_make_splitter_says_what_is_known(spec):
    with pytest.raises(UserError, match="at least 1|choose one of 'words', 'words:MAX_BYTES'|script"):
        make_splitter(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("words:latin=6", "script 'latin' is not one that is written without spaces: han, kana"),
        ("words:han=0", "words that reach 0 bytes cannot be; give 1 to 36"),
        ("words:han=37", "words that reach 37 bytes cannot be; give 1 to 36"),
        ("words:20,han=21", "words that reach 21 bytes cannot be; give 1 to 20"),
        ("words:han=6,han=9", "gives a script two lengths"),
    ],
)
def test_lengths_of_scripts_that_cannot_be(spec, message):
    with pytest.raises(UserError, match=message):
        make_splitter(spec)


def test_only_bytes_are_split():
    with pytest.raises(TypeError, match="uint8"):
        WordRule().split(np.arange(3))
    with pytest.raises(TypeError, match="uint8"):
        FixedStride(2).split(b"abc")


def test_compiles_where_no_cache_can_be_written():
    namespace: dict = {}
    exec("def double(x):\n    return x + x\n", namespace)  # numba has no place for its cache
    assert split_loop.compiled(namespace["double"])(21) == 42
