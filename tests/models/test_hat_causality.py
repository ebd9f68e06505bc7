"""Changing byte t changes no logit before t, whatever it does to the words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hat.text.splitters import make_splitter
from tests.models import reference, toy


def splitters() -> list:
    """The toy rule, and real ones."""
    found = [pytest.param(toy.toy_split, id="toy")]
    for spec in ("words", "spacebyte", "words:han=6"):

        def split(data, rule=make_splitter(spec)):
            starts, known = rule.split(np.frombuffer(data, np.uint8))
            return reference.Document(data, np.asarray(starts), np.asarray(known))

        found.append(pytest.param(split, id=spec))
    return found


DOCUMENTS = [
    b"a cat\n\nsat  on\nit",
    "Zoë – naïve\n漢字 ok".encode(),
    bytes([0xC3, 0x20, 0xC4, 0xC5, 0x0A, 0xFF, 0x00, 0xC0, 0x61, 0x80, 0x0A, 0xE2, 0x82]),
]


def perturbed(rng, data: bytes, t: int) -> bytes:
    """Byte t replaced by another, preferably one that matters to a splitter."""
    choice = [0x20, 0x0A, 0xC3, 0xC4, 0x61, 0x82, int(rng.integers(256))]
    byte = rng.choice([b for b in choice if b != data[t]])
    return data[:t] + bytes([byte]) + data[t + 1 :]


@pytest.mark.parametrize("split", splitters())
@pytest.mark.parametrize("name", toy.CONFIGS)
def test_no_logit_depends_on_a_later_byte(name, split):
    """Bitwise, at every byte of a document between two others. Words may move, appear and go."""
    hat = toy.compiled(name)
    words = toy.words_of(name)
    rng = np.random.default_rng(0)
    for data in DOCUMENTS:
        before, after = split(b"ab c"), split(b"de f")
        rows = [[before, split(data), after]] * toy.B
        original = hat.logits(hat.params, reference.build_batch(rows, toy.T, words))
        place = reference.spans(rows)[0][1]
        for first in range(0, len(data), toy.B):
            changed = [
                split(perturbed(rng, data, min(first + b, len(data) - 1))) for b in range(toy.B)
            ]
            batch = reference.build_batch([[before, c, after] for c in changed], toy.T, words)
            logits = hat.logits(hat.params, batch)
            for b in range(toy.B):
                at = place.start + 1 + min(first + b, len(data) - 1)  # BOS comes first
                np.testing.assert_array_equal(logits[b, :at], original[b, :at])
                assert (logits[b, at] != original[b, at]).any()
            # The documents after it may lie elsewhere among the words: equal but for rounding.
            np.testing.assert_allclose(
                logits[:, place.stop : place.stop + 6],
                original[:, place.stop : place.stop + 6],
                rtol=0,
                atol=3e-5,
            )


def test_released_guides_look_ahead_inside_a_character():
    """What `guide="released"` is for: the first byte of a character that opens a word is guided
    as its later bytes decide. The earliest guides are not."""
    rows = [[toy.toy_split(b"ab\xc3\x82")], [toy.toy_split(b"ab\xc3\x83")], [], []]
    batch = reference.build_batch(rows, toy.T, toy.N)
    lead = 3  # BOS, a, b, 0xC3
    for guide, causal in [("earliest", True), ("released", False)]:
        hat = toy.compiled("everything", guide)
        logits = hat.logits(hat.params, batch)
        np.testing.assert_array_equal(logits[0, :lead], logits[1, :lead])
        assert (logits[0, lead] == logits[1, lead]).all() == causal


@given(st.binary(max_size=30), st.binary(max_size=6))
def test_the_toy_rule_is_byte_causal(data, rest):
    """The tests above mean something only if their splitter keeps its promise."""
    whole, part = toy.toy_split(data + rest), toy.toy_split(data)
    np.testing.assert_array_equal(whole.known[: len(data)], part.known)
    ends = np.flatnonzero(np.append(whole.starts[1:], True))  # last bytes of the words
    for t, known in enumerate(part.known):
        assert known <= (ends <= t).sum()  # never more words than are complete
