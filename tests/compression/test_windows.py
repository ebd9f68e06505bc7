"""The window code against its promises: lossless, alone, in any order, exactly W bits."""

from __future__ import annotations

import itertools
import math
import random

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from hat.compression.probabilities import cumulative, weights_of
from hat.compression.windows import (
    CDF_BITS,
    Node,
    WindowConfig,
    code_of,
    decode,
    decode_one,
    descend,
    encode,
    root,
)
from hat.errors import UserError
from tests.compression.toy import HELDOUT, letters, text_tables, weights

LOSSLESS = [("stop-cell", bits) for bits in (8, 9, 12, 16, 17, 24, 31, 32, 64, 128)]
LOSSLESS += [("delay", bits) for bits in (16, 24, 32, 64, 128)]
AWKWARD = [
    b"", b"\0", b"\xff", b"\0" * 999, b"\xff\xfe\x80", b"\xed\xa0\x80", b"\xff\xd8\xff\xe0" * 9,
    bytes(range(256)), b"%PDF-1.4\n%\xe2\xe3\xcf\xd3", HELDOUT[:3000],
]  # fmt: skip


def in_modes(test):
    return pytest.mark.parametrize("mode, bits", LOSSLESS)(test)


@in_modes
def test_awkward_texts_return(mode, bits):
    config = WindowConfig(bits, mode)
    tables = text_tables(config)
    for data in AWKWARD:
        codes = encode(config, tables, data)
        assert decode(config, tables, codes) == data
        assert all(0 <= code < 1 << bits for code in codes)


@in_modes
@hypothesis.settings(max_examples=12)
@hypothesis.given(data=st.data())
def test_any_bytes_return_and_windows_decode_alone(mode, bits, data):
    config = WindowConfig(bits, mode, context=data.draw(st.sampled_from([1, 5, 127])))
    tables = text_tables(config)
    text = data.draw(st.binary(max_size=60) | st.sampled_from([HELDOUT[i : i + 90] for i in
                                                              range(0, 9000, 301)]))
    codes = encode(config, tables, text)
    assert decode(config, tables, codes) == text
    order = list(range(len(codes)))
    random.Random(0).shuffle(order)
    alone = {i: decode_one(config, tables, codes[i]) for i in order}
    assert b"".join(alone[i] for i in range(len(codes))) == text
    assert all(alone.values())  # a window has a byte at least: there is progress


def short_strings():
    return [bytes(s) for n in range(8) for s in itertools.product(b"abc", repeat=n)]


@pytest.mark.parametrize("mode, bits", [("stop-cell", 3), ("stop-cell", 5), ("delay", 5)])
def test_no_two_strings_have_the_same_codes(mode, bits):
    config = WindowConfig(bits, mode)
    tables = letters(4, 3, 1)
    coded = {tuple(encode(config, tables, s)) for s in short_strings()}
    assert len(coded) == len(short_strings()) == 3280


def test_the_published_code_is_not_invertible():
    """Section 2.2 of its analysis: "ac" and "aaac" with probabilities 1/2, 3/8, 1/8 and W = 3."""
    tables = letters(4, 3, 1)
    paper, ours = WindowConfig(3, "paper"), WindowConfig(3)
    assert encode(paper, tables, b"ac") == encode(paper, tables, b"aaac") == [0b000, 0b111]
    assert decode(paper, tables, [0b000, 0b111]) == b"aaac"
    assert encode(ours, tables, b"ac") != encode(ours, tables, b"aaac")
    # Not for the end of the input: texts whose last window is a whole one collide too.
    ending = [s for s in short_strings() if s.endswith(b"c") and s != b"c"]
    assert len({tuple(encode(paper, tables, s)) for s in ending}) == 603 < len(ending) == 1092


def test_codes_of_a_window_equal_exact_rationals():
    """Mode paper against arithmetic on fractions, without guard bits."""
    from fractions import Fraction

    config = WindowConfig(16, "paper")
    tables = text_tables(config)
    for begin in range(0, 3000, 97):
        low, width, text, node = Fraction(0), Fraction(1), b"", root(config)
        for byte in HELDOUT[begin:]:
            table = tables(text)
            a, b = int(table[byte]), int(table[byte + 1])
            child, fits = descend(config, node, a, b)
            low, width = low + width * a / 65_536, width * (b - a) / 65_536
            inside = [Fraction(math.ceil(low * 2**k), 2**k) for k in range(17)]
            inside = [(k, x) for k, x in enumerate(inside) if x + Fraction(1, 2**k) <= low + width]
            # Rounding to 32 bits moves an end by less than 2^-30, which decides near ties alone.
            if abs(width - Fraction(1, 2**16)) < Fraction(1, 2**24) or not fits or not inside:
                break
            assert code_of(config, child) == inside[0][1] * 2**16
            node, text = child, text + bytes([byte])


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(0, 2**16), st.integers(8, 32))
def test_no_more_than_32_bits_are_needed(size, cells, bits):
    """floor(Q c / 2^16) by halves, as hat.compression.limbs has it, equals that on whole numbers."""
    from hat.compression.limbs import narrow, to_limbs, to_ints

    size %= 1 << bits
    limbs = to_limbs(np.array([size], object), bits)
    assert limbs.dtype == np.uint32
    assert to_ints(narrow(limbs, np.array([cells], np.uint32)))[0] == size * cells >> 16


def test_arrays_of_nodes_equal_numbers():
    """What builds the static table works on arrays."""
    table = np.array(text_tables(WindowConfig())(b"  "))
    for mode in ("stop-cell", "paper", "delay"):
        config = WindowConfig(16, mode)
        start = root(config)
        nodes = Node(np.full(256, start.start), np.full(256, start.size))
        children, fits = descend(config, nodes, table[:-1], table[1:])
        codes = code_of(config, children)
        for byte in range(256):
            child, fit = descend(config, start, int(table[byte]), int(table[byte + 1]))
            assert (child, fit) == (Node(children.start[byte], children.size[byte]), fits[byte])
            assert not fit or code_of(config, child) == codes[byte]


def bytes_per_bit(mode, bits):
    config = WindowConfig(bits, mode)
    return len(HELDOUT) / (bits * len(encode(config, text_tables(config), HELDOUT)))


def test_ratios_keep_the_order_of_the_paper_and_stop_cells_cost_little():
    stop = {bits: bytes_per_bit("stop-cell", bits) for bits in (16, 32, 64, 128)}
    assert stop[16] < stop[32] < stop[64] < stop[128]
    # Plain arithmetic coding, which forgets nothing and has no windows.
    tables = text_tables(WindowConfig())
    cells = [np.diff(tables(HELDOUT[max(i - 2, 0) : i]))[byte] for i, byte in enumerate(HELDOUT)]
    assert stop[128] < len(HELDOUT) / (CDF_BITS * len(cells) - np.log2(cells).sum())
    greedy, delay = bytes_per_bit("paper", 16), bytes_per_bit("delay", 16)
    assert delay < 0.95 * greedy  # table 17 of the paper: 2.20 against 2.66
    assert stop[16] > 0.95 * greedy


def test_a_window_wastes_less_than_its_next_byte():
    """What is left of W bits is less than the byte that did not fit needs, and rounding."""
    config = WindowConfig(16)
    tables, begin, filled, windows = text_tables(config), 0, 0.0, 0
    for code in encode(config, tables, HELDOUT):
        data = decode_one(config, tables, code)

        def bits(at, begin=begin):
            table = tables(HELDOUT[begin:at])
            return CDF_BITS - math.log2(table[HELDOUT[at] + 1] - table[HELDOUT[at]])

        spent = sum(bits(at) for at in range(begin, begin + len(data)))
        begin, filled, windows = begin + len(data), filled + spent, windows + 1
        if begin < len(HELDOUT):
            # A node of size q gives a byte of probability p a code if q p >= 1; q loses less than
            # 2 codes, stop and rounding, a byte.
            left = 16 - spent
            assert left < bits(begin) + 1 + math.log2(1 + 2 * len(data))
    assert filled / (16 * windows) > 0.85


# --- the tables -----------------------------------------------------------------------------------


@hypothesis.given(
    st.lists(st.integers(0, 2**24), min_size=256, max_size=256) | st.just([0] * 256),
    st.sampled_from([(16, 1), (16, 2), (16, 256), (24, 1), (8, 1)]),
)
def test_cells_rise_and_fill_the_table(numbers, shape):
    bits, floor = shape
    table = cumulative(np.array(numbers), bits, floor)
    assert table[0] == 0 and table[-1] == 1 << bits
    cells = np.diff(table)
    assert cells.min() >= floor
    # Within one cell of exact proportions, but for the likeliest byte, which has the rest.
    spare, total = (1 << bits) - 256 * floor, max(sum(numbers), 1)
    exact = [floor + n * spare // total for n in numbers]
    others = np.arange(256) != int(np.argmax(numbers))
    assert (cells[others] == np.array(exact)[others]).all()


def test_weights_are_cut_and_checked():
    assert weights_of(np.array([0.0, 2.0**-24, 2.0**-25, 1.0])).tolist() == [0, 1, 0, 1 << 24]
    for wrong in (np.nan, np.inf, -0.5):
        with pytest.raises(UserError, match="no numbers"):
            weights_of(np.array([0.5, wrong]))


def test_what_cannot_be():
    for bad, said in [(dict(bits=1), "8 to 128"), (dict(bits=129), "8 to 128"),
                      (dict(mode="greedy"), "choose from"), (dict(context=0), "context")]:
        with pytest.raises(UserError, match=said):
            WindowConfig(**bad)
    with pytest.raises(UserError, match="no code"):
        WindowConfig(7).root_table(weights(b""))
    with pytest.raises(UserError, match="no code"):
        WindowConfig(15, "delay").root_table(weights(b""))
    with pytest.raises(UserError, match="more than 16 bits"):
        decode(WindowConfig(), text_tables(WindowConfig()), [1 << 16])
