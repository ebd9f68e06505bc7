"""Where a tokenizer's pretokenizer may cut a text whose end is not known, byte by byte.

The steps of the pretokenizer (`hat.byte_exact.stages`) run as one automaton over classes of
characters, and that one inside an automaton over bytes. A byte that is no part of a valid
character is a piece of its own and ends the text before it, as `Tokenizer.encode` has it; inside
an unfinished character the automaton guesses whether the character will be valid.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from hat.byte_exact.expressions import CODE_POINTS, SURROGATES, compile_expression, literals, members
from hat.byte_exact.stages import BEGIN, MATCH, Stage
from hat.errors import UserError
from hat.text.tokenizers import SPACE, JsonTokenizer, Tokenizer

NO_CUT, CUT, ADDED = range(3)  # what is before a byte; ADDED: a cut, and then an added token
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_BEYOND = "--law all works with any tokenizer"


class Pretokenizer:
    """The automaton over bytes. States are small ints, the first is `start`.

    Only states from which some text can end are ever returned.
    """

    start = 0

    def __init__(self, tokenizer: Tokenizer):
        self._states: list[tuple] = []
        self._numbers: dict[tuple, int] = {}
        self._ways: dict[int, tuple[tuple[int, int], ...]] = {}
        self._stages, self._class_of, self._apart = _read_stages(tokenizer)
        self._num_classes = int(self._class_of.max()) + 1
        self._texts = _Texts(self._stages, self._num_classes)
        self._stand_ins: dict[tuple, bytes] = {}
        self._number(("text", self._texts.start))
        self.accepts = functools.cache(self._accepts)
        self.closable = functools.cache(self._closable)
        self._classes = functools.cache(self._classes_after)
        self._stand_in = functools.cache(self._find_stand_in)

    def step(self, state: int, byte: int) -> tuple[tuple[int, int], ...]:
        """The ways to read a byte: what is before it (NO_CUT, CUT, ADDED), and the next state."""
        key = state << 8 | byte
        if key not in self._ways:
            ways = dict.fromkeys(self._step(self._states[state], byte))
            self._ways[key] = tuple((cut, self._number(after)) for cut, after in ways)
        return self._ways[key]

    def _accepts(self, state: int) -> bool:
        """Whether the text may end here."""
        kind, *rest = self._states[state]
        return kind == "broken" or (kind == "text" and self._texts.accepts(rest[0]))

    def _closable(self, state: int) -> bool:
        """Whether the text may end here, or a cut may follow."""
        kind, *rest = self._states[state]
        if kind != "text" or self.accepts(state):
            return kind != "inside"
        classes = range(self._num_classes)
        return any(cut for c in classes for cut, _ in self._texts.step(rest[0], c))

    def _number(self, state: tuple) -> int:
        if state not in self._numbers:
            self._numbers[state] = len(self._states)
            self._states.append(state)
        return self._numbers[state]

    def _step(self, state: tuple, byte: int) -> Iterator[tuple[int, tuple]]:
        kind, *rest = state
        if kind == "inside":
            yield from self._inside(*rest, byte)
        elif kind == "broken" and rest[0]:
            prefix = rest[0] + bytes([byte])
            status = utf8_status(prefix)
            if status == "bad":
                yield from self._text(self._texts.start, byte)
            elif status == "partial" or prefix == self._apart:
                yield CUT, self._broken(prefix if status == "partial" else b"")
        else:
            yield from self._text(self._texts.start if kind == "broken" else rest[0], byte)

    def _text(self, text: int, byte: int) -> Iterator[tuple[int, tuple]]:
        """From the end of a character."""
        if byte < 0x80:
            for cut, after in self._texts.step(text, int(self._class_of[byte])):
                yield cut, ("text", after)
            return
        prefix = bytes([byte])
        partial = utf8_status(prefix) == "partial"
        if partial:
            cuts = {c for k in self._classes(prefix) for c, _ in self._texts.step(text, k)}
            for cut in sorted(cuts):
                yield cut, ("inside", text, self._stand_in(prefix, "valid"), cut)
        if self._texts.accepts(text):
            yield CUT, self._broken(prefix if partial else b"")

    def _inside(self, text: int, prefix: bytes, cut: int, byte: int) -> Iterator[tuple[int, tuple]]:
        """Inside a character that is going to be valid, with `cut` before it."""
        prefix += bytes([byte])
        status = utf8_status(prefix)
        if status == "complete" and prefix != self._apart:
            character = int(self._class_of[ord(prefix.decode())])
            for before, after in self._texts.step(text, character):
                if before == cut:
                    yield NO_CUT, ("text", after)
        elif status == "partial":
            steps = (w for k in self._classes(prefix) for w in self._texts.step(text, k))
            if any(before == cut for before, _ in steps):
                yield NO_CUT, ("inside", text, self._stand_in(prefix, "valid"), cut)

    def _broken(self, prefix: bytes) -> tuple:
        return "broken", self._stand_in(prefix, "broken") if prefix else prefix

    def _classes_after(self, prefix: bytes) -> tuple[int, ...]:
        """The classes of the characters that begin with these bytes, but the one spelled apart."""
        low, high = code_points_after(prefix)
        classes = self._class_of[low : high + 1]
        if self._apart and low <= ord(self._apart.decode()) <= high:
            classes = np.delete(classes, ord(self._apart.decode()) - low)
        return tuple(np.unique(classes).tolist())

    def _find_stand_in(self, prefix: bytes, guess: str) -> bytes:
        """One prefix for all that may be followed alike: it keeps the number of states small."""
        special = len(prefix) == 1 and prefix[0] in (0xE0, 0xED, 0xF0, 0xF4)
        if special or self._apart.startswith(prefix):
            return prefix
        classes = self._classes(prefix) if guess == "valid" else ()
        if len(classes) > 1:
            return prefix
        key = (guess, utf8_length(prefix[0]) - len(prefix), classes)
        return self._stand_ins.setdefault(key, prefix)


class _Texts:
    """The stages as one automaton over classes of characters; states are numbers."""

    start = 0

    def __init__(self, stages: list[Stage], num_classes: int):
        self._stages, self._num_classes = stages, num_classes
        self._states: list[tuple | None] = [None]  # None: nothing read
        self._numbers: dict[tuple | None, int] = {None: 0}
        self._ways: dict[tuple[int, int], tuple] = {}
        self._live: dict[int, bool] = {}
        self.accepts = functools.cache(self._accepts)

    def step(self, state: int, character: int) -> tuple[tuple[int, int], ...]:
        return tuple(way for way in self._all_ways(state, character) if self._is_live(way[1]))

    def _accepts(self, state: int) -> bool:
        parts = self._states[state]
        return parts is None or all(
            part is None or stage.accepts(part) for stage, part in zip(self._stages, parts)
        )

    def _all_ways(self, state: int, character: int) -> tuple[tuple[int, int], ...]:
        key = state, character
        if key not in self._ways:
            parts = self._states[state]
            opening = parts is None
            parts = (BEGIN,) * len(self._stages) if opening else parts
            ways = dict.fromkeys(self._combine(0, parts, character, opening, False))
            self._ways[key] = tuple((cut, self._number(after)) for cut, after in ways)
        return self._ways[key]

    def _number(self, state: tuple) -> int:
        if state not in self._numbers:
            self._numbers[state] = len(self._states)
            self._states.append(state)
        return self._numbers[state]

    def _combine(self, index: int, parts: tuple, character: int, cut: bool, idle: bool):
        """The ways of the stages from `index` on: (what is before the character, their states).

        cut: an earlier stage cuts here, which is the end of the text to this one; idle: an
        earlier stage has found an added token, which this one never sees.
        """
        if index == len(self._stages):
            yield (CUT if cut else NO_CUT), ()
            return
        stage, before = self._stages[index], parts[index]
        if cut and before is not None and not stage.accepts(before):
            return
        if idle:
            ways = [(cut, None)]
        else:
            ways = stage.step(BEGIN if cut or before is None else before, character)
        for cuts, after in ways:
            added = stage.added and after is not None and after.kind == MATCH
            rest = self._combine(index + 1, parts, character, cut or cuts, idle or added)
            for before_it, others in rest:
                if added and before_it == CUT:
                    before_it = ADDED
                yield before_it, (after, *others)

    def _is_live(self, state: int) -> bool:
        """Whether some text goes on from here to an end."""
        if state not in self._live:
            came_from, todo, found = {state: None}, [state], None
            while todo and found is None:
                at = todo.pop()
                if self._live.get(at) or (at not in self._live and self.accepts(at)):
                    found = at
                elif at not in self._live:
                    for character in range(self._num_classes):
                        for _, after in self._all_ways(at, character):
                            if after not in came_from:
                                came_from[after] = at
                                todo.append(after)
            if found is None:
                self._live.update(dict.fromkeys(came_from, False))
            while found is not None:
                self._live[found] = True
                found = came_from[found]
        return self._live[state]


def utf8_length(lead: int) -> int:
    """Bytes of a character that begins with this byte; 0: none does."""
    for length, low, high in ((1, 0, 0x7F), (2, 0xC2, 0xDF), (3, 0xE0, 0xEF), (4, 0xF0, 0xF4)):
        if low <= lead <= high:
            return length
    return 0


def _second_bytes(lead: int) -> tuple[int, int]:
    special = {0xE0: (0xA0, 0xBF), 0xED: (0x80, 0x9F), 0xF0: (0x90, 0xBF), 0xF4: (0x80, 0x8F)}
    return special.get(lead, (0x80, 0xBF))


def utf8_status(data: bytes) -> str:
    """"complete": one valid character; "partial": the beginning of one; "bad": neither."""
    length = utf8_length(data[0])
    if not length or len(data) > length:
        return "bad"
    ranges = [_second_bytes(data[0]), (0x80, 0xBF), (0x80, 0xBF)]
    if not all(low <= byte <= high for byte, (low, high) in zip(data[1:], ranges)):
        return "bad"
    return "complete" if len(data) == length else "partial"


def code_points_after(prefix: bytes) -> tuple[int, int]:
    """The first and the last character that begins with these bytes."""
    ranges = [_second_bytes(prefix[0]), (0x80, 0xBF), (0x80, 0xBF)]
    missing = ranges[len(prefix) - 1 : utf8_length(prefix[0]) - 1]
    low, high = (prefix + bytes(pair[i] for pair in missing) for i in (0, 1))
    return ord(low.decode()), ord(high.decode())


def _read_stages(tokenizer: Tokenizer) -> tuple[list[Stage], np.ndarray, bytes]:
    """The stages, the class of every character, and the character that is spelled apart."""
    programs, spaces, apart = [], False, b""
    if isinstance(tokenizer, JsonTokenizer):
        spec = tokenizer.spec
        texts = [t["content"] for t in spec["added_tokens"] if not t["special"]]
        if texts:
            programs.append((literals(texts), "Isolated", True))
        for part in steps(spec["normalizer"], "normalizers"):
            if part["type"] != "Replace" or part["pattern"] != {"String": " "}:
                raise UserError(f"normalizer {part['type']} is not understood; {_BEYOND}")
            spaces = True
        for part in steps(spec["pre_tokenizer"], "pretokenizers"):
            spaces |= part["type"] == "Metaspace"
            programs += _read_step(part)
    if tokenizer.spells_apart:
        apart = SPACE.encode()
    atoms = list(dict.fromkeys(atom for program, _, _ in programs for atom in program.atoms))
    if len(atoms) > 62:
        raise UserError(f"the pretokenizer has {len(atoms)} character classes; {_BEYOND}")
    bits = np.zeros(CODE_POINTS, np.int64)
    for number, atom in enumerate(atoms):
        bits |= members(atom).astype(np.int64) << number
    if spaces:
        bits[ord(" ")] = bits[ord(SPACE)]
    valid = np.r_[0 : SURROGATES.start, SURROGATES.stop : CODE_POINTS]
    kinds, of_valid = np.unique(bits[valid], return_inverse=True)
    class_of = np.zeros(CODE_POINTS, np.int32)
    class_of[valid] = of_valid

    def stage(program, behaviour, added):
        masks = [1 << atoms.index(atom) for atom in program.atoms]
        table = kinds.tolist()
        return Stage(program, lambda a, c: bool(table[c] & masks[a]), behaviour, added)

    return [stage(*parts) for parts in programs], class_of, apart


def _read_step(part: dict) -> list[tuple]:
    """(program, behaviour, False) of a pretokenizer; none where it never cuts."""
    kind = part["type"]
    if kind == "ByteLevel":
        words = [(compile_expression(_GPT2), "Isolated", False)]
        return words if part.get("use_regex", True) else []
    if kind == "Digits":
        source = r"\p{N}" if part["individual_digits"] else r"\p{N}+"
        return [(compile_expression(source), "Isolated", False)]
    if kind == "Metaspace":
        whole = [(literals([part["replacement"]]), "MergedWithNext", False)]
        return whole if part.get("split", True) else []
    if kind == "Split":
        pattern, behaviour = part["pattern"], part["behavior"]
        if "Regex" in pattern:
            program = compile_expression(pattern["Regex"])
        else:
            program = literals([pattern["String"]])
        if behaviour == "Removed" and part["invert"]:
            return [(program, "Isolated", False)]  # what is between matches is lost: there is none
        if behaviour != "Removed" and (not part["invert"] or behaviour == "Isolated"):
            return [(program, behaviour, False)]
        kind = f"Split with behavior {behaviour} and invert {part['invert']}"
    raise UserError(f"pretokenizer {kind} is not understood; {_BEYOND}")


def steps(part: dict | None, key: str) -> list[dict]:
    return [] if part is None else part.get(key, [part])
