"""Packed rows: every byte once, in order, under both caps, and the arrays of the contract."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.errors import UserError
from hat.text import rows
from hat.text.ids import BOS, EOT, PAD
from hat.text.splitters import Split

SPECIALS = rows.Specials(BOS, EOT, PAD)


def space_split(data: np.ndarray, longest: int = 8) -> Split:
    """A word ends with its space, known at once, or before byte `longest`, known one byte later:
    the two ways in which a rule can learn of the end of a word."""
    starts = np.zeros(len(data), bool)
    known = np.zeros(len(data), np.int32)
    begun, size, closed = 0, 0, True
    for t, byte in enumerate(data):
        if closed or size == longest:
            starts[t], begun, size = True, begun + 1, 0
        size += 1
        closed = byte == ord(" ")
        known[t] = begun if closed else begun - 1
    return Split(starts, known)


def pack(documents: list[bytes], length: int, words: int | None) -> list[rows.Row]:
    packer = rows.Packer(length, words, SPECIALS)
    packed = []
    for document in documents:
        data = np.frombuffer(document, np.uint8)
        if words is None:
            packed += packer.add(rows.Units(data.astype(np.int32)))
        else:
            packed += packer.add(rows.word_units(data, space_split(data)))
    return packed + packer.finish()


def pieces(packed: list[rows.Row]) -> list[bytes]:
    """The ids of every segment, checked: BOS first and only there, EOT at most once and last."""
    found = []
    for row in packed:
        assert row.lengths.sum() == len(row.ids)
        for ids in np.split(row.ids, np.cumsum(row.lengths)[:-1]):
            assert ids[0] == BOS and not (ids[1:] == BOS).any()
            assert not (ids[:-1] == EOT).any()
            found.append(ids[1:].tolist())
    return found


def reassembles(documents: list[bytes], found: list[list[int]]) -> bool:
    """Whether the pieces are exactly the documents, cut: consumed by depth-first search, since
    equal beginnings leave open which piece belongs to which document."""
    wanted = [list(d) + [EOT] for d in documents]
    pool: dict[tuple[int, ...], int] = {}
    for piece in found:
        pool[tuple(piece)] = pool.get(tuple(piece), 0) + 1

    def consume(number: int, offset: int) -> bool:
        if number == len(wanted):
            return not any(pool.values())
        if offset == len(wanted[number]):
            return consume(number + 1, 0)
        for piece, count in pool.items():
            if count and piece and tuple(wanted[number][offset : offset + len(piece)]) == piece:
                pool[piece] -= 1
                if consume(number, offset + len(piece)):
                    return True
                pool[piece] += 1
        return False

    return consume(0, 0)


documents_strategy = st.lists(
    st.lists(st.sampled_from(b"ab  \xff"), max_size=50).map(bytes), max_size=6
)


@settings(max_examples=300, deadline=None)
@given(documents=documents_strategy, length=st.integers(10, 40), words=st.integers(3, 20))
def test_every_byte_once_under_both_caps(documents, length, words):
    packed = pack(documents, length, words)
    for row in packed:
        assert len(row.ids) <= length
        assert row.starts.sum() <= words
    assert reassembles(documents, pieces(packed))


@settings(max_examples=100, deadline=None)
@given(documents=documents_strategy, length=st.integers(3, 40))
def test_rows_of_tokens(documents, length):
    packed = pack(documents, length, None)
    assert all(len(row.ids) <= length and row.starts is None for row in packed)
    assert reassembles(documents, pieces(packed))


@settings(max_examples=300, deadline=None)
@given(documents=documents_strategy, length=st.integers(10, 40), words=st.integers(3, 20))
def test_cuts_are_word_starts_and_marks_follow_the_split(documents, length, words):
    """Marks against a search of the piece in the documents: one place must explain all of it."""
    for row in pack(documents, length, words):
        edges = np.cumsum(row.lengths)[:-1]
        parts = zip(*(np.split(a, edges) for a in (row.ids, row.starts, row.lags)), strict=True)
        assert all(any(explains(d, *part) for d in documents) for part in parts)


def explains(document: bytes, ids: np.ndarray, starts: np.ndarray, lags: np.ndarray) -> bool:
    data = np.frombuffer(document, np.uint8)
    split = space_split(data)
    content = ids[1:][ids[1:] != EOT]
    for begin in range(len(data) - len(content) + 1):
        end = begin + len(content)
        if (data[begin:end] != content).any() or (ids[-1] == EOT and end != len(data)):
            continue
        if begin < len(data) and not split.starts[begin]:
            continue
        before = split.starts[:begin].sum()
        word = np.cumsum(split.starts)[begin:end] - before
        guide = np.maximum(split.known[begin:end] - before, 0)
        tail = [True] if ids[-1] == EOT else []
        if starts.tolist() != [True, *split.starts[begin:end].tolist(), *tail]:
            continue
        if lags.tolist() == [0, *(word - guide).tolist(), *[0 for _ in tail]]:
            return True
    return False


def slow_expand(row: rows.Row, length: int, words: int) -> dict[str, list[int]]:
    """The contract, id by id."""
    out = {
        "bytes": [PAD] * length, "segment": [0] * length, "position": [0] * length,
        "word": [words] * length, "guide": [-1] * length,
        "word_segment": [0] * words, "word_position": [0] * words,
    }
    t, word = 0, -1
    for segment, size in enumerate(row.lengths.tolist(), start=1):
        word_position = -1
        for position in range(size):
            if row.starts[t]:
                word, word_position = word + 1, word_position + 1
                out["word_segment"][word] = segment
                out["word_position"][word] = word_position
            out["bytes"][t] = int(row.ids[t])
            out["segment"][t], out["position"][t] = segment, position
            out["word"][t], out["guide"][t] = word, word - int(row.lags[t])
            t += 1
    return out


@settings(max_examples=200, deadline=None)
@given(documents=documents_strategy, length=st.integers(10, 40), words=st.integers(3, 20))
def test_expand_is_the_contract(documents, length, words):
    for row in pack(documents, length, words):
        arrays = rows.expand_words(row, length, words)
        assert all(array.dtype == np.int32 for array in arrays.values())
        assert {k: v.tolist() for k, v in arrays.items()} == slow_expand(row, length, words)
        real = arrays["segment"] > 0
        word, guide = arrays["word"][real], arrays["guide"][real]
        assert (guide <= word).all() and (guide >= 0).all()
        assert (arrays["word_segment"][guide] == arrays["segment"][real]).all()
        assert (arrays["word_segment"][word] == arrays["segment"][real]).all()
        special = arrays["bytes"][real] >= 256
        assert (guide == word)[special].all()


def test_example():
    """One document whose words close late, one whose words close at once, and padding."""
    arrays = rows.expand_words(pack([b"ab cd", b"a "], 13, 8)[0], 13, 8)
    assert arrays["bytes"].tolist() == [BOS, *b"ab cd", EOT, BOS, *b"a ", EOT, PAD, PAD]
    assert arrays["segment"].tolist() == [1] * 7 + [2] * 4 + [0] * 2
    assert arrays["position"].tolist() == [*range(7), *range(4), 0, 0]
    assert arrays["word"].tolist() == [0, 1, 1, 1, 2, 2, 3, 4, 5, 5, 6, 8, 8]
    assert arrays["guide"].tolist() == [0, 0, 0, 1, 1, 1, 3, 4, 4, 5, 6, -1, -1]
    assert arrays["word_segment"].tolist() == [1, 1, 1, 1, 2, 2, 2, 0]
    assert arrays["word_position"].tolist() == [0, 1, 2, 3, 0, 1, 2, 0]


def test_expand_tokens():
    row = pack([b"ab", b"c"], 9, None)[0]
    lengths = np.zeros(264, np.int32)
    lengths[:256] = 1
    arrays = rows.expand_tokens(row, 9, lengths, PAD)
    assert arrays["tokens"].tolist() == [BOS, *b"ab", EOT, BOS, *b"c", EOT, PAD, PAD]
    assert arrays["segment"].tolist() == [1, 1, 1, 1, 2, 2, 2, 0, 0]
    assert arrays["position"].tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 0]
    assert arrays["token_bytes"].tolist() == [0, 1, 1, 0, 0, 1, 0, 0, 0]


def test_empty_row():
    arrays = rows.expand_words(rows.empty_row(has_words=True), 4, 3)
    assert arrays["bytes"].tolist() == [PAD] * 4
    assert arrays["word"].tolist() == [3] * 4
    assert arrays["guide"].tolist() == [-1] * 4
    for name in ("segment", "position", "word_segment", "word_position"):
        assert not arrays[name].any()


def test_guide_never_leaves_its_piece():
    """A byte that belongs to the first word of a piece may be several words ahead of what is known
    in the document; in the piece it falls back to BOS."""
    data = np.frombuffer(b"aaaabbbb", np.uint8)
    late = Split(np.array([1, 0, 1, 0, 1, 0, 1, 0], bool), np.zeros(8, np.int32))
    packer = rows.Packer(6, 20, SPECIALS)
    packed = packer.add(rows.word_units(data, late)) + packer.finish()
    assert [row.lags.tolist() for row in packed] == [[0, 1, 1, 2, 2], [0, 1, 1, 2, 2, 0]]


def test_parts_of_a_long_document():
    """Only the part that ends the document carries EOT."""
    packer = rows.Packer(16, 16, SPECIALS)
    packed = []
    for part, ends in [(b"aa bb cc dd ", False), (b"ee ff", True)]:
        data = np.frombuffer(part, np.uint8)
        packed += packer.add(rows.word_units(data, space_split(data), ends=ends))
    found = pieces(packed + packer.finish())
    assert found == [list(b"aa bb cc dd "), [*b"ee ff", EOT]]


def lengths_of(packed):
    return [row.lengths.tolist() for row in packed]


def test_long_documents_are_cut_only_where_a_row_is_full():
    assert lengths_of(pack([b"aaa " * 100], 42, 100)) == [[41]] * 9 + [[42]]
    assert lengths_of(pack([b"aaa " * 100], 100, 11)) == [[41]] * 9 + [[37], [6]]


def test_whole_documents_are_not_cut_while_rows_fill():
    """Short documents of mixed sizes: every one whole, and hardly any padding."""
    sizes = np.random.default_rng(0).integers(5, 120, 2000)
    packed = pack([b"abc " * (size // 4) + b"." * (size % 4) for size in sizes], 256, 120)
    assert sum(len(row.lengths) for row in packed) == 2000
    assert sum(len(row.ids) for row in packed) > 0.97 * 256 * len(packed)


def test_documents_that_never_fit_together_are_cut():
    """All documents are 0.6 of a row: without cuts 40 % of every row would be padding."""
    packed = pack([b"abc " * 38] * 3000, 256, 120)
    assert sum(len(row.ids) for row in packed) > 0.96 * 256 * len(packed)


def test_dense_and_light_documents_share_rows():
    """The word cap binds for one kind and the byte cap for the other: together they fill both."""
    documents = [b"a " * 40, b"abcdefg " * 20] * 300
    packed = pack(documents, 256, 70)
    bytes_fill = sum(len(row.ids) for row in packed) / (256 * len(packed))
    word_fill = sum(int(row.starts.sum()) for row in packed) / (70 * len(packed))
    assert bytes_fill > 0.9 and word_fill > 0.9


def test_word_longer_than_a_row():
    with pytest.raises(UserError, match=r"f.txt:3: the word of 8 bytes at byte 2 .* to 10 or more"):
        data = np.frombuffer(b"a bbbbbbbb", np.uint8)
        rows.Packer(9, 9, SPECIALS).add(
            rows.word_units(data, space_split(data), name="f.txt:3")
        )
    assert lengths_of(pack([b"bbbbbbbb"], 10, 9)) == [[10]]


def test_row_too_small():
    for length, words in [(2, 9), (9, 2), (2, None)]:
        with pytest.raises(UserError, match="too small"):
            rows.Packer(length, words, SPECIALS)


def test_packing_is_deterministic():
    documents = [b"ab " * n for n in range(200)]
    first, second = pack(documents, 64, 30), pack(documents, 64, 30)
    assert [r.ids.tolist() for r in first] == [r.ids.tolist() for r in second]
