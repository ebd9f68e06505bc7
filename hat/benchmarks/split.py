"""`hat bench split`: bytes per second of the word rule, beside the fastest pure Python we know.

Pure Python is the faster of two exact formulations: the byte and word automata fused into one
table of dictionaries and walked without Python code per byte; and, for the lines that are ASCII,
one compiled regular expression whose matches are the words. Neither limits the length of words.
"""

from __future__ import annotations

import argparse
import itertools
import operator
import pathlib
import re
import sysconfig
import time
from collections.abc import Callable

import numpy as np

from hat.commands.files import read_input
from hat.errors import UserError
from hat.text import split_tables
from hat.text.splitters import WordRule
from hat.text.utf8 import BREAKING_BYTE

MEGABYTE = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--megabytes", type=float, default=8.0, help="of every text")
    parser.add_argument("--repeats", type=int, default=5, help="the fastest counts")
    parser.add_argument(
        "--text",
        action="append",
        default=[],
        metavar="FILE",
        help="measure on this file too (repeatable)",
    )


def run(arguments: argparse.Namespace) -> dict:
    """Prints one line a text and returns the table. One core; seconds are processor time."""
    size = int(arguments.megabytes * MEGABYTE)
    texts = {
        "standard library": standard_library(size),
        "Chinese (random)": chinese(size),
        "Hindi (random)": hindi(size),
        "random bytes": np.random.default_rng(0).bytes(size),
    }
    for name in arguments.text:
        data = read_input(pathlib.Path(name))
        if not data:
            raise UserError(f"--text {name}: the file is empty; give one with text")
        texts[name] = (data * (size // len(data) + 1))[:size]
    unlimited = WordRule(max_word_bytes=1 << 30)  # as the pure Python is
    splitter = WordRule()
    rows = []
    for name, data in texts.items():
        array = np.frombuffer(data, np.uint8)
        seconds = fastest(lambda: splitter.split(array), arguments.repeats)  # noqa: B023
        words = int(unlimited.split(array).starts.sum())
        sample = data[: max(len(data) // 8, 1)]  # pure Python takes its time
        times = {
            kind: fastest(lambda: starts(sample), 2) / len(sample)  # noqa: B023
            for kind, starts in _PYTHON.items()
        }
        kind = min(times, key=times.get)
        counts = {words, *(len(starts(data)) for starts in _PYTHON.values())}
        row = {
            "text": name,
            "bytes": len(data),
            "words": words,
            "megabytes_per_second": len(data) / seconds / MEGABYTE,
            "python": kind,
            "python_megabytes_per_second": 1 / times[kind] / MEGABYTE,
            "ratio": len(data) / seconds * times[kind],
            "same_word_count": len(counts) == 1,
        }
        rows.append(row)
        print(
            f"{name:24} {row['megabytes_per_second']:7.1f} MB/s   "
            f"pure Python ({kind}) {row['python_megabytes_per_second']:6.1f} MB/s   "
            f"{row['ratio']:5.1f} times   {words} words, "
            f"{'the same in both' if row['same_word_count'] else 'NOT the same'}"
        )
    return {"splitter": splitter.name, "texts": rows}


def fastest(function: Callable[[], object], repeats: int) -> float:
    """Processor seconds of the fastest call, after one that compiles."""
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def standard_library(size: int) -> bytes:
    """The Python files of the running interpreter, sorted, as far as `size` bytes go."""
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    data = bytearray()
    for path in sorted(root.rglob("*.py")):
        if "site-packages" not in path.parts:
            data += path.read_bytes()
        if len(data) >= size:
            break
    return bytes((data * (size // len(data) + 1))[:size])


def chinese(size: int) -> bytes:
    """Characters drawn as by Zipf from 3,500, and a mark about every tenth."""
    random = np.random.default_rng(1)
    count = size // 3
    rank = (np.exp(random.random(count) * np.log(3500)) - 1).astype(int)
    points = random.permutation(np.arange(0x4E00, 0x4E00 + 3500))[rank]
    points = np.where(random.random(count) < 0.1, random.choice([0xFF0C, 0x3002], count), points)
    return "".join(map(chr, points.tolist())).encode()


def hindi(size: int) -> bytes:
    """Words of one to five syllables: a consonant, at times a virama and another, a vowel sign."""
    random = np.random.default_rng(2)
    consonants = [chr(c) for c in range(0x0915, 0x093A)]
    vowels = ["", "", "\u093e", "\u093f", "\u0940", "\u0941", "\u0947", "\u094b", "\u0902"]
    syllables = [c + v for c in consonants for v in vowels]
    syllables += [a + "\u094d" + b for a, b in itertools.product(consonants, repeat=2)]
    vocabulary = [
        "".join(random.choice(syllables, random.integers(1, 6))) + mark
        for mark in [""] * 3600 + ["।", ","] * 200
    ]
    words = random.choice(np.array(vocabulary, object), size // 12)
    return " ".join(words).encode()[:size]


# The word rule on ASCII: letters and digits up to an uppercase letter after a lowercase one, or
# one symbol or control character, or nothing; with one space before and all punctuation after.
_ASCII_WORD = re.compile(
    rb"""(?x)
    \r\n | [\t\n\v\f\r] | [ ]{2,}
    | [ ]? (?: [A-Z0-9]+ (?: [a-z]+ (?: [0-9] [A-Z0-9]* )? )*
             | (?: [a-z]+ (?: [0-9] [A-Z0-9]* )? )+
             | [$+<=>^`|~\x00-\x08\x0e-\x1f\x7f]
             | [!"\#%&'()*,\-./:;?@[\\\]_{}] )
      [!"\#%&'()*,\-./:;?@[\\\]_{}]*
    | [ ]
    """
)
_NOT_ASCII = re.compile(rb"[\x80-\xff]+")


class _Row(dict):
    """A state of the fused automaton: byte -> row, filled where it is first needed."""

    def __init__(self, state: split_tables.SplitState, mask: int):
        self.state, self.mask = state, mask

    def __missing__(self, byte: int) -> _Row:
        state, (mask, _) = split_tables.step(WordRule().tables, self.state, byte)
        state = state._replace(length=0)  # no limit: words never grow
        row = _Row(state, int(mask))
        self[byte] = _rows.setdefault((*map(int, state), row.mask), row)
        return self[byte]


_rows: dict[tuple[int, ...], _Row] = {}
_FIRST_ROW = _Row(split_tables.SplitState(byte=0, word=0, length=0), 0)
_BITS = [bytes(mask >> back & 1 for mask in range(256)) for back in range(4)]


def table_starts(data: bytes, offset: int = 0) -> list[int]:
    """No Python code runs per byte: `accumulate` walks the rows, `compress` selects."""
    rows = itertools.accumulate(data, operator.getitem, initial=_FIRST_ROW)
    *rows, last = rows
    masks = bytes(map(operator.attrgetter("mask"), (*rows, last, last[BREAKING_BYTE])))
    first = offset - 1  # the first row comes before the first byte
    starts = list(itertools.compress(itertools.count(first), masks[:-1].translate(_BITS[0])))
    if not data.isascii():
        for back in (1, 2, 3):
            starts += itertools.compress(
                itertools.count(first - back), masks.translate(_BITS[back])
            )
        starts.sort()
    return starts


def expression_starts(data: bytes) -> list[int]:
    """ASCII lines by the regular expression, the others by tables: nothing joins over a line
    feed."""
    starts: list[int] = []
    at = 0
    while at < len(data):
        found = _NOT_ASCII.search(data, at)
        begin = max(at, data.rfind(b"\n", at, found.start()) + 1) if found else len(data)
        words = _ASCII_WORD.findall(data[at:begin])
        starts += itertools.accumulate(map(len, words[:-1]), initial=at) if words else ()
        at = begin
        if found:
            end = data.find(b"\n", found.end()) + 1 or len(data)
            starts += table_starts(data[begin:end], begin)
            at = end
    return starts


_PYTHON = {"tables": table_starts, "regular expression": expression_starts}
