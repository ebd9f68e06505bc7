"""The HAT paper's perturbations, and the released editor's published vectors."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given

from hat.errors import UserError
from hat.evaluation.perturbations import find_words, perturb
from hat.evaluation.perturbations.eval_framework import EvalFrameworkEditor
from tests.evaluation.texts import ALL, rates, texts

FOX = "The quick brown fox."


@pytest.mark.parametrize("kind, protected, first, second", [
    ("permute", "quick", "Teh quick bwrno fxo.", "The quikc brown fox."),
    ("replace", "the", "The qw%,k bWl.n ffx.", "T,e quick brown fox."),
    ("delete", "fox", "Te qk bn fox.", "The qick brown fox."),
    ("uppercase", "fox", "THE QUICK BROWN FOX.", "THE QUICK BROWN FOX."),
])
def test_golden_vectors_of_eval_framework(kind, protected, first, second):
    """Of the test that the authors published: two prompts, one after the other, from seed 42."""
    editor = EvalFrameworkEditor(kind)
    assert editor.edit(FOX, 1.0, [protected]) == first
    assert editor.edit(FOX, 0.2) == second


def test_an_unknown_editor():
    with pytest.raises(UserError, match="no editor 'swap'; choose from permute, replace, delete"):
        EvalFrameworkEditor("swap")


def eligible(text: str) -> list[int]:
    return [i for i in range(1, len(text) - 1)
            if text[i - 1].isalnum() and text[i].isalnum() and text[i + 1].isalnum()]


def character_edits(text: str, name: str, rate: float, **options) -> list[tuple[int, int, str]]:
    result = perturb(text.encode(), name, rate, 1, "x", **options)
    return [(len(result.source[:start].decode()), len(result.source[:end].decode()), new.decode())
            for start, end, new in result.edits]


@given(texts, rates)
def test_exactly_the_share_of_the_eligible_is_deleted(text, rate):
    edits = character_edits(text, "hat-delete", rate)
    assert len(edits) == int(len(eligible(text)) * rate)
    assert all(end == start + 1 and new == "" and start in eligible(text)
               for start, end, new in edits)


@given(texts, rates)
def test_replacements_are_printable_ascii(text, rate):
    edits = character_edits(text, "hat-replace", rate)
    assert len(edits) <= int(len(eligible(text)) * rate)  # one may draw what stands there
    assert all(33 <= ord(new) <= 126 and start in eligible(text) for start, _, new in edits)


@given(texts, rates)
def test_permutations_swap_with_the_next(text, rate):
    edits = character_edits(text, "hat-permute", rate)
    assert len(edits) <= int(len(eligible(text)) * rate)
    assert all(new == text[start:end][::-1] and len(new) == 2 and start in eligible(text)
               for start, end, new in edits)


def test_the_count_is_met_as_far_as_swaps_do_not_overlap():
    text = "abcdefghij " * 20  # 8 eligible a word, of which at most 4 swap
    assert len(character_edits(text, "hat-permute", 0.25)) == 40
    assert 40 < len(character_edits(text, "hat-permute", 1.0)) <= 80


def test_protected_words_leave_the_count_too():
    spans = find_words(FOX.encode(), ["quick", "brown"])
    assert character_edits(FOX, "hat-delete", 1.0, protect=spans) == [(1, 2, ""), (17, 18, "")]


@pytest.mark.parametrize("rate", [0.01, 1.0])
def test_uppercase_is_whole_at_any_rate(rate):
    assert perturb(ALL.encode(), "hat-uppercase", rate, 0, "x").text.decode() == ALL.upper()


def test_severity_is_that_of_the_released_editor():
    """Both editors delete the same number of characters, as all is decided by the count."""
    prose = " ".join(random.Random(0).sample(ALL.split(), 60))
    released = EvalFrameworkEditor("delete").edit(prose, 0.1)
    ours = perturb(prose.encode(), "hat-delete", 0.1, 0, "x").text.decode()
    assert len(released) == len(ours) == len(prose) - int(len(eligible(prose)) * 0.1)


@given(texts, rates)
def test_the_editor_makes_its_kinds_of_edits(text, rate):
    edits = character_edits(text, "hat-editor", rate)
    inner = sum(len(word) - 1 for word in text.split())
    assert len(edits) <= int(inner * rate)  # pairs may overlap, and a caseless letter stays
    for start, end, new in edits:
        one, two = text[start:end]
        is_long = len(next(w for w in _words_around(text) if w[0] <= start < w[1])[2]) > 4
        assert new in (one.swapcase() + two, two + one, f"{one} {two}") or \
            new[1:] == one + two and new[0] in "abcdefghijklmnopqrstuvwxyz" or \
            new == two and is_long  # fmt: skip


def _words_around(text: str):
    return [(m.start(), m.end(), m.group()) for m in re.finditer(r"\S+", text)]


def test_the_editor_draws_every_kind_as_often():
    """Of words of six letters: case twice as often as each of the four others, which are told
    apart by what they leave. Within four standard deviations of 4,000 draws; the numbers are fixed.
    """
    text = "abcdef " * 800
    counts = {"insert": 0, "case": 0, "swap": 0, "split": 0, "delete": 0}
    for start, end, new in character_edits(text, "hat-editor", 1.0):
        one, two = text[start:end]
        kind = {one.swapcase() + two: "case", two + one: "swap", f"{one} {two}": "split",
                two: "delete"}.get(new, "insert")  # fmt: skip
        counts[kind] += 1
    total = sum(counts.values())
    for kind, count in counts.items():
        share = (2 if kind == "case" else 1) / 6
        assert abs(count / total - share) < 4 * (share * (1 - share) / total) ** 0.5, counts
