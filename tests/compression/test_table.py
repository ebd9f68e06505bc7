"""Static tables: every code a string, longest match and lookup, the same as the model running."""

from __future__ import annotations

import random

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from hat.compression.build import build_table
from hat.compression.live import LiveCoder
from hat.compression.windows import WindowConfig
from hat.errors import UserError
from hat.text.tokenizers import load_tokenizer
from hat.text.window_table import TableTokenizer, WindowTable
from tests.compression.models import CONTEXT, predictor, tokenizer
from tests.compression.toy import HELDOUT, pictures


def texts() -> list[bytes]:
    rng = random.Random(0)
    strings = tokenizer().table.strings
    likely = b"".join(rng.choices(strings, k=300))  # what the model believes in
    return [b"", b"\0", b"\xff\xfe", HELDOUT[:700], rng.randbytes(300), b"a" * 400, likely]


def test_all_codes_decode_to_distinct_strings_and_encode_to_themselves():
    its = tokenizer()
    strings = its.table.strings
    assert len(set(strings)) == len(strings) == 1 << 16
    assert its.table.free_code == its.eot == 65_535 and strings.count(b"") == 1
    assert {bytes([byte]) for byte in range(256)} <= set(strings)
    assert set(string[:-1] for string in strings) <= set(strings)  # closed under prefixes
    ids = np.arange(1 << 16)
    assert its.decode(ids) == b"".join(strings)
    again = [its.encode(string) for string in strings[:-1]]
    assert all(len(codes) == 1 for codes in again)
    assert np.array_equal(np.concatenate(again), ids[:-1])
    assert (its.bos, its.pad, its.num_ids) == (65_536, 65_537, 65_544)


def test_thousands_of_random_strings_return():
    rng, its = random.Random(1), tokenizer()
    delay = tokenizer("delay")
    for number in range(5000):
        data = rng.randbytes(rng.randrange(40))
        if number % 2:
            data = bytes(byte % 8 for byte in data)
        assert its.decode(its.encode(data)) == data
        assert delay.decode(delay.encode(data)) == data


@hypothesis.settings(max_examples=50)
@hypothesis.given(st.binary(max_size=300))
def test_any_bytes_return_in_any_order(data):
    its = tokenizer()
    codes = its.encode(data)
    order = np.random.default_rng(0).permutation(len(codes))
    alone = {int(i): its.decode(codes[i : i + 1]) for i in order}
    assert b"".join(alone[i] for i in range(len(codes))) == data == its.decode(codes)
    assert its.windows(data) == [alone[i] for i in range(len(codes))]


@pytest.mark.parametrize("kind", ["jpeg", "pdf"])
def test_whole_files_return(kind):
    data = pictures()[kind]
    assert len(data) > 4000
    for mode in ("stop-cell", "delay"):
        assert tokenizer(mode).decode(tokenizer(mode).encode(data)) == data


def test_a_megabyte_of_one_byte():
    data = b"\0" * (1 << 20)
    assert tokenizer().decode(tokenizer().encode(data)) == data


def test_the_table_is_the_coder():
    """Codes of the table and of the model running, whatever the number of texts."""
    coder = LiveCoder(predictor(), WindowConfig(context=CONTEXT))
    expected = [tokenizer().encode(text).tolist() for text in texts()]
    assert coder.encode(texts()) == expected
    assert coder.decode(expected) == texts()
    assert coder.encode(texts()[3:4]) == expected[3:4]
    many = [texts()[i % 3 + 3][i:][:40] for i in range(70)]
    assert coder.encode(many) == [tokenizer().encode(text).tolist() for text in many]


def test_the_published_code_loses_what_it_encodes():
    its = tokenizer("paper")
    assert not its.lossless and its.table.codes is not None
    assert any(its.decode(its.encode(text)) != text for text in texts())
    shared = len(its.table.strings) - len(set(its.table.codes.tolist()))
    assert shared > 1000  # strings that have their code in common with another


def test_a_table_is_saved_and_found_by_its_folder(tmp_path):
    for mode in ("stop-cell", "paper"):
        its = tokenizer(mode)
        its.save(tmp_path)
        again = load_tokenizer(tmp_path)
        assert (again.name, again.table.model) == (its.name, its.table.model)
        assert again.encode(HELDOUT).tolist() == its.encode(HELDOUT).tolist()
        assert np.array_equal(again.byte_lengths, its.byte_lengths)


def test_narrow_and_wide_tables():
    for bits in (8, 9, 12):
        its = tokenizer(bits=bits)
        assert its.decode(its.encode(HELDOUT)) == HELDOUT
        assert len(its.table.strings) == 1 << bits
    assert tokenizer(bits=8).eot >= 256  # no code is free
    with pytest.raises(UserError, match="too large"):
        build_table(predictor(), WindowConfig(24))


def test_damaged_tables_are_refused():
    data = tokenizer(bits=9).table.to_bytes()
    assert WindowTable.from_bytes(data).bits == 9
    for bad in (b"", b"x", data[:-1], data + b"x", data[:9], data[:40],
                data[:100] + bytes([data[100] ^ 1]) + data[101:],
                data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]):
        with pytest.raises(UserError, match="damaged|not a table|version"):
            TableTokenizer(WindowTable.from_bytes(bad))
    later = data.replace(b'"version": 1', b'"version": 2')
    with pytest.raises(UserError, match="version 2"):
        WindowTable.from_bytes(later)
