"""The word rule against its second writing: exhaustive over classes, then over code points."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from uniseg.wordbreak import word_breakables

from hat.text import unicode_classes, word_rule
from hat.text.splitters import WordRule
from tests.text.reference import Reference, characters, limited


@pytest.fixture(scope="module")
def automaton() -> word_rule.ClassAutomaton:
    return word_rule.automaton(*word_rule.RULES["words"], unicode_classes.load().classes)


@pytest.fixture(scope="module")
def representatives(automaton) -> np.ndarray:
    """One of the 33 classes for each of the merged ones."""
    _, first = np.unique(automaton.merged, return_index=True)
    return first


def access_strings(automaton) -> list[list[int]]:
    """A shortest string of merged classes to every state."""
    found: dict[int, list[int]] = {0: []}
    for state in range(len(automaton.next_state)):  # states are numbered breadth first
        for character, reached in enumerate(automaton.next_state[state].tolist()):
            found.setdefault(reached, found[state] + [character])
    return [found[state] for state in range(len(automaton.next_state))]


def test_sizes(automaton):
    assert automaton.next_state.shape == (35, 30)
    assert automaton.starts[0].all()  # the first character starts a word


def test_every_state_and_every_suffix_of_up_to_three_classes(automaton, reference, representatives):
    checked = 0
    for state, access in enumerate(access_strings(automaton)):
        for length in (1, 2, 3):
            suffixes = np.array(list(itertools.product(range(30), repeat=length)))
            at = np.full(len(suffixes), state)
            for position in range(length):
                starts = automaton.starts[at, suffixes[:, position]]
                at = automaton.next_state[at, suffixes[:, position]]
            prefix = np.tile(np.array(access, int), (len(suffixes), 1))
            strings = representatives[np.concatenate([prefix, suffixes], axis=1)]
            np.testing.assert_array_equal(starts, reference.last_starts(strings))
            checked += len(suffixes)
    assert checked == 977_550


def test_merged_classes_are_alike_for_the_reference(automaton, reference, representatives):
    """The 33 classes behind the 30, after every state and before every class."""
    contexts = [
        (access, suffix)
        for access in access_strings(automaton)
        for suffix in [(), *itertools.product(range(30), repeat=1)]
    ]
    for raw, merged in enumerate(automaton.merged):
        for length in range(5):
            same = [c for c in contexts if len(c[0]) + len(c[1]) == length]
            if same and raw != representatives[merged]:
                before = [[*representatives[a], raw, *representatives[list(s)]] for a, s in same]
                after = [
                    [*representatives[a], representatives[merged], *representatives[list(s)]]
                    for a, s in same
                ]
                np.testing.assert_array_equal(
                    reference.last_starts(np.array(before, int)),
                    reference.last_starts(np.array(after, int)),
                )


def separating_contexts(automaton) -> list[tuple[list[int], list[int]]]:
    """Few contexts (classes before, classes after) whose starts tell all classes apart."""
    num_classes = automaton.starts.shape[1]
    apart = np.eye(num_classes, dtype=bool)
    contexts = []
    after = [[], *([c] for c in range(num_classes)),
             *map(list, itertools.product(range(num_classes), repeat=2))]
    candidates = []
    for state, access in enumerate(access_strings(automaton)):
        for suffix in after:
            at = automaton.next_state[state]
            seen = [automaton.starts[state]]
            for character in suffix:
                seen.append(automaton.starts[at, character])
                at = automaton.next_state[at, character]
            seen = np.array(seen).T
            candidates.append(((access, suffix), (seen[:, None] != seen[None]).any(-1)))
    while not apart.all():
        gains = [(separates & ~apart).sum() for _, separates in candidates]
        context, separates = candidates[int(np.argmax(gains))]
        assert max(gains) > 0
        contexts.append(context)
        apart |= separates
    return contexts


def test_every_code_point_in_separating_contexts(automaton, unicode_data):
    """All 1,112,064 code points through the compiled loop, the reference over properties that
    were looked up afresh. A vertical tab, which nothing joins, stands between the cases."""
    reference = Reference(unicode_data.classes)
    class_of = np.repeat(unicode_data.run_classes, unicode_data.run_lengths)
    points_by_length = [
        np.arange(0, 0x80),
        np.arange(0x80, 0x800),
        np.r_[0x800:0xD800, 0xE000:0x10000],
        np.arange(0x10000, 0x110000),
    ]
    assert sum(map(len, points_by_length)) == 1_112_064
    example = {}  # merged class -> code point, by the fresh data
    merged = word_rule.automaton(*word_rule.RULES["words"], unicode_data.classes).merged
    for number in range(len(unicode_data.classes)):
        example.setdefault(int(merged[number]), int(np.argmax(class_of == number)))
    contexts = separating_contexts(automaton)
    splitter = WordRule()
    for before, after in contexts:
        before, after = [example[c] for c in before], [example[c] for c in after]
        width = len(before) + 1 + len(after)
        strings = np.empty((len(unicode_data.classes), width), int)
        strings[:, : len(before)] = class_of[before]
        strings[:, len(before)] = np.arange(len(unicode_data.classes))
        strings[:, len(before) + 1 :] = class_of[after]
        expected = np.stack(
            [reference.last_starts(strings[:, : i + 1]) for i in range(width)], axis=1
        )
        head = np.frombuffer("".join(map(chr, before)).encode(), np.uint8)
        tail = np.frombuffer(("".join(map(chr, after)) + "\v").encode(), np.uint8)
        head_at = np.cumsum([0, *(len(chr(c).encode()) for c in before)])[:-1]
        tail_at = np.cumsum([0, *(len(chr(c).encode()) for c in after)])[:-1]
        for length, points in enumerate(points_by_length, start=1):
            middle = np.frombuffer("".join(map(chr, points)).encode(), np.uint8)
            rows = np.concatenate(
                [
                    np.broadcast_to(head, (len(points), len(head))),
                    middle.reshape(-1, length),
                    np.broadcast_to(tail, (len(points), len(tail))),
                ],
                axis=1,
            )
            starts = splitter.split(rows.reshape(-1)).starts.reshape(rows.shape)
            at = np.concatenate([head_at, [len(head)], len(head) + length + tail_at]).astype(int)
            assert (starts[:, at] == expected[class_of[points]]).all()
            assert starts.sum() == expected[class_of[points]].sum() + len(points)


def test_the_reference_has_the_word_bounds_of_uax29(reference, class_of):
    """...as uniseg has them, on random strings over all classes. Without the two deviations."""
    example = np.array([int(np.argmax(class_of == c)) for c in range(33)])
    random = np.random.default_rng(1)
    strings = random.integers(0, 33, (3000, 7))
    breaks = reference.segment_breaks(strings, uax29=True)
    for string, expected in zip(strings, breaks, strict=True):
        text = "".join(map(chr, example[string]))
        assert list(word_breakables(text)) == expected.astype(int).tolist(), ascii(text)


def test_differences_from_the_published_rule_are_extra_starts_of_three_kinds(reference, class_of):
    """On random strings rich in the characters that matter, and every difference is one start too
    many, at U+2044 after a digit, or at white space after one space."""
    alphabet = "1a⁄ \t\u00a0\u202f\u0301\u00ad\u200d_🙂ℹ.,'\n"
    letters = np.array([class_of[ord(c)] for c in alphabet])
    random = np.random.default_rng(2)
    indices = random.integers(0, len(alphabet), (40_000, 7))
    strings = letters[indices]
    published = reference.published_starts(strings)
    causal = np.stack([reference.last_starts(strings[:, : i + 1]) for i in range(7)], axis=1)
    assert not (published & ~causal).any()
    rows, columns = np.nonzero(causal & ~published)
    assert len(rows) > 100
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        text = "".join(alphabet[i] for i in indices[row])
        before, this, after = text[:column], text[column], text[column + 1 :]
        ignored = "\u0301\u00ad\u200d"
        if this == "⁄":
            assert before.rstrip(ignored)[-1] == "1"
            rest = after.lstrip(ignored)
            joiner = after[: len(after) - len(rest)].endswith("\u200d")
            assert rest[0] == "1" or (joiner and rest[0] in "🙂ℹ")
        elif this == "\u202f":
            assert before.endswith(" ") and not before.endswith("  ")
            assert after.lstrip("\u202f")[0] in "1a_ℹ" + ignored
        else:
            assert this in "\t\u00a0" and after[0] in ignored
            assert before.endswith(" ") and not before.endswith("  ")


def test_corrupted_utf8_over_the_classes(reference, class_of):
    """Bytes of valid text, some overwritten: the loop against decoding and the reference."""
    text = "don't 你好 👨\u200d👩 हिन्दी x⁄1 \u202fé\r\n🇩🇪 ٫1_ア" * 3
    random = np.random.default_rng(3)
    clean = np.frombuffer(text.encode(), np.uint8)
    for _ in range(60):
        data = clean.copy()
        where = random.integers(0, len(data), 12)
        data[where] = random.integers(0, 256, 12)
        decoded = characters(data.tobytes())
        rule = reference.causal_starts([class_of[c] for c, _ in decoded])
        expected = limited([length for _, length in decoded], rule, 100)
        assert np.flatnonzero(WordRule().split(data).starts).tolist() == expected
