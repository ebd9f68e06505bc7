"""Splitters: deterministic rules from bytes to word starts, with a declared causality."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from hat.errors import UserError
from hat.text import scripts, spacebyte, split_loop, split_tables, unicode_classes, word_rule
from hat.text.split_tables import MAX_ROOM, SplitState, SplitTables
from hat.text.utf8 import BREAKING_BYTE, byte_automaton


@dataclasses.dataclass(frozen=True)
class Causality:
    """What a rule must see before it can say that a byte starts a word."""

    kind: str  # "byte" | "lookahead" | "sequence" | "batch"
    bytes_ahead: int = 0  # for "lookahead"


BYTE_CAUSAL = Causality("byte")


class Split(NamedTuple):
    """The words of one document of T bytes.

    starts: bool[T], whether a word starts at byte t (starts[0] is True when T > 0).
    known: int32[T], how many words are known to be complete once byte t has been read.
      Non-decreasing; never depends on bytes after t; at most the number of starts in [0, t].
      It equals that number where byte t is known to close its own word.
    """

    starts: np.ndarray
    known: np.ndarray


class Revealed(NamedTuple):
    """What one more byte reveals. `starts`: absolute byte indices, ascending, now known to start
    words (index 0 is revealed by the first byte); `known`: as `Split.known` at this byte."""

    starts: tuple[int, ...]
    known: int


class Stream(Protocol):
    def push(self, byte: int) -> Revealed: ...

    def finish(self) -> tuple[int, ...]:
        """The starts that only the end of the data reveals."""
        ...


class Splitter(Protocol):
    """A rule that is not byte-causal needs `name`, `causality` and `split` alone; where it can say
    what its boundaries cost, it has `boundary_nats(data) -> float64[T]` too."""

    name: str  # enters the corpus fingerprint and the checkpoint
    causality: Causality
    tables: SplitTables  # the rule as integer arrays, for `split_tables.step`; of hat.text.entropy
    # as its own, for its own step

    def split(self, data: np.ndarray) -> Split:
        """uint8[T] -> Split of length T."""
        ...

    def stream(self) -> Stream:
        """The same rule, one byte at a time: the union of all revealed starts, plus those that
        only the end of the data reveals, is Split.starts; known is equal byte for byte."""
        ...

    def state_after(self, data: np.ndarray) -> SplitState:
        """Where `split_tables.step` is once it has read uint8[T]."""
        ...


class _TableSplitter:
    """What the rules over character classes have in common: they run from tables."""

    rule: str
    max_word_bytes: int
    unspaced: tuple[tuple[str, int], ...] = ()  # scripts, and the bytes that their words reach
    causality = BYTE_CAUSAL

    def __post_init__(self) -> None:
        if self.max_word_bytes < 1:
            raise UserError(
                f"splitter {self.rule!r}: a word of at most {self.max_word_bytes} bytes cannot "
                "be; give at least 1"
            )
        for script, length in self.unspaced:
            _check_script(script, length, self.max_word_bytes)

    @property
    def name(self) -> str:
        unicode = unicode_classes.UNICODE_VERSION
        lengths = "".join(f"-{script}{length}" for script, length in self.unspaced)
        return f"{self.rule}-v1-unicode{unicode}-max{self.max_word_bytes}{lengths}"

    @property
    def tables(self) -> SplitTables:
        """The rule as integer arrays, for `split_tables.step`, on the host or on a device."""
        return _tables(*self._key)

    @property
    def _key(self) -> tuple[str, int, tuple[tuple[str, int], ...]]:
        return self.rule, self.max_word_bytes, self.unspaced

    def split(self, data: np.ndarray) -> Split:
        return Split(*split_loop.split_bytes(_packed(*self._key), checked(data)))

    def stream(self) -> Stream:
        return _TableStream(self.tables)

    def state_after(self, data: np.ndarray) -> SplitState:
        return split_loop.state_after(_packed(*self._key), checked(data))


@dataclasses.dataclass(frozen=True)
class WordRule(_TableSplitter):
    """The word rule of the HAT models (arXiv 2603.15953; word_rule.py has the rule), on Unicode
    16.0, with words of at most `max_word_bytes` bytes.

    Bytes. A longer word is cut at the last character boundary within the limit; only a character
    that is longer than the limit is itself cut. An invalid byte is a character by itself, of the
    class of U+FFFD (utf8.py). Any bytes can be split, and joining the words gives them back.

    Causality. Starts are those of the causal reading: a word starts at character i iff the last
    word of the rule applied to text[:i + 1] is that character alone. `known` is exact: word k is
    counted at byte t iff its end is the same in every continuation of data[:t + 1] (to the byte
    for limits of at least 4; below, a cut inside a character counts once that is complete). A
    newline closes its word at once, a word before a Chinese character is known to be complete
    at that character's first byte wherever no combining mark begins with it, and a word at its
    limit as soon as nothing that fits could still join.

    Against the published rule (hat-splitter 0.1.10) the starts are equal but for three kinds of
    text in which that rule looks ahead, and takes a start back that the causal reading keeps:
      1. digit, U+2044, digit (combining marks and joiners allowed between): U+2044 starts a word
         here, while the published rule joins the three once it has seen the last. The same
         happens where a joiner and a pictograph follow U+2044.
      2. one space, one or more U+202F, then a letter, digit, Katakana, connector punctuation or
         combining mark: U+202F turns from white space, a word of its own, into part of the word.
      3. one space, then a tab, U+00A0 or U+2007, then a combining mark, format character or
         joiner: the same.

    unspaced: scripts written without spaces (hat.text.scripts), and how many bytes their words go
      on for at least: a word ends at the first place after so many where the rule could end it.
    """

    max_word_bytes: int = 100
    unspaced: tuple[tuple[str, int], ...] = ()
    rule = "words"


@dataclasses.dataclass(frozen=True)
class WhitespaceRule(_TableSplitter):
    """The rule of the 2025 paper (arXiv 2501.10322): a word is a run of other characters with all
    the white space (Unicode White_Space) after it. White space that opens the data is a word.
    Limits and invalid bytes are as in WordRule; `known` is exact in the same sense.

    unspaced: scripts written without spaces, and after how many bytes their words end, at the next
      character that is no combining mark.
    """

    max_word_bytes: int = 100
    unspaced: tuple[tuple[str, int], ...] = ()
    rule = "whitespace"


@dataclasses.dataclass(frozen=True)
class SpaceByte(_TableSplitter):
    """The rule of SpaceByte (arXiv 2404.14408; spacebyte.py has it): a word ends with the first byte
    after it that is neither letter, digit nor part of a character. That byte closes it at once, and
    so does the last byte that a word of `max_word_bytes` bytes can take. Words may end inside a
    character."""

    max_word_bytes: int = 100
    rule = "spacebyte"

    @property
    def name(self) -> str:
        return f"spacebyte-v1-max{self.max_word_bytes}"


@dataclasses.dataclass(frozen=True)
class FixedStride:
    """Words of exactly `stride` bytes, the last one excepted: the patches of MegaByte
    (arXiv 2305.07185). The last byte of a word closes it."""

    stride: int
    causality = BYTE_CAUSAL

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise UserError(f"splitter 'stride': {self.stride} is no stride; give at least 1")

    @property
    def name(self) -> str:
        return f"stride-v1-{self.stride}"

    def split(self, data: np.ndarray) -> Split:
        index = np.arange(len(checked(data)), dtype=np.int32)
        return Split(index % self.stride == 0, (index + 1) // self.stride)

    @property
    def tables(self) -> SplitTables:
        return _stride_tables(self.stride)

    def stream(self) -> Stream:
        return _TableStream(self.tables)

    def state_after(self, data: np.ndarray) -> SplitState:
        read = len(checked(data))
        return SplitState(0, read % self.stride, (read - 1) % self.stride + 1)


_SPECS = (
    "'words', 'words:MAX_BYTES', 'whitespace', 'whitespace:MAX_BYTES', 'spacebyte', "
    "'spacebyte:MAX_BYTES', 'stride:BYTES', or with lengths for scripts, 'words:han=6,thai=12', or "
    "with merges in every document, 'words+merges=50', or 'entropy:FILE' of hat patches, or "
    "'tokens:PATH' with a tokenizer"
)
_ENTROPY = "entropy:"  # then a file
_TOKENS = "tokens:"  # then a tokenizer's file, or a folder with one
_KEPT_TOKENS = "words"  # the folder of the tokenizer in that of a run
_MAKERS = {
    "words": WordRule, "whitespace": WhitespaceRule, "spacebyte": SpaceByte, "stride": FixedStride,
}  # fmt: skip


def make_splitter(spec: str) -> Splitter:
    """The splitter that a config names, such as "words", "words:64,han=6" or "stride:8", and with
    merges over its words (hat.text.merging) such as "words+merges=50"."""
    base, plus, merges = spec.rpartition("+merges=")
    if plus:
        from hat.text.merging import Merged  # which builds on this module, as the next does

        if not _is_number(merges.removeprefix("-")):
            raise UserError(f"splitter {spec!r}: {merges!r} is no number of merges; give 0 or more")
        return Merged(make_splitter(base), int(merges))
    if spec.startswith(_ENTROPY):
        from hat.text.entropy import load_patches

        return load_patches(Path(spec.removeprefix(_ENTROPY)))
    if spec.startswith(_TOKENS):
        from hat.text.token_words import TokenWords
        from hat.text.tokenizers import load_tokenizer

        return TokenWords(load_tokenizer(spec.removeprefix(_TOKENS)))
    rule, colon, arguments = spec.partition(":")
    options = arguments.split(",") if colon else []
    numbers = [option for option in options if "=" not in option]
    lengths = [option.partition("=")[::2] for option in options if "=" in option]
    if (
        rule not in _MAKERS
        or numbers != options[: len(numbers)]
        or len(numbers) > 1
        or (rule == "stride" and not numbers)
        or (rule in ("stride", "spacebyte") and lengths)
        or not all(map(_is_number, [*numbers, *(length for _, length in lengths)]))
    ):
        raise UserError(f"splitter {spec!r} is not known; choose one of {_SPECS}")
    positional = [int(number) for number in numbers]
    if not lengths:
        return _MAKERS[rule](*positional)
    names = [name for name, _ in lengths]
    if len(set(names)) < len(names):
        raise UserError(f"splitter {spec!r} gives a script two lengths; give it one")
    return _MAKERS[rule](*positional, unspaced=tuple(sorted((n, int(b)) for n, b in lengths)))


def keep_splitter(spec: str, folder: Path) -> None:
    """Copies into the folder of a run what `kept_splitter` needs, where the splitter is a file."""
    if "+merges=" in spec:
        return
    if spec.startswith(_ENTROPY):
        from hat.text.entropy import FILE

        make_splitter(spec).save(folder / FILE)
    elif spec.startswith(_TOKENS):
        (folder / _KEPT_TOKENS).mkdir(exist_ok=True)
        make_splitter(spec).tokenizer.save(folder / _KEPT_TOKENS)


def kept_splitter(spec: str, folder: Path) -> Splitter:
    """The splitter that the run in a folder was trained with."""
    from hat.text.entropy import FILE

    if (folder / FILE).exists():
        spec = f"{_ENTROPY}{folder / FILE}"
    elif (folder / _KEPT_TOKENS).exists():
        spec = f"{_TOKENS}{folder / _KEPT_TOKENS}"
    return make_splitter(spec)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _check_script(script: str, length: int, max_word_bytes: int) -> None:
    if script not in scripts.SCRIPTS:
        known = ", ".join(scripts.SCRIPTS)
        raise UserError(f"script {script!r} is not one that is written without spaces: {known}")
    longest = min(scripts.LONGEST, max_word_bytes)
    if not 1 <= length <= longest:
        raise UserError(
            f"script {script!r}: words that reach {length} bytes cannot be; give 1 to {longest}"
        )


@functools.cache
def _tables(rule: str, max_word_bytes: int, unspaced: tuple) -> SplitTables:
    words, characters = _automata(rule, unspaced)
    return split_tables.compile_tables(words, characters, max_word_bytes)


@functools.cache
def _stride_tables(stride: int) -> SplitTables:
    """One byte state, and a word state for every place in a word: every byte is a character."""
    place = np.arange(stride, dtype=np.int32)
    opens, zeros = (place == 0).astype(np.int32)[:, None], np.zeros((stride, 1), np.int32)
    return SplitTables(
        next_byte=np.zeros((1, 256), np.int32),
        emission=np.ones((1, 256), np.int32),
        pending=np.zeros(1, np.int32),
        next_word=np.hstack([zeros, (place[:, None] + 1) % stride]).astype(np.int32),
        starts=np.tile(np.hstack([zeros, opens]), (MAX_ROOM + 1, 1, 1)),
        candidates=np.zeros((1, MAX_ROOM + 1), np.int32),
        closed=opens,
        num_starts=np.array([mask.bit_count() for mask in range(16)], np.int32),
        last_start=np.array([(mask & -mask).bit_length() for mask in range(16)], np.int32),
        max_word_bytes=np.int32(stride),
    )


@functools.cache
def _packed(rule: str, max_word_bytes: int, unspaced: tuple) -> split_loop.PackedTables:
    return split_loop.pack(_tables(rule, max_word_bytes, unspaced))


@functools.cache
def _automata(rule: str, unspaced: tuple):
    if rule == "spacebyte":
        return spacebyte.automata()
    step, first = word_rule.RULES[rule]
    if unspaced:
        lengths = dict(unspaced)
        classes, class_of = scripts.script_characters(tuple(lengths))
        step = scripts.reaching(step, lengths, anywhere=rule == "whitespace")
        first = scripts.RunState(first, 0)
    else:
        runs = unicode_classes.load()
        classes, class_of = runs.classes, unicode_classes.class_of_code_points(runs)
    words = word_rule.automaton(step, first, classes)
    class_of = words.merged[class_of]
    return words, byte_automaton(class_of, int(class_of[unicode_classes.REPLACEMENT]))


def checked(data: np.ndarray) -> np.ndarray:
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 1:
        raise TypeError(f"expected bytes as a 1-d uint8 array, got {type(data).__name__} {data!r}")
    return np.ascontiguousarray(data)


class _TableStream:
    def __init__(self, tables: SplitTables):
        self._tables = tables
        self._state = split_tables.initial_state(int(tables.max_word_bytes))
        self._index = 0  # of the next byte
        self._reported = 0  # starts in complete characters
        self._next_unrevealed = 0  # smallest index whose start would be news

    def push(self, byte: int) -> Revealed:
        starts, closed = self._read(byte)
        self._reported += len(starts)
        first_pending = self._index - int(self._tables.pending[self._state.byte])
        if closed and first_pending < self._index:
            starts.append(first_pending)  # certain before the character is complete
        news = tuple(start for start in starts if start >= self._next_unrevealed)
        if news:
            self._next_unrevealed = news[-1] + 1
        return Revealed(news, self._reported - 1 + closed)

    def finish(self) -> tuple[int, ...]:
        end = self._index
        starts, _ = self._read(BREAKING_BYTE)
        return tuple(start for start in starts if self._next_unrevealed <= start < end)

    def _read(self, byte: int) -> tuple[list[int], int]:
        self._state, (mask, closed) = split_tables.step(self._tables, self._state, byte)
        starts = [self._index - back for back in (3, 2, 1, 0) if int(mask) >> back & 1]
        self._index += 1
        return starts, int(closed)
