"""What each family does, by examples and against the standard library."""

from __future__ import annotations

import itertools
import unicodedata

import pytest
from hypothesis import given
from uniseg.graphemecluster import grapheme_clusters

from hat.errors import UserError
from hat.evaluation.perturbations import REGISTRY, perturb
from hat.evaluation.perturbations.core import Text
from hat.evaluation.perturbations.graphemes import clusters
from hat.evaluation.perturbations.keyboard import LAYOUTS, neighbours
from hat.evaluation.perturbations.lookalikes import HOMOGLYPHS, SCANS
from hat.evaluation.perturbations.misspellings import misspell, read_misspellings
from tests.evaluation.texts import ALL, LANGUAGES, multilingual, texts


def full(text: str, name: str, **options) -> str:
    """`text` with every unit edited."""
    return perturb(text.encode(), name, 1.0, 0, "x", **options).text.decode()


# --- ByT5 and BLT -------------------------------------------------------------------------------


def test_antspeak_as_byt5_and_blt_write_it():
    assert full("abc", "antspeak-byt5") == " A  B  C "
    assert full("abc", "antspeak-blt") == "A B C"
    assert full("a b", "antspeak-blt") == "A   B"


@given(texts)
def test_drop_and_uppercase_at_rate_1(text):
    assert full(text, "drop") == ""
    assert full(text, "uppercase") == "".join(word.upper() for word in text)


@pytest.mark.parametrize("name, most", [("repeat-byt5", 3), ("repeat-blt", 4)])
def test_repeats_append_copies(name, most):
    alphabet = "".join(map(chr, range(0x4E00, 0x4E00 + 400)))
    result = full(alphabet, name)
    copies = [result.count(character) - 1 for character in alphabet]
    assert set(copies) == set(range(1, most + 1))
    assert result == "".join(c * (1 + n) for c, n in zip(alphabet, copies))


@given(multilingual)
def test_random_case_changes_nothing_but_case(text):
    changed = full(text, "random-case")
    assert changed.casefold() == text.casefold() or changed.upper() == text.upper()


def test_random_case_is_a_coin():
    upper = sum(map(str.isupper, full("aB" * 2000, "random-case")))
    assert abs(upper - 2000) < 4 * 1000**0.5  # four standard deviations; the numbers are fixed


# --- typing -------------------------------------------------------------------------------------


def test_neighbours_on_the_keyboard():
    table = neighbours("qwerty")
    assert set(table["g"]) == set("tyfhvb")
    assert set(table["G"]) == set("TYFHVB")
    assert set(table["a"]) == set("qwsz")
    assert set(table["1"]) == set("2q")
    assert set(table["а"]) == set("кевпсм")  # Cyrillic a, on the ЙЦУКЕН layout
    assert set(neighbours("qwertz")["z"]) == set("67tugh")
    assert set(neighbours("azerty")["q"]) == set("azsw")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_touching_is_mutual(layout):
    table = neighbours(layout)
    assert all(key in table[other] for key, near in table.items() for other in near
               if other in table and key.islower())


def test_a_slip_hits_a_neighbour_and_leaves_what_has_no_key():
    text = "Das größte Haus… дом 木"
    slipped = full(text, "keyboard-qwertz")
    for before, after in zip(text, slipped, strict=True):
        near = neighbours("qwertz").get(before)
        assert after in near if near else after == before


def test_swaps_and_omissions_stay_in_the_word():
    assert full("ab c", "swap-letters") == "ba c"
    assert full("ab c d2", "omit-letter") == "b c d2"


# --- lookalikes ---------------------------------------------------------------------------------


def test_scans_take_strings_for_others():
    assert full("o", "ocr") in SCANS["o"]
    # "cl" and the "l" in it overlap: one of the two is taken, by its priority.
    found = {perturb(b"cl", "ocr", 1.0, seed, "x").text.decode() for seed in range(50)}
    assert found == {"d", *("c" + other for other in SCANS["l"])}
    assert set(SCANS["m"]) == {"rn", "nn"}


@given(multilingual)
def test_homoglyphs_go_back(text):
    changed = full(text, "homoglyph")
    assert len(changed) == len(text)
    assert all(after in HOMOGLYPHS[before] if before in HOMOGLYPHS else after == before
               for before, after in zip(text, changed))


def test_homoglyphs_change_the_script():
    for letter, others in HOMOGLYPHS.items():
        scripts = {unicodedata.name(c).split()[0] for c in (letter, *others)}
        assert len(scripts) == 1 + len(others), letter


def test_leetspeak():
    assert set(full("elite", "leetspeak")) <= set("3|1!+7")


def test_diacritics_go_and_what_makes_another_letter_stays():
    assert full("Größe naïve e\u0301\u0323te İstanbul", "strip-diacritics") == "Große naive ete Istanbul"
    assert full("הַיֶּלֶד", "strip-diacritics") == "הילד"
    assert full("الطِّفلُ", "strip-diacritics") == "الطفل"
    for kept in (LANGUAGES["ben"], "क़िताब", "ガラス", LANGUAGES["kor"]):
        stripped = unicodedata.normalize("NFC", full(kept, "strip-diacritics"))
        assert stripped == unicodedata.normalize("NFC", kept)
    assert full("\u0301 \u0301a", "strip-diacritics") == "\u0301 \u0301a"  # on nothing, on a space


@given(multilingual)
def test_added_diacritics_come_off_again(text):
    plain = full(text, "strip-diacritics")
    assert full(full(plain, "add-diacritics"), "strip-diacritics") == full(plain, "strip-diacritics")


# --- words --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, text, expected", [
    ("lowercase", "One TWO Ünd", "one two ünd"),
    ("capitalize", "one tWO", "One Two"),
    ("swap-case", "One tWO", "oNE Two"),
    ("alternate-case", "one two", "oNe tWo"),
    ("repeat-words", "one  two", "one one  two two"),
    ("merge-words", " one  two\nthree ", " onetwothree "),
    ("double-spaces", "a b\nc", "a  b\nc"),
    ("break-lines", "a b\nc", "a\nb\nc"),
    ("space-out", "abc né", "a b c n é"),
    ("strikethrough", "ab c", "a\u0336b\u0336 c\u0336"),
    ("zero-width", "ab", "a\u200bb\u200b"),
    ("split-words", "ab a cd", "a b a c d"),
    ("crlf", "a\nb\r\n", "a\r\nb\r\n"),
    ("byte-order-mark", "a", "\ufeffa"),
    ("nul", "ab", "\0a\0b"),
    ("mojibake", "é…a", "Ã©â\x80¦a"),
])
def test_words_at_rate_1(name, text, expected):
    assert full(text, name) == expected


def test_elongated_words_gain_two_to_four_of_a_letter():
    gained = {len(full(word, "elongate")) - 5 for word in ("apple", "house", "bread", "chair",
                                                           "table", "water", "queen", "xylem")}
    assert gained <= {2, 3, 4}
    assert full("12 !", "elongate") == "12 !"


def test_repeated_punctuation():
    changed = full("Ha! Why? 1.5", "repeat-punctuation")
    assert changed.replace("!!", "!") != changed
    assert all(2 <= changed.count(mark) <= 5 for mark in "!?.")


# --- graphemes ----------------------------------------------------------------------------------


def cluster_list(text: str) -> list[str]:
    starts, ends = clusters(Text(text))
    return [text[a:b] for a, b in zip(starts, ends)]


@pytest.mark.parametrize("language", [*LANGUAGES])
def test_clusters_are_those_of_the_standard(language):
    found, standard = (set(itertools.accumulate(map(len, parts))) for parts in
                       (cluster_list(LANGUAGES[language]), grapheme_clusters(LANGUAGES[language])))
    if language == "hin":  # conjuncts are one there
        assert found > standard
    elif language == "mya":  # the visarga stands alone there
        assert found < standard
    else:
        assert found == standard


def test_marks_stay_with_their_letters():
    assert full("कि", "drop-grapheme") == ""
    assert full("किता", "swap-graphemes") == "ताकि"
    for text in LANGUAGES.values():
        assert sorted(cluster_list(full(text, "swap-graphemes"))) == sorted(cluster_list(text))


# --- styling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in REGISTRY if n.startswith("style-")])
def test_styles_are_compatibility_forms_of_the_letters(name):
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    styled = full(letters + "0123456789", name)
    assert unicodedata.normalize("NFKC", styled) == letters + "0123456789"
    assert not set(styled) & set(letters)
    assert len(set(styled)) == 62
    assert all(unicodedata.name(c) for c in styled)


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
@given(text=texts)
def test_normal_forms_are_those_of_the_whole_text(form, text):
    assert full(text, form.lower()) == unicodedata.normalize(form, text)


# --- bytes --------------------------------------------------------------------------------------


def damaged(text: bytes, name: str) -> bytes:
    return perturb(text, name, 1.0, 0, "x").text


def test_every_byte_is_damaged():
    data = bytes(range(256)) * 3
    flipped, replaced = damaged(data, "bit-flip"), damaged(data, "replace-byte")
    assert all((a ^ b).bit_count() == 1 for a, b in zip(data, flipped, strict=True))
    assert all(a != b for a, b in zip(data, replaced, strict=True))
    assert damaged(data, "drop-byte") == b""
    inserted = damaged(data, "insert-byte")
    assert inserted[1::2] == data and len(set(inserted[::2])) > 200


def test_characters_lose_their_last_bytes():
    text = "aé木👍" * 20
    cut = damaged(text.encode(), "truncate-character")
    assert cut.decode("utf-8", "ignore") == "a" * 20
    starts = [c.encode()[:1] for c in text]
    assert b"".join(byte for byte in starts) == bytes(b for b in cut if b >> 6 != 0b10)
    assert damaged(b"\xe6\x9c \x80\xff\xc3", "truncate-character") == b"\xe6\x9c \x80\xff\xc3"


def test_encodings_go_wrong():
    assert damaged("né木".encode(), "latin1-bytes") == "né".encode("latin-1") + "木".encode()
    assert damaged(b"A/\xff", "overlong") == b"\xc1\x81\xc0\xaf\xff"
    with pytest.raises(UnicodeDecodeError):
        damaged(b"A", "overlong").decode()
    assert full(ALL, "mojibake").encode("latin-1") == ALL.encode()


# --- misspellings -------------------------------------------------------------------------------


def test_misspellings_of_three_kinds(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("recieve->receive\naache->cache, ache,\nclas->class, disabled because\n"
                    "alot->a lot\nthw\tthe\n\nchild chlid cild\n", encoding="utf-8")
    assert read_misspellings(path) == {
        "receive": ("recieve",), "cache": ("aache",), "ache": ("aache",), "class": ("clas",),
        "the": ("thw",), "child": ("chlid", "cild"),
    }


def test_misspelled_words_keep_their_capitals():
    perturbation = misspell({"receive": ("recieve",), "it's": ("its",), "Paris": ("Pariss",)})
    text = "Receive RECEIVE receives it's Paris; re-receive."
    expected = "Recieve RECIEVE receives its Pariss; re-recieve."
    assert perturb(text.encode(), perturbation, 1.0, 0, "x").text.decode() == expected


@pytest.mark.parametrize("content, message", [
    (None, "cannot read the misspellings .*list.txt: No such file"),
    (b"\xff->a", "list.txt are not UTF-8"),
    (b"alone\n", "list.txt:1: no misspelling in 'alone'; write it as 'wrong->right'"),
    (b"a lot\talot\n", "holds no misspelling; give lines such as"),
])
def test_a_bad_list(tmp_path, content, message):
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_misspellings(path)
