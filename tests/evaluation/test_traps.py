from __future__ import annotations

import itertools

import pytest

from hat.evaluation.perturbations.traps import Trap, crosses, find_traps
from hat.text.tokenizers import ByteTokenizer, train_bpe

WORDS = "moves move table stable stables able the there rein herein in no nowhere now here where".split()


def brute_force(words: list[str], min_letters: int) -> set[Trap]:
    long = sorted({word for word in words if len(word) >= min_letters})
    pairs = list(itertools.product(long, repeat=2))
    return {Trap(a, b) for a, b in itertools.product(pairs, repeat=2)
            if "".join(a) == "".join(b) and len(a[0]) > len(b[0])}


@pytest.mark.parametrize("min_letters", [2, 3])
def test_all_traps_are_found_and_nothing_else(min_letters):
    found = find_traps(WORDS, 1000, min_letters=min_letters)
    assert len(found) == len(set(found))
    assert set(found) == brute_force(WORDS, min_letters)
    assert Trap(("moves", "table"), ("move", "stable")) in found


def test_a_few_are_drawn_the_same_way_every_time():
    some = find_traps(reversed(WORDS), 4, seed=3, min_letters=2)
    assert some == find_traps(WORDS, 4, seed=3, min_letters=2) and len(some) == 4
    assert some != find_traps(WORDS, 4, seed=4, min_letters=2)
    stems = [f"{a}{b}at" for a in "bcdfghklmnpqrstvw" for b in "aeiou"]
    many = [*stems, *(f"{stem}s" for stem in stems), *(f"s{stem}" for stem in stems)]
    drawn = find_traps(many, 50)  # of 85 * 85 pairs that share one letter
    assert len(set(drawn)) == 50 and all(trap.joined == "".join(trap.second) for trap in drawn)


def test_no_words_no_traps():
    assert find_traps([], 5) == [] and find_traps(["moves", "table"], 5) == []


def test_a_token_across_the_boundary():
    tokenizer = train_bpe([b"move stable stable stable moves " * 50], 264)
    spelled = [tokenizer.token_bytes(i) for i in tokenizer.encode(b"movestable")]
    ends = set(itertools.accumulate(map(len, spelled)))
    for cut in range(1, 10):
        assert crosses(tokenizer, "movestable"[:cut], "movestable"[cut:]) == (cut not in ends)
    assert crosses(tokenizer, "moves", "table") != crosses(tokenizer, "move", "stable")
    assert not crosses(ByteTokenizer(), "mové", "stable")
