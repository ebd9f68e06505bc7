"""The configurations of `canonical` against the tokenizers themselves."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.byte_exact.canonical import DEAD, Canonical
from hat.byte_exact.token_bytes import Vocabulary
from hat.byte_exact.unigram import Unigram, canonical_of
from tests.byte_exact.families import FAMILIES, TEXT, tokenizer

PIECES = ["a", "the", "S", "'", "'s", "'LL", "'re", " ", "  ", "   ", "\t", "\n", "\r\n", "1", "23",
          "456", ".", "(", "--", "é", "e\u0301", "色", "你好", "🏳️‍🌈", "\u2581", "½", "ſ", "<th>",
          "<the", "K", "\u00a0", "\u3000"]
RAW = [b"\xff", b"\xe4", b"\xbd\xa0", b"\xf0\x9f", b"\xc3"]
texts = st.lists(st.sampled_from([p.encode() for p in PIECES] + RAW), max_size=8).map(b"".join)


@functools.cache
def canonical(family: str) -> tuple[Vocabulary, Canonical | Unigram]:
    its = tokenizer(family)
    vocabulary = Vocabulary(its, its.num_ids)
    return vocabulary, canonical_of(vocabulary)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoding_is_the_one_way_through(family):
    """Of all the ways to spell a text through valid configurations, the library's alone may end."""
    vocabulary, rule = canonical(family)

    @settings(max_examples=25)
    @given(texts | st.just(TEXT.encode()[:300]))
    def check(text):
        ids = tuple(vocabulary.tokenizer.encode(text).tolist())
        paths = vocabulary.paths(text)
        ways = [{} for _ in range(len(text) + 1)]
        ways[0][()] = rule.start
        for at in range(len(text)):
            for way, configuration in ways[at].items():
                for size, node in enumerate(paths[at][1:], 1):
                    if node < 0:
                        break
                    for token in vocabulary.exact_ids(node):
                        after = rule.step(configuration, token)
                        if after != DEAD:
                            ways[at + size][*way, token] = after
        assert [way for way, after in ways[-1].items() if rule.may_end(after)] == [ids]
        # A text whose end is open has few encodings still: those of the guesses about its tail.
        assert max(map(len, ways)) <= 4
        end = rule.start
        for token in ids:
            assert rule.mask(end)[vocabulary.place[token]]
            end = rule.step(end, token)

    check()


@pytest.mark.parametrize("family", ["gpt2", "llama3-whole", "sentencepiece"])
def test_all_followers_at_once_are_each_by_itself(family):
    """The walk along merges against the pairs one by one."""
    vocabulary, rule = canonical(family)
    tokens = vocabulary.order
    for left in tokens[:: len(tokens) // 60].tolist():
        each = [rule._pairs.allowed(left, right) for right in tokens.tolist()]
        np.testing.assert_array_equal(rule._pairs.after(left, tokens), each)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mask_is_what_steps_say(family):
    vocabulary, rule = canonical(family)
    for text in ("the 12", " don'", "x  ", "é", ""):
        configuration = rule.start
        for token in vocabulary.tokenizer.encode(text.encode()):
            configuration = rule.step(configuration, int(token))
        steps = [rule.step(configuration, int(token)) != DEAD for token in vocabulary.order]
        np.testing.assert_array_equal(rule.mask(configuration), steps)
