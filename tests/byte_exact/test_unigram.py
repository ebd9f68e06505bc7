"""The encodings of SentencePiece unigram models against the library itself, which knows no cover
and no configuration: scores that tie, or tie but for the rounding of their sums, and odd pieces."""

from __future__ import annotations

import itertools
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.byte_exact import unigram
from hat.byte_exact.canonical import DEAD
from hat.byte_exact.token_bytes import Vocabulary
from hat.byte_exact.unigram import Unigram, canonical_of
from hat.errors import UserError
from hat.text.sentencepiece_file import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from hat.text.tokenizers import SPACE, SentencePieceTokenizer, train_sentencepiece
from tests.byte_exact.families import TEXT

Piece = tuple[str, float, int]


def made(pieces: list[Piece]) -> SentencePieceTokenizer:
    """A unigram model of these pieces, after three special ones and the 256 bytes."""
    specials = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    fallback = [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    out = b""
    for text, score, kind in specials + fallback + pieces:
        data = text.encode()
        data = b"\x0a" + bytes([len(data)]) + data + b"\x15" + struct.pack("<f", score)
        data += bytes([3 << 3, kind])
        out += b"\x0a" + bytes([len(data)]) + data
    trainer = bytes([3 << 3, 1, 0x98, 0x02, 1])  # model_type (3): unigram, byte_fallback (35)
    return SentencePieceTokenizer(out + bytes([2 << 3 | 2, len(trainer)]) + trainer)


def ruled(pieces: list[Piece]) -> tuple[SentencePieceTokenizer, Unigram]:
    its = made(pieces)
    rule = canonical_of(Vocabulary(its, its.num_ids))
    assert isinstance(rule, Unigram)
    return its, rule


# Sums that are equal, and sums of float32 that are or are not, by where they are rounded.
SCORES = [-1.0, -2.0, -3.0, -4.0, -0.1, -0.2, -0.3, -0.6, -1.1, -2.2, -3.3000002, -4.4, -12.0]
# é alone may be no piece where aé is one, and b may be missing, unused or user-defined.
TEXTS = ["a", "b", "aa", "ab", "ba", "aab", "aba", "abab", "é", "aé", "éa", "ba ", " a", "  ",
         "éé"]  # fmt: skip


@st.composite
def vocabularies(draw) -> list[Piece]:
    kinds = st.sampled_from([NORMAL] * 6 + [USER_DEFINED, UNUSED])
    chosen = draw(st.sets(st.sampled_from(TEXTS), min_size=4))
    pieces = [(SPACE, draw(st.sampled_from(SCORES)), NORMAL)]
    for text in sorted(chosen):
        score = draw(st.sampled_from(SCORES))
        pieces.append((text.replace(" ", SPACE), score, draw(kinds)))
    return pieces


ALPHABET = [b"a", b"b", b" ", b"\xc3", b"\xa9"]
ALL_TEXTS = [b"".join(x) for n in range(5) for x in itertools.product(ALPHABET, repeat=n)]


@settings(max_examples=12, deadline=None)
@given(vocabularies())
def test_accepted_is_what_begins_the_encoding_of_some_text(pieces):
    """Every text of up to four bytes encoded by the library, every beginning of it collected;
    against every sequence of tokens of up to four bytes."""
    its, rule = ruled(pieces)
    begin = set()
    for text in ALL_TEXTS:
        ids = its.encode(text).tolist()
        begin |= {tuple(ids[:n]) for n in range(len(ids) + 1)}
    letters = set(b"".join(ALPHABET))
    tokens = [t for t in rule._vocabulary.order.tolist() if set(its.token_bytes(t)) <= letters]
    accepted, todo = set(), [((), rule.start, 0)]
    while todo:
        way, configuration, size = todo.pop()
        accepted.add(way)
        for token in tokens:
            longer = size + len(its.token_bytes(token))
            if longer <= 4 and (after := rule.step(configuration, token)) != DEAD:
                todo.append(((*way, token), after, longer))
    assert accepted == begin


bits = st.sampled_from([*(t.encode() for t in TEXTS), "😀".encode(), SPACE.encode(), b"\xff",
                        b"\xc3", b"\xf0\x9f", b"<s>", b"<0x61>"])


@settings(max_examples=40, deadline=None)
@given(vocabularies(), st.lists(bits, max_size=30).map(b"".join), st.integers(1, 40))
def test_along_an_encoding_the_mask_is_what_the_library_says(pieces, text, repeats):
    """Far from the beginning too, where sums are rounded more coarsely."""
    its, rule = ruled(pieces)
    text = text * repeats
    ids = its.encode(text).tolist()
    configuration = rule.start
    for token in ids:
        configuration = rule.step(configuration, token)
        assert configuration != DEAD
    mask = rule.mask(configuration)
    assert rule.may_end(configuration)
    for place, token in enumerate(rule._vocabulary.order.tolist()):
        longer = [*ids, token]
        if token >= 259 or place % 16 == len(text) % 16 or its.token_bytes(token) in ALPHABET:
            said = its.encode(its.decode(longer)).tolist() == longer
            assert mask[place] == said == (rule.step(configuration, token) != DEAD)


def test_the_rounding_of_sums_is_that_of_the_library():
    """aa costs as much as a and a, but for the rounding of sums: which is better differs along the
    way, though the text does not."""
    its, rule = ruled([(SPACE, -9.0, NORMAL), ("a", -1.1, NORMAL), ("aa", -2.2, NORMAL)])
    ids = its.encode(b"a" * 1500).tolist()
    once, twice = 260, 261
    assert len({tuple(ids[i : i + 20]) for i in range(len(ids) - 20)}) > 20
    configuration = rule.start
    for n, token in enumerate(ids):
        for other in (once, twice) if n % 7 == 0 else ():
            begun = [*ids[:n], other]
            said = its.encode(its.decode(begun)).tolist() == begun
            assert rule.mask(configuration)[rule._vocabulary.place[other]] == said
        configuration = rule.step(configuration, token)


def test_what_is_forgotten_is_computed_again(monkeypatch):
    its, rule = ruled([(SPACE, -2.0, NORMAL), ("a", -1.1, NORMAL), ("aa", -2.1, NORMAL)])
    ids = its.encode("a aa 色aaa\xff a".encode()).tolist()
    configurations = list(itertools.accumulate(ids, rule.step, initial=rule.start))
    masks = [rule.mask(configuration) for configuration in configurations]
    monkeypatch.setattr(unigram, "_KEPT", 2)
    monkeypatch.setattr(unigram, "_MASKS", 2)
    rule._masks.clear()
    rule._windows = {rule.start: rule._windows[rule.start]}
    for configuration, mask in reversed(list(zip(configurations, masks))):
        np.testing.assert_array_equal(rule.mask(configuration), mask)
    assert len(rule._windows) <= 2 and len(rule._masks) <= 2


def test_our_own_models_with_their_ends_of_lines():
    its = train_sentencepiece([TEXT.encode()], 350)
    rule = canonical_of(Vocabulary(its, its.num_ids))
    configuration = rule.start
    for token in its.encode(TEXT.encode()).tolist():
        assert rule.mask(configuration)[rule._vocabulary.place[token]]
        configuration = rule.step(configuration, token)


def test_without_a_piece_for_a_space_it_is_refused():
    its = made([("a", -1.0, NORMAL)])
    with pytest.raises(UserError, match="of a space.*--law all works"):
        canonical_of(Vocabulary(its, its.num_ids))


def test_an_older_library_is_refused(monkeypatch):
    import sentencepiece

    its = made([(SPACE, -1.0, NORMAL)])
    monkeypatch.setattr(sentencepiece, "__version__", "0.2.1")
    with pytest.raises(UserError, match="sentencepiece 0.2.1 .*install 0.2.3 or later"):
        canonical_of(Vocabulary(its, its.num_ids))
