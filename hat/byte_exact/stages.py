"""One step of a pretokenizer as an automaton that guesses where it cuts.

Where a regular expression cuts is decided by text to the right: an open text may be cut in several
ways. The automaton reads character by character, guesses at each whether a piece ends before it,
and keeps what must still come true for the guess: threads of the expression that are preferred to
the match that was taken must fail, lookaheads must turn out as assumed, at a gap the expression
must not match. Of the guesses about a whole text exactly one survives, the library's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from hat.byte_exact.expressions import Program

START, MATCH, GAP = range(3)

# (whether it must match, where its threads stand)
Promise = tuple[bool, frozenset[int]]


class State(NamedTuple):
    """Where one piece stands. kind: nothing read, inside a match, or in a gap between matches;
    threads: of the expression, the preferred first; promises: what must come true."""

    kind: int
    threads: tuple[int, ...] = ()
    promises: frozenset[Promise] = frozenset()


BEGIN = State(START)

# Which cuts stay, by the kinds of the pieces on their left and right.
BEHAVIOURS: dict[str, Callable[[int, int], bool]] = {
    "Isolated": lambda left, right: True,
    "Contiguous": lambda left, right: left != right,
    "MergedWithPrevious": lambda left, right: (left, right) != (GAP, MATCH),
    "MergedWithNext": lambda left, right: (left, right) != (MATCH, GAP),
}


class _Unknown(Exception):
    """A lookahead, named by its first instruction, about which nothing is assumed yet."""


class Stage:
    """passes(atom, character class) -> bool says which characters an atom of the program takes.

    added: its matches are tokens as they stand; later stages do not look into them.
    """

    def __init__(
        self,
        program: Program,
        passes: Callable[[int, int], bool],
        behaviour: str = "Isolated",
        added: bool = False,
    ):
        self._code, self._start = program.code, program.start
        self._passes = passes
        self._keeps = BEHAVIOURS[behaviour]
        self.added = added

    def step(self, state: State, character: int) -> list[tuple[bool, State]]:
        """The ways to read one more character: whether there is a cut before it, and the state."""
        if state.kind == START:
            return [(True, after) for _, after in self._open(frozenset(), START, character)]
        ways = []
        if state.kind == MATCH:
            for threads, matched, promises in self._close(state.threads, state.promises):
                ways += self._go_on(MATCH, threads, promises, character)
                if matched:
                    fails = {(False, frozenset(threads))} if threads else set()
                    ways += self._open(promises | fails, MATCH, character)
        else:
            no_match = state.promises | {(False, frozenset([self._start]))}
            for _, _, promises in self._close((), no_match):
                ways += self._go_on(GAP, (), promises, character)
            ways += self._open(state.promises, GAP, character)
        return list(dict.fromkeys(ways))

    def accepts(self, state: State) -> bool:
        """Whether the text may end here."""
        ends = self._close(state.threads, state.promises, at_end=True)
        return any(matched or state.kind != MATCH for _, matched, _ in ends)

    def _open(self, promises, left: int, character: int) -> Iterable[tuple[bool, State]]:
        """The ways to begin a piece with a character, on the right of one of kind `left`."""
        for threads, _, kept in self._close((self._start,), promises):
            for _, after in self._go_on(MATCH, threads, kept, character):
                yield self._keeps(left, MATCH), after
        if left != GAP:
            for _, _, kept in self._close((), promises | {(False, frozenset([self._start]))}):
                for _, after in self._go_on(GAP, (), kept, character):
                    yield self._keeps(left, GAP), after

    def _go_on(self, kind, threads, promises, character) -> list[tuple[bool, State]]:
        threads = self._consume(threads, character)
        if kind == MATCH and not threads:
            return []
        kept = set()
        for must_match, where in promises:
            after = self._consume(where, character)
            if after:
                kept.add((must_match, frozenset(after)))
            elif must_match:
                return []
        return [(False, State(kind, threads, frozenset(kept)))]

    def _consume(self, threads: Iterable[int], character: int) -> tuple[int, ...]:
        taken = (self._code[at] for at in threads)
        return tuple(dict.fromkeys(i[2] for i in taken if self._passes(i[1], character)))

    def _close(self, threads, promises, at_end: bool = False) -> list[tuple]:
        """The ways to follow threads and promises to instructions that take a character.

        Each is (threads, whether a match ends here that is preferred to all threads left out,
        promises). A lookahead that is met is assumed to hold in some ways and to fail in the
        others, and what is assumed is promised.
        """
        ways, open_assumptions = [], [{}]
        while open_assumptions:
            assumed = open_assumptions.pop()
            try:
                ways.append(self._close_under(assumed, threads, promises, at_end))
            except _Unknown as look:
                open_assumptions += [{**assumed, look.args[0]: truth} for truth in (True, False)]
        return [way for way in ways if way is not None]

    def _close_under(self, assumed, threads, promises, at_end):
        threads, matched = self._follow(threads, assumed)
        kept = set()
        assumptions = [(truth, (start,)) for start, truth in assumed.items()]
        for must_match, where in [*promises, *assumptions]:
            going, hit = self._follow(where, assumed)
            if hit != must_match and (hit or not going or at_end):
                return None
            if not hit and going and not at_end:
                kept.add((must_match, frozenset(going)))
        return threads, matched, frozenset(kept)

    def _follow(self, threads, assumed) -> tuple[tuple[int, ...], bool]:
        """Threads, the preferred first, down to the first that matches, and whether one does."""
        going, seen, stack = [], set(), list(threads)[::-1]
        while stack:
            at = stack.pop()
            if at in seen:
                continue
            seen.add(at)
            kind, *rest = self._code[at]
            if kind == "match":
                return tuple(going), True
            if kind == "char":
                going.append(at)
            elif kind == "split":
                stack += rest[::-1]
            else:
                start, holds, after = rest
                if start not in assumed:
                    raise _Unknown(start)
                if assumed[start] == holds:
                    stack.append(after)
        return tuple(going), False
