"""Which sequences of tokens begin the encoding of some text, token by token.

A sequence is valid where a text exists whose encoding begins with it. It is described by what
matters for its continuation, a number called its configuration: the states that the pretokenizer's
automaton can be in, given that it cuts between tokens only; the last token, whose neighbours
inside a pretoken the merges decide; and, in vocabularies with byte fallback, the bytes of an
unfinished character.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hat.byte_exact.laws import Law
from hat.byte_exact.merges import Pairs, read_rules
from hat.byte_exact.pretokens import ADDED, CUT, NO_CUT, Pretokenizer, utf8_status
from hat.byte_exact.token_bytes import Vocabulary
from hat.errors import UserError
from hat.text.tokenizers import SPACE

DEAD, _UNKNOWN = -1, -2
_MASKS = 4096  # configurations whose masks are kept


class Configuration(NamedTuple):
    """branches: (number of a set of automaton states, text of the open pretoken) for each text that
    the open pretoken may have, None where it no longer matters; last: the last token, or -1;
    pending: bytes spelled one by one that may become a character."""

    branches: tuple[tuple[int, bytes | None], ...]
    last: int
    pending: bytes


class NotUnderstood:
    """Stands for `Canonical` where that cannot be: no sequence counts as an encoding, and the laws
    that ask are refused with `why`."""

    start = DEAD

    def __init__(self, why: UserError):
        self._why = why

    def check(self, law: Law) -> None:
        if law != "all":
            raise self._why

    def step(self, configuration: int, token: int) -> int:
        return DEAD


class Canonical:
    """Configurations are small ints; `start` is that of the empty sequence."""

    start = 0

    def __init__(self, vocabulary: Vocabulary):
        """UserError where the tokenizer is not understood (it is no BPE, for one)."""
        self._vocabulary = vocabulary
        self._rules = rules = read_rules(vocabulary.tokenizer)
        self._pairs = Pairs(rules)
        self._automaton = Pretokenizer(vocabulary.tokenizer)
        self._sets = _Sets(self._automaton, vocabulary)
        heads = np.zeros(len(vocabulary.spellings), bool)
        heads[: len(self._pairs.heads)] = self._pairs.heads
        # Texts that are one token as a whole pretoken, and other tokens at the head of a longer one.
        self._whole = {}
        if rules.whole:
            spelled = [token for token, symbols in enumerate(rules.symbols) if symbols]
            self._whole = {vocabulary.spellings[t]: t for t in spelled if not heads[t]}
        self._open_whole = {text[:i] for text in self._whole for i in range(1, len(text) + 1)}
        heads[list(self._whole.values())] = True
        heads[list(rules.added)] = False
        self._heads = heads
        self._bytes = {token: byte for byte, token in enumerate(rules.byte_ids or ())}
        self._configurations: list[Configuration] = []
        self._numbers: dict[Configuration, int] = {}
        self._steps: dict[tuple[int, int], int] = {}
        self._continuable: dict[int, bool] = {}
        self._followers: dict[int, np.ndarray] = {}
        self._masks: dict[int, np.ndarray] = {}
        self._number(Configuration(((self._sets.number(frozenset([0])), None),), -1, b""))

    def check(self, law: Law) -> None:
        """UserError for a law that this cannot serve: none."""

    def step(self, configuration: int, token: int) -> int:
        """The configuration after one more token, or DEAD where no text is encoded so."""
        key = configuration, token
        after = self._steps.get(key)
        if after is None:
            after = self._raw_step(configuration, token)
            if after != DEAD and not self._can_go_on(after):
                after = DEAD
            self._steps[key] = after
        return after

    def may_end(self, configuration: int) -> bool:
        """Whether the sequence is the whole encoding of its text."""
        branches = self._configurations[configuration].branches
        return any(t not in self._whole and self._sets.accepts[s] for s, t in branches)

    def mask(self, configuration: int) -> np.ndarray:
        """bool [S]: which tokens, in sorted order, do not lead to DEAD."""
        mask = self._masks.get(configuration)
        if mask is None:
            if len(self._masks) >= _MASKS:
                self._masks.clear()
            mask = self._masks[configuration] = np.packbits(self._mask(configuration))
        return np.unpackbits(mask, count=len(self._vocabulary.order)).view(bool)

    def _mask(self, configuration: int) -> np.ndarray:
        good, unsure = self._sorted(configuration)
        for place in np.flatnonzero(unsure & ~good):
            good[place] = self.step(configuration, int(self._vocabulary.order[place])) != DEAD
        return good

    def _sorted(self, configuration: int) -> tuple[np.ndarray, np.ndarray]:
        """bool [S] each: tokens after which the pretoken may end, and those whose fate `step`
        must decide."""
        branches, last, pending = self._configurations[configuration]
        vocabulary, sets = self._vocabulary, self._sets
        heads = self._heads[vocabulary.order]
        good = np.zeros(len(heads), bool)
        unsure = good.copy()
        for number, text in branches:
            ways = [(CUT, heads)] if text not in self._whole else []
            if last >= 0:
                ways.append((NO_CUT, self._after(last)))
            for cut, allowed in ways:
                after = sets.after_tokens(number, cut)
                alive = allowed & (after != DEAD)
                good |= alive & sets.closable_array()[after]
                unsure |= alive
            if text is not None:  # longer texts of the open pretoken that are one token as a whole
                rest = {t[len(text):] for t in self._whole if t.startswith(text)} - {b""}
                for place in np.flatnonzero(unsure):
                    if vocabulary.spellings[vocabulary.order[place]] in rest:
                        good[place] = False
        for token in self._whole.values():
            good[vocabulary.place[token]] = False
        for token in self._rules.added:
            unsure[vocabulary.place[token]] = True
        if self._bytes:
            for token, byte in self._bytes.items():
                if self._next_pending(pending, byte) is None:
                    good[vocabulary.place[token]] = unsure[vocabulary.place[token]] = False
        return good, unsure

    def _after(self, last: int) -> np.ndarray:
        packed = self._followers.get(last)
        if packed is None:
            followers = self._pairs.after(last, self._vocabulary.order)
            packed = self._followers[last] = np.packbits(followers)
        return np.unpackbits(packed, count=len(self._vocabulary.order)).view(bool)

    def _raw_step(self, configuration: int, token: int) -> int:
        """`step`, but the result may be one that nothing continues."""
        branches, last, pending = self._configurations[configuration]
        if token in self._bytes:
            pending = self._next_pending(pending, self._bytes[token])
            if pending is None:
                return DEAD
        else:
            pending = b""
        spelling = self._vocabulary.spellings[token]
        opening = ADDED if token in self._rules.added else CUT if self._heads[token] else None
        follows = last >= 0 and self._pairs.allowed(last, token)
        merged: dict[bytes | None, frozenset[int]] = {}
        for number, text in branches:
            if opening is not None and text not in self._whole:
                begun = None if self._whole.get(spelling) == token else spelling
                self._join(merged, begun, self._sets.after(number, spelling, opening))
            if follows:
                longer = None if text is None else text + spelling
                self._join(merged, longer, self._sets.after(number, spelling, NO_CUT))
        if not merged:
            return DEAD
        numbered = ((self._sets.number(states), text) for text, states in merged.items())
        ordered = sorted(numbered, key=lambda branch: (branch[1] is not None, branch[1] or b""))
        return self._number(Configuration(tuple(ordered), token, pending))

    def _join(self, merged: dict, text: bytes | None, number: int) -> None:
        if number != DEAD:
            text = text if text in self._open_whole else None
            merged[text] = merged.get(text, frozenset()) | self._sets.states[number]

    def _next_pending(self, pending: bytes, byte: int) -> bytes | None:
        """The unfinished character after one more byte token; None where a piece spells it."""
        for data in (pending + bytes([byte]), bytes([byte])):
            status = utf8_status(data)
            if status == "complete":
                character = data.decode()
                apart = character == SPACE
                character = SPACE if character == " " else character
                return None if character in self._rules.pieces and not apart else b""
            if status == "partial":
                return data
        return b""

    def _can_go_on(self, configuration: int) -> bool:
        """Whether some tokens lead to where a pretoken may end."""
        if configuration not in self._continuable:
            self._continuable[configuration] = self._search(configuration, set())
        return self._continuable[configuration]

    def _search(self, configuration: int, seen: set[int]) -> bool:
        known = self._continuable.get(configuration)
        if known is not None:
            return known
        branches = self._configurations[configuration].branches
        if any(t not in self._whole and self._sets.closable[s] for s, t in branches):
            return True
        seen.add(configuration)
        single = self._vocabulary.tokenizer.encode(b"\x80\x90\xa0\xb0\xbf")  # usually one will do
        if any(self._goes_on(configuration, token, seen) for token in single.tolist()):
            return True
        good, unsure = self._sorted(configuration)
        others = self._vocabulary.order[unsure].tolist()
        return bool(good.any()) or any(self._goes_on(configuration, t, seen) for t in others)

    def _goes_on(self, configuration: int, token: int, seen: set[int]) -> bool:
        after = self._raw_step(configuration, token)
        return after != DEAD and after not in seen and self._search(after, seen)

    def _number(self, configuration: Configuration) -> int:
        if configuration not in self._numbers:
            self._numbers[configuration] = len(self._configurations)
            self._configurations.append(configuration)
        return self._numbers[configuration]


class _Sets:
    """Sets of states of the automaton, numbered, and how bytes and tokens move them."""

    def __init__(self, automaton: Pretokenizer, vocabulary: Vocabulary):
        self._automaton, self._vocabulary = automaton, vocabulary
        self.states: list[frozenset[int]] = []
        self.accepts: list[bool] = []
        self.closable: list[bool] = []
        self._numbers: dict[frozenset[int], int] = {}
        self._tables = {cut: np.zeros((0, 256), np.int32) for cut in (NO_CUT, CUT, ADDED)}
        self._after_tokens: dict[tuple[int, int], np.ndarray] = {}
        self._closable = np.zeros(0, bool)

    def number(self, states: frozenset[int]) -> int:
        if states not in self._numbers:
            self._numbers[states] = len(self.states)
            self.states.append(states)
            self.accepts.append(any(map(self._automaton.accepts, states)))
            self.closable.append(any(map(self._automaton.closable, states)))
            if len(self.states) > len(self._tables[CUT]):
                more = np.full((max(64, len(self.states)), 256), _UNKNOWN, np.int32)
                self._tables = {c: np.concatenate([t, more]) for c, t in self._tables.items()}
        return self._numbers[states]

    def closable_array(self) -> np.ndarray:
        """`closable` by number; that of DEAD, the last place, is False."""
        if len(self._closable) != len(self.closable) + 1:
            self._closable = np.array([*self.closable, False])
        return self._closable

    def after(self, number: int, spelling: bytes, cut: int) -> int:
        """The set after a token's bytes, `cut` before the first and none inside; or DEAD."""
        for byte in spelling:
            number = self._after_byte(number, byte, cut)
            if number == DEAD:
                return DEAD
            cut = NO_CUT
        return number

    def after_tokens(self, number: int, cut: int) -> np.ndarray:
        """int32 [S]: `after` for every token in sorted order."""
        key = number, cut
        if key not in self._after_tokens:
            vocabulary = self._vocabulary
            of_node = np.full(len(vocabulary.depth), DEAD, np.int32)
            of_node[0] = number
            for low, high in zip(vocabulary.levels[1:-1], vocabulary.levels[2:]):
                parents = of_node[vocabulary.parent[low:high]]
                alive = np.flatnonzero(parents != DEAD)
                if not len(alive):
                    break
                parents, letters = parents[alive], vocabulary.byte[low:high][alive]
                after = self._tables[cut][parents, letters]
                if (after == _UNKNOWN).any():
                    for at in np.unique(parents[after == _UNKNOWN].astype(np.int64) << 8
                                        | letters[after == _UNKNOWN]).tolist():
                        self._after_byte(at >> 8, at & 255, cut)
                    after = self._tables[cut][parents, letters]
                of_node[low + alive] = after
                cut = NO_CUT
            self._after_tokens[key] = of_node[vocabulary.node_of]
        return self._after_tokens[key]

    def _after_byte(self, number: int, byte: int, cut: int) -> int:
        after = self._tables[cut][number, byte]
        if after == _UNKNOWN:
            ways = (w for state in self.states[number] for w in self._automaton.step(state, byte))
            states = frozenset(state for before, state in ways if before == cut)
            after = self.number(states) if states else DEAD
            self._tables[cut][number, byte] = after
        return int(after)
