"""The regular expressions of pretokenizers, read into programs for `hat.byte_exact.pretokens`.

The dialect is that of the Oniguruma library as pretokenizers use it: classes, alternatives,
greedy, lazy and possessive repetition, lookahead, case-insensitive groups, `$`. What a single
character must be to pass an atom such as `\\p{L}` or `[^\\s\\p{N}]` is never worked out here: its
source goes back to the tokenizers library, which is asked about every character there is.

A program is a list of instructions: ("char", atom, next), ("split", preferred, other),
("look", start, holds, next) for a lookahead that must match or must not, ("match",).
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

import numpy as np

from hat.errors import UserError

_ESCAPES = re.compile(r"\\(?:[pP]\{\^?[\w ]+\}|u[0-9A-Fa-f]{4}|x\{[0-9A-Fa-f]+\}|x[0-9A-Fa-f]{2}|.)")
_COUNTS = re.compile(r"\{(\d*)(,?)(\d*)\}")
_MOST = 64  # copies that a counted repetition may unroll to
CODE_POINTS = 0x110000
SURROGATES = range(0xD800, 0xE000)


class Atom(NamedTuple):
    """One character: the source of an expression that matches it, and whether case counts."""

    source: str
    any_case: bool


class Program(NamedTuple):
    """Instructions, the index of the first, and the atoms that they name by number."""

    code: tuple[tuple, ...]
    start: int
    atoms: tuple[Atom, ...]


def compile_expression(source: str) -> Program:
    """UserError for what is beyond the dialect, and for an expression that matches nothing."""
    tree = _Parser(source).parse()
    if _nullable(tree):
        raise UserError(f"pretokenizer expression {source!r} can match no character at all")
    compiler = _Compiler()
    start = compiler.emit(tree, compiler.add(("match",)))
    return Program(tuple(compiler.code), start, tuple(compiler.atoms))


def literals(texts: list[str]) -> Program:
    """The longest of the texts that stands at a place."""
    ordered = sorted(texts, key=len, reverse=True)
    return compile_expression("|".join(map(re.escape, ordered)))


@functools.cache
def members(atom: Atom) -> np.ndarray:
    """bool [CODE_POINTS]: which characters the tokenizers library lets pass an atom.

    Planes without any character count as their first code point, as do the private planes.
    """
    passes = np.zeros(CODE_POINTS, bool)
    if len(atom.source) == 1 and atom.source != "." and not atom.any_case:
        passes[ord(atom.source)] = True
        return passes
    from tokenizers import Regex, pre_tokenizers

    flag = "(?i)" if atom.any_case else ""
    split = pre_tokenizers.Split(Regex(f"{flag}(?:{atom.source})+"), behavior="removed")
    letter = len(atom.source) == 1 and atom.source.isascii()  # nothing folds to it beyond U+21FF
    for low, text in _blocks():
        if letter and low >= 0x2200:
            break
        passes[low : low + len(text)] = True
        for _, (start, end) in split.pre_tokenize_str(text):
            passes[low + start : low + end] = False
    if not letter:
        for low, high in _ALIKE:
            passes[low:high] = passes[low]
    return passes


_ALIKE = ((0x40000, 0xE0000), (0xE1000, 0xF0000), (0xF0000, CODE_POINTS))


@functools.cache
def _blocks() -> list[tuple[int, str]]:
    """The characters to ask about, in stretches that the library cuts fast: (first, text)."""
    lows = [*range(0, SURROGATES.start, 512), *range(SURROGATES.stop, 0x40000, 512)]
    lows += range(0xE0000, 0xE1000, 512)
    blocks = [(low, "".join(map(chr, range(low, low + 512)))) for low in lows]
    return blocks + [(low, chr(low)) for low, _ in _ALIKE]


# The tree: ("atom", Atom), ("all", [nodes]), ("any", [nodes]), ("look", node, holds),
# ("repeat", node, least, most or None, greedy).


class _Parser:
    def __init__(self, source: str):
        self.source, self.at, self.any_case = source, 0, False

    def parse(self):
        tree = self._alternatives()
        if self.at < len(self.source):
            self._refuse(self.source[self.at])
        return tree

    def _refuse(self, what: str):
        raise UserError(
            f"pretokenizer expression {self.source!r}: {what!r} at {self.at} is not understood; "
            "--law all works with any tokenizer"
        )

    def _take(self, text: str) -> bool:
        found = self.source.startswith(text, self.at)
        self.at += len(text) * found
        return found

    def _alternatives(self):
        any_case, branches = self.any_case, [self._sequence()]
        while self._take("|"):
            branches.append(self._sequence())
        self.any_case = any_case
        return branches[0] if len(branches) == 1 else ("any", branches)

    def _sequence(self):
        parts = []
        while self.at < len(self.source) and self.source[self.at] not in "|)":
            if self._take("(?i)"):
                self.any_case = True
            else:
                parts.append(self._repeated(self._one()))
        return ("all", parts)

    def _one(self):
        if self._take("("):
            return self._group()
        if self._take("$"):  # before a line feed, or at the end
            return ("look", self._atom(r"[^\n]"), False)
        if self.source.startswith(r"\z", self.at):
            self.at += 2
            return ("look", self._atom(r"[\s\S]"), False)
        return self._atom(self._atom_source())

    def _group(self):
        any_case = self.any_case
        if self._take("?:") or not self.source.startswith("?", self.at):
            inner = self._alternatives()
        elif self._take("?i:"):
            self.any_case = True
            inner = self._alternatives()
        elif self._take("?="):
            inner = ("look", self._alternatives(), True)
        elif self._take("?!"):
            inner = ("look", self._alternatives(), False)
        else:
            self._refuse("(" + self.source[self.at : self.at + 3])
        self.any_case = any_case
        if not self._take(")"):
            self._refuse("an open group")
        return inner

    def _atom(self, source: str):
        return ("atom", Atom(source, self.any_case))

    def _atom_source(self) -> str:
        begin = self.at
        character = self.source[begin]
        if character == "[":
            depth = 0
            while True:
                if self.at >= len(self.source):
                    self._refuse("an open class")
                character = self.source[self.at]
                self.at += 2 if character == "\\" else 1
                depth += (character == "[") - (character == "]")
                if depth == 0:
                    return self.source[begin : self.at]
        if character == "\\":
            found = _ESCAPES.match(self.source, begin)
            if found is None or found[0][1] in "bBAGZKkgRXyY0123456789":
                self._refuse(self.source[begin : begin + 2])
            self.at = found.end()
            return found[0]
        if character in "^*+?":
            self._refuse(character)
        self.at += 1
        return character

    def _repeated(self, node):
        while True:
            counts = _COUNTS.match(self.source, self.at)
            if self._take("*"):
                least, most = 0, None
            elif self._take("+"):
                least, most = 1, None
            elif self._take("?"):
                least, most = 0, 1
            elif counts and (counts[1] or counts[3]):
                self.at = counts.end()
                least = int(counts[1] or 0)
                most = least if not counts[2] else int(counts[3]) if counts[3] else None
                if max(least, most or 0) > _MOST:
                    self._refuse(counts[0])
                # Here "+" repeats what is counted, and "{2}?" means another thing than "{2,2}?".
                if not counts[2] and self.source.startswith("?", self.at):
                    self._refuse(counts[0] + "?")
                greedy = not self._take("?")
                node = ("repeat", node, least, most, greedy)
                continue
            else:
                return node
            if self._take("+"):
                node = self._possessive(node, least, most)
            else:
                node = ("repeat", node, least, most, not self._take("?"))

    def _possessive(self, node, least: int, most: int | None):
        if node[0] != "atom":
            self._refuse("+")
        over = ("look", node, False)  # a run that is never given back ends where it cannot go on
        if most == 1:
            return ("any", [node, over])
        return ("all", [("repeat", node, least, most, True), over])


def _nullable(node) -> bool:
    kind = node[0]
    if kind == "atom":
        return False
    if kind == "look":
        return True
    if kind == "repeat":
        return node[2] == 0 or _nullable(node[1])
    return (all if kind == "all" else any)(map(_nullable, node[1]))


class _Compiler:
    """Emits backwards: every node is told what comes after it."""

    def __init__(self):
        self.code: list[tuple] = []
        self.atoms: list[Atom] = []

    def add(self, instruction: tuple) -> int:
        self.code.append(instruction)
        return len(self.code) - 1

    def emit(self, node, after: int) -> int:
        """Where a node begins that goes on at `after`."""
        kind = node[0]
        if kind == "atom":
            if node[1] not in self.atoms:
                self.atoms.append(node[1])
            return self.add(("char", self.atoms.index(node[1]), after))
        if kind == "look":
            return self.add(("look", self.emit(node[1], self.add(("match",))), node[2], after))
        if kind == "all":
            for part in reversed(node[1]):
                after = self.emit(part, after)
            return after
        if kind == "any":
            *others, start = [self.emit(part, after) for part in node[1]]
            for other in reversed(others):
                start = self.add(("split", other, start))
            return start
        return self._emit_repeat(node, after)

    def _emit_repeat(self, node, after: int) -> int:
        _, inner, least, most, greedy = node

        def choice(more: int, enough: int) -> tuple:
            return ("split", more, enough) if greedy else ("split", enough, more)

        if most is None:
            loop = self.add(("split", -1, -1))
            self.code[loop] = choice(self.emit(inner, loop), after)
            start = loop
        else:
            start = after
            for _ in range(most - least):
                start = self.add(choice(self.emit(inner, start), after))
        for _ in range(least):
            start = self.emit(inner, start)
        return start
