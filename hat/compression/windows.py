"""The window code: bytes to codes of exactly W bits, each of which decodes alone.

Equal-info windows are those of arXiv 2404.03626: bytes are added to a window as long as their
arithmetic code fits into W bits, then coder and model begin anew. A window is a node of a tree
whose edges are bytes. Its code says where the node is, and in which mode:

stop-cell: a node owns a range of codes; its last code says "the window ends here", the others are
    divided among the bytes by the cumulative table. One code, one node: lossless for any bytes,
    the end of the input included. The node of no bytes at all, the root, has the last code of all,
    which no text needs: it serves as end of text. (Of 2^8 codes, 256 bytes leave none to spare:
    W = 8 has no such code.)
paper: the published code. A node is an interval; its code is the shortest binary fraction whose
    cell lies inside, with zeros appended. Not invertible: nodes along a path share codes.
delay: the published lossless variant (appendix A.5). A window ends only at a node whose code none
    of the nodes before it has; the decoder takes the first node that has the code.

All arithmetic is on whole numbers. The functions take a node's numbers as Python ints, for every W,
or as int64 arrays, for W up to 20; what they take beside are cells of a table of 2^16
(hat.compression.probabilities), the c and c' that a byte lies between.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from hat.compression.probabilities import NUM_BYTES, cumulative
from hat.errors import UserError

CDF_BITS = 16
GUARD_BITS = 16  # of an interval in modes paper and delay, beyond its W bits
MODES = ("stop-cell", "paper", "delay")
Mode = Literal["stop-cell", "paper", "delay"]

# The cells below each byte after some bytes of a window, int [257].
Tables = Callable[[bytes], Sequence[int]]


@dataclasses.dataclass(frozen=True)
class WindowConfig:
    """bits: W, of a window; with fewer than 8, some byte has no code. context: bytes of a window that the model is asked after; all bytes are
    equally likely after so many, and the window soon ends."""

    bits: int = 16
    mode: Mode = "stop-cell"
    context: int = 127

    def __post_init__(self):
        if self.mode not in MODES:
            raise UserError(f"mode {self.mode!r}: choose from {', '.join(MODES)}")
        if not 2 <= self.bits <= 128:
            raise UserError(f"windows of {self.bits} bits: give 8 to 128")
        if not 1 <= self.context <= 65_535:
            raise UserError(f"a context of {self.context} bytes: give 1 to 65535")

    @property
    def root_floor(self) -> int:
        """Cells that a byte needs at the root, so that it owns a code there."""
        if self.mode != "stop-cell":
            return 1  # a cell of 2^-16 is a code of 16 bits
        return -(-(1 << CDF_BITS) // root(self).size)

    def root_table(self, weights: np.ndarray) -> np.ndarray:
        """The table before the first byte: weights int64 [256] -> int64 [257].

        UserError where the codes are too few for every byte to have one.
        """
        least = 8 if self.mode == "stop-cell" else CDF_BITS
        if self.bits < least:
            raise UserError(
                f"windows of {self.bits} bits in mode {self.mode}: some byte would have no code; "
                f"give {least} or more"
            )
        return cumulative(weights, CDF_BITS, self.root_floor)

    @property
    def has_free_code(self) -> bool:
        """Whether a code stands for no bytes: the last one."""
        return self.mode == "stop-cell" and self.bits != 8


class Node(NamedTuple):
    """stop-cell: its codes are start to start + size, `size` the one that says stop.
    paper, delay: its interval is [start, start + size) in units of 2^-(W + 16)."""

    start: Any
    size: Any


UNIFORM = np.arange(NUM_BYTES + 1) << (CDF_BITS - 8)


def root(config: WindowConfig) -> Node:
    if config.mode != "stop-cell":
        return Node(0, 1 << (config.bits + GUARD_BITS))
    return Node(0, (1 << config.bits) - config.has_free_code)


def descend(config: WindowConfig, node: Node, low, high) -> tuple[Node, Any]:
    """The child for the byte whose cells are low to high, and whether there is one."""
    first, last = node.size * low >> CDF_BITS, node.size * high >> CDF_BITS
    if config.mode == "stop-cell":
        return Node(node.start + first, last - first - 1), first < last
    child = Node(node.start + first, last - first)
    cell, end = cells_inside(child)
    return child, cell < end


def cells_inside(node: Node) -> tuple[Any, Any]:
    """Of modes paper and delay: the codes [first, end) whose cells lie inside the interval."""
    first = -(-node.start >> GUARD_BITS)
    return first, (node.start + node.size) >> GUARD_BITS


def code_of(config: WindowConfig, node: Node):
    """The code of a window that ends at the node: a number below 2^W."""
    if config.mode == "stop-cell":
        return node.start + node.size
    first, end = cells_inside(node)
    # The shortest string: of the codes inside whose block of 2^k codes is inside, that of greatest
    # k; the first of equals.
    found = first
    for k in range(1, config.bits + 1):
        aligned = -(-first >> k) << k
        fits = aligned + (1 << k) <= end
        if isinstance(first, np.ndarray):
            found = np.where(fits, aligned, found)
        elif fits:
            found = aligned
    return found


class Window:
    """One window that grows byte by byte; W of any size.

    length: bytes so far. `code` and `length_coded`: what a window that ends now is coded as, and
    how many of its bytes that is: all of them, but in mode delay.
    """

    def __init__(self, config: WindowConfig):
        self.config = config
        self.node = root(config)
        self.length = 0
        self.code, self.length_coded = None, 0
        self._codes = set()
        if config.mode == "stop-cell":
            self.code = code_of(config, self.node)

    def push(self, low: int, high: int) -> bool:
        """Adds the byte whose cells are low to high; False, and nothing changed, where it does not
        fit: the window ends before it."""
        child, fits = descend(self.config, self.node, low, high)
        if not fits:
            return False
        self.node, self.length = child, self.length + 1
        code = code_of(self.config, child)
        if self.config.mode != "delay" or code not in self._codes:
            self.code, self.length_coded = code, self.length
        self._codes.add(code)
        return True


class WindowDecoder:
    """One code, byte by byte: `next(table)` is the byte that follows, or None at the end of the
    window, where `length` says how many of the bytes given belong to it (mode paper goes too far
    first)."""

    def __init__(self, config: WindowConfig, code: int):
        if not 0 <= code < 1 << config.bits:
            raise UserError(f"code {code} has more than {config.bits} bits: the tokens are damaged")
        self.config, self._code = config, code
        self._node, self._given, self.length = root(config), 0, 0

    def next(self, table: Sequence[int]) -> int | None:
        """table: int [257], the cells after the bytes given so far."""
        config, node = self.config, self._node
        if config.mode == "stop-cell":
            offset = self._code - node.start
            if offset == node.size:
                return None
        else:
            if config.mode == "delay" and self.length:
                return None
            offset = (self._code << GUARD_BITS) - node.start
        byte = find(node.size, table, offset)
        child, fits = descend(config, node, int(table[byte]), int(table[byte + 1]))
        if not fits:  # of modes paper and delay alone
            if not self.length:
                raise UserError(f"code {self._code} is that of no window: the tokens are damaged")
            return None
        self._node, self._given = child, self._given + 1
        if config.mode == "stop-cell" or code_of(config, child) == self._code:
            self.length = self._given
        return byte


def find(size: int, table: Sequence[int], offset: int) -> int:
    """The byte whose share of `size` has the offset in it."""
    low, high = 0, NUM_BYTES
    while high - low > 1:
        middle = (low + high) // 2
        if size * int(table[middle]) >> CDF_BITS <= offset:
            low = middle
        else:
            high = middle
    return low


def encode(config: WindowConfig, tables: Tables, data: bytes) -> list[int]:
    """The codes of `data`, one window after another: the plain form, for any model."""
    codes, begin = [], 0
    while begin < len(data):
        window, at = Window(config), begin
        while at < len(data):
            table = tables_in(config, tables, data[begin:at])
            if not window.push(int(table[data[at]]), int(table[data[at] + 1])):
                break
            at += 1
        codes.append(window.code)
        begin += window.length_coded
    return codes


def decode(config: WindowConfig, tables: Tables, codes: Iterable[int]) -> bytes:
    """The bytes of codes; in mode paper, what the published decoder takes them for."""
    return b"".join(decode_one(config, tables, code) for code in codes)


def decode_one(config: WindowConfig, tables: Tables, code: int) -> bytes:
    decoder, data = WindowDecoder(config, code), bytearray()
    while (byte := decoder.next(tables_in(config, tables, bytes(data)))) is not None:
        data.append(byte)
    return bytes(data[: decoder.length])


def tables_in(config: WindowConfig, tables: Tables, before: bytes) -> Sequence[int]:
    """The table after the bytes of a window."""
    return tables(before) if len(before) < config.context else UNIFORM
