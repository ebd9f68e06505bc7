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
_STEPS = 1 << 20  # results that are kept


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
        order, added = vocabulary.order, list(rules.added)
        self._packed_heads = np.packbits(heads[order])
        self._not_whole = ~np.packbits(np.isin(order, list(self._whole.values())))
        self._packed_added = np.packbits(np.isin(order, added))
        self._longer: dict[bytes, np.ndarray] = {}
        self._pending: dict[bytes, np.ndarray] = {}
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
        return unpacked(self.packed_mask(configuration), self._vocabulary)

    def packed_mask(self, configuration: int) -> np.ndarray:
        """`mask` as the bits of uint8 [ceil(S / 8)]."""
        mask = self._masks.get(configuration)
        if mask is None:
            if len(self._masks) >= _MASKS:
                self._masks.clear()
            good, unsure = self._sorted(configuration)
            unsure &= ~good
            if unsure.any():
                good = unpacked(good, self._vocabulary)
                for place in np.flatnonzero(unpacked(unsure, self._vocabulary)):
                    token = int(self._vocabulary.order[place])
                    good[place] = self.step(configuration, token) != DEAD
                good = np.packbits(good)
            mask = self._masks[configuration] = good
        return mask

    def _sorted(self, configuration: int) -> tuple[np.ndarray, np.ndarray]:
        """Bits like those of `packed_mask` each: tokens after which the pretoken may end, and those
        whose fate `step` must decide."""
        branches, last, pending = self._configurations[configuration]
        good = np.zeros(len(self._packed_heads), np.uint8)
        unsure = good.copy()
        for number, text in branches:
            ways = [(CUT, self._packed_heads)] if text not in self._whole else []
            if last >= 0:
                ways.append((NO_CUT, self._after(last)))
            for cut, allowed in ways:
                alive, closable = self._sets.after_tokens(number, cut)
                good |= allowed & closable
                unsure |= allowed & alive
            if text is not None:
                good &= ~self._whole_after(text)
        good &= self._not_whole
        unsure |= self._packed_added
        if self._bytes:
            allowed = self._bytes_after(pending)
            good &= allowed
            unsure &= allowed
        return good, unsure

    def _whole_after(self, text: bytes) -> np.ndarray:
        """Bits of the tokens with which the text of an open pretoken becomes one that is one token
        as a whole."""
        if text not in self._longer:
            found, vocabulary = np.zeros(len(self._vocabulary.order), bool), self._vocabulary
            for rest in {t[len(text):] for t in self._whole if t.startswith(text)} - {b""}:
                at = vocabulary.find(rest)
                if at >= 0:
                    found[vocabulary.low[at] : vocabulary.exact[at]] = True
            self._longer[text] = np.packbits(found)
        return self._longer[text]

    def _bytes_after(self, pending: bytes) -> np.ndarray:
        """Bits of all tokens but those of bytes that must not follow an unfinished character."""
        if pending not in self._pending:
            allowed = np.ones(len(self._vocabulary.order), bool)
            for token, byte in self._bytes.items():
                place = self._vocabulary.place[token]
                allowed[place] = self._next_pending(pending, byte) is not None
            self._pending[pending] = np.packbits(allowed)
        return self._pending[pending]

    def _after(self, last: int) -> np.ndarray:
        """Bits of the tokens that may follow in a pretoken."""
        packed = self._followers.get(last)
        if packed is None:
            followers = self._pairs.after(last, self._vocabulary.order)
            packed = self._followers[last] = np.packbits(followers)
        return packed

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
        after = self._sets.after_token
        opening = ADDED if token in self._rules.added else CUT if self._heads[token] else None
        follows = last >= 0 and self._pairs.allowed(last, token)
        merged: dict[bytes | None, frozenset[int]] = {}
        for number, text in branches:
            if opening is not None and text not in self._whole:
                begun = None if self._whole.get(spelling) == token else spelling
                self._join(merged, begun, after(number, token, opening))
            if follows:
                longer = None if text is None else text + spelling
                self._join(merged, longer, after(number, token, NO_CUT))
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
        others = self._vocabulary.order[unpacked(unsure, self._vocabulary)].tolist()
        return bool(good.any()) or any(self._goes_on(configuration, t, seen) for t in others)

    def _goes_on(self, configuration: int, token: int, seen: set[int]) -> bool:
        after = self._raw_step(configuration, token)
        return after != DEAD and after not in seen and self._search(after, seen)

    def _number(self, configuration: Configuration) -> int:
        if configuration not in self._numbers:
            self._numbers[configuration] = len(self._configurations)
            self._configurations.append(configuration)
        return self._numbers[configuration]


def unpacked(mask: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """bool [S] of a packed mask."""
    return np.unpackbits(mask, count=len(vocabulary.order)).view(bool)


class _Sets:
    """Sets of states of the automaton, numbered, and how bytes and tokens move them."""

    def __init__(self, automaton: Pretokenizer, vocabulary: Vocabulary):
        self._automaton, self._vocabulary = automaton, vocabulary
        self.states: list[frozenset[int]] = []
        self.accepts: list[bool] = []
        self.closable: list[bool] = []
        self._numbers: dict[frozenset[int], int] = {}
        self._tables = {cut: np.zeros((0, 256), np.int32) for cut in (NO_CUT, CUT, ADDED)}
        self._after_token: dict[tuple[int, int, int], int] = {}
        self._after_tokens: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

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

    def after_token(self, number: int, token: int, cut: int) -> int:
        """The set after a token's bytes, `cut` before the first and none inside; or DEAD."""
        key = number, token, cut
        known = self._after_token.get(key)
        if known is None:
            for byte in self._vocabulary.spellings[token]:
                number = self._after_byte(number, byte, cut)
                if number == DEAD:
                    break
                cut = NO_CUT
            if len(self._after_token) >= _STEPS:
                self._after_token.clear()
            self._after_token[key] = known = number
        return known

    def after_tokens(self, number: int, cut: int) -> tuple[np.ndarray, np.ndarray]:
        """For every token in sorted order, as bits: whether `after_token` is not DEAD; whether the
        pretoken may end then, too."""
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
            after = of_node[vocabulary.node_of]
            closable = np.array([*self.closable, False])  # the last place is that of DEAD
            self._after_tokens[key] = np.packbits(after != DEAD), np.packbits(closable[after])
        return self._after_tokens[key]

    def _after_byte(self, number: int, byte: int, cut: int) -> int:
        after = self._tables[cut][number, byte]
        if after == _UNKNOWN:
            ways = (w for state in self.states[number] for w in self._automaton.step(state, byte))
            states = frozenset(state for before, state in ways if before == cut)
            after = self.number(states) if states else DEAD
            self._tables[cut][number, byte] = after
        return int(after)
