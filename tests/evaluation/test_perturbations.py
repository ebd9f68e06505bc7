"""What every perturbation of the registry must hold, on texts in many languages."""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.errors import UserError
from hat.evaluation.perturbations import REGISTRY, find_words, perturb
from hat.evaluation.perturbations.misspellings import misspell
from tests.evaluation.texts import ALL, LANGUAGES, rates, texts

GOLDEN = Path(__file__).with_name("golden_perturbations.txt")
MISSPELLING = misspell({"child": ("chlid", "cild"), "the": ("teh",), "weiß": ("weis",)})
KNOWN = [*REGISTRY.values(), MISSPELLING]
every = pytest.mark.parametrize("perturbation", KNOWN, ids=lambda p: p.name)
quick = settings(max_examples=25)


@every
@quick
@given(texts)
def test_rate_0_is_identity(perturbation, text):
    result = perturb(text.encode(), perturbation, 0.0, seed=1, item_id="x")
    assert result.text == text.encode() and result.edits == () and result.edit_rate == 0


@every
@quick
@given(texts, rates, rates, st.integers(0, 9))
def test_edits_are_nested(perturbation, text, rate, other, seed):
    low, high = sorted((rate, other))
    few = perturb(text.encode(), perturbation, low, seed, "x")
    many = perturb(text.encode(), perturbation, high, seed, "x")
    assert set(few.edits) <= set(many.edits)
    assert few == perturb(text.encode(), perturbation, low, seed, "x")


@every
@quick
@given(texts, rates)
def test_edits_are_changes_in_order_and_apart(perturbation, text, rate):
    result = perturb(text.encode(), perturbation, rate, 3, "x")
    end = 0
    for edit in result.edits:
        assert end <= edit.start <= edit.end <= len(result.source)
        assert result.source[edit.start : edit.end] != edit.replacement
        end = edit.end


@every
@quick
@given(texts, rates, st.data())
def test_protected_bytes_stay(perturbation, text, rate, data):
    source = text.encode()
    cuts = st.integers(0, len(source))
    spans = [tuple(sorted(pair)) for pair in data.draw(st.lists(st.tuples(cuts, cuts), max_size=3))]
    result = perturb(source, perturbation, rate, 3, "x", protect=spans)
    for start, end in spans:
        if start < end:
            a, b = result.locate(start, end)
            assert result.text[a:b] == source[start:end]
    assert perturb(source, perturbation, rate, 3, "x", protect=[(0, len(source))]).text.endswith(source)


@every
@quick
@given(texts, rates)
def test_valid_utf8_stays_valid(perturbation, text, rate):
    result = perturb(text.encode(), perturbation, rate, 3, "x")
    if perturbation.valid_utf8:
        result.text.decode()


@pytest.mark.parametrize("perturbation", [p for p in KNOWN if p.keeps_words], ids=lambda p: p.name)
@settings(max_examples=60)
@given(texts, rates)
def test_words_are_kept(perturbation, text, rate):
    result = perturb(text.encode(), perturbation, rate, 3, "x")
    assert len(result.text.decode().split()) == len(text.split())


def test_the_flags_say_what_happens():
    """What a perturbation is said to break, it does break on some text."""
    odd = (ALL + " a´b \u2003x\u00a0y \u0958").encode()
    for p in KNOWN:
        outcomes = [perturb(odd, p, rate, seed, "x").text for rate in (0.3, 1.0)
                    for seed in range(3)]
        assert any(text != odd for text in outcomes), p.name
        if not p.valid_utf8:
            assert any(broken(text) for text in outcomes), p.name
        elif not p.keeps_words and p.name != "byte-order-mark":  # only where white space opens
            count = len(odd.decode().split())
            assert any(len(text.decode().split()) != count for text in outcomes), p.name


def broken(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return True
    return False


def test_families_of_bytes_take_any_bytes():
    data = bytes(random.Random(0).choices(range(256), k=500))
    for p in KNOWN:
        if p.valid_utf8:
            with pytest.raises(UserError, match="^item x: byte [0-9]+ is no UTF-8, and "):
                perturb(data, p, 0.2, 0, "x")
        else:
            assert len(perturb(data, p, 1.0, 0, "x").source) == 500


@pytest.mark.parametrize("name", ["drop", "keyboard", "repeat-byt5", "double-spaces", "bit-flip"])
def test_the_share_of_units_is_the_rate(name):
    text = ("many words and more of them all " * 700).encode()  # thousands of units
    units = len(perturb(text, name, 1.0, 0, "x").edits)
    for rate in (0.05, 0.5):
        share = len(perturb(text, name, rate, 0, "x").edits) / units
        # Four standard deviations of a binomial share; the numbers are fixed.
        assert abs(share - rate) < 4 * (rate * (1 - rate) / units) ** 0.5


def work(perturbation: str, item: tuple[str, bytes]) -> bytes:
    return perturb(item[1], perturbation, 0.3, 11, item[0]).text


@pytest.mark.parametrize("name", ["hat-permute", "ocr", "repeat-blt", "bit-flip"])
def test_order_and_workers_change_nothing(name):
    items = [(f"{language}-{i}", text.encode()) for language, text in LANGUAGES.items()
             for i in range(3)]
    expected = dict(zip(items, map(functools.partial(work, name), items)))
    assert len(set(expected.values())) > len(LANGUAGES)  # the id matters
    shuffled = random.Random(1).sample(items, len(items))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert dict(zip(shuffled, pool.map(functools.partial(work, name), shuffled))) == expected


def test_other_processes_change_nothing():
    items = [(language, text.encode()) for language, text in LANGUAGES.items()]
    jobs = functools.partial(perturb, name="swap-letters", rate=0.4, seed=2, item_id="x")
    sources = [text for _, text in items]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.map(jobs, sources[::-1])
    assert [r.text for r in results][::-1] == [jobs(source).text for source in sources]


def test_seed_item_and_name_each_change_the_numbers():
    text = ALL.encode()
    base = perturb(text, "drop", 0.1, 0, "x").text
    assert perturb(text, "drop", 0.1, 1, "x").text != base
    assert perturb(text, "drop", 0.1, 0, "y").text != base
    assert perturb(text, "drop", 0.1, 0, 0).text != perturb(text, "drop", 0.1, 0, "0").text
    drops = {edit.start for edit in perturb(text, "drop", 0.1, 0, "x").edits}
    repeats = {edit.start for edit in perturb(text, "repeat-byt5", 0.1, 0, "x").edits}
    assert drops != repeats


def test_words_are_found_in_bytes():
    text = "Ö Question: question? Questions \u0130 A".encode() + b"\xff A"
    found = [text[a:b] for a, b in find_words(text, ["question", "a", "Ö"])]
    assert found == [b"Question", b"question", b"A", b"A", "Ö".encode()]
    assert find_words(text, []) == []


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_rate_is_a_share(rate):
    with pytest.raises(UserError, match="^rate .* is no share; give a number from 0 to 1$"):
        perturb(b"text", "drop", rate, 0, "x")


@pytest.mark.parametrize("name, message", [
    ("keybord", "no perturbation 'keybord'; did you mean keyboard?"),
    ("mispelling", "did you mean misspelling?"),
    ("xyzzy", r"no perturbation 'xyzzy'; \(hat perturb --list"),
    ("misspelling", "misspelling needs a list of misspellings; give one with --misspellings"),
])
def test_an_unknown_name(name, message):
    with pytest.raises(UserError, match=message):
        perturb(b"text", name, 0.1, 0, "x")


def test_a_span_outside_the_text_is_a_bug():
    with pytest.raises(ValueError, match="lies outside 4 bytes"):
        perturb(b"text", "drop", 0.1, 0, "x", protect=[(2, 5)])


def test_golden_texts():
    """The numbers of a published report can be had again. HAT_UPDATE_GOLDEN=1 writes the file."""
    sample = "The old child doesn't read: Größe 12, été! Кошка ждёт.\nनमस्ते 木の下"
    lines = []
    for p in KNOWN:
        result = perturb(sample.encode(), p, 0.3, seed=42, item_id="golden")
        lines.append(f"{p.name}\t{result.text.decode('utf-8', 'backslashreplace')!a}")
    text = "\n".join(lines) + "\n"
    if os.environ.get("HAT_UPDATE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert GOLDEN.read_text(encoding="utf-8") == text
