"""Which sequences of tokens begin the encoding of some text, where the tokenizer is a SentencePiece
unigram model: those that are the encoding of their own bytes.

The encoder goes through a text once and keeps, for the end of each character, the best sum of
scores that a segmentation reaches there and its last token. What it keeps for a place depends on
nothing after it, so the tokens before any cut of an encoding are the encoding of the text before
the cut, ties included. A character that no piece spells is its bytes, one token each, and so are
bytes that are no character: cut inside such a character, its first bytes are spelled as before.
And the other way round, an encoding begins that of its own text.

The sums are float32, added from left to right: which of two segmentations of nearly equal scores
is better may hang on what stands a thousand characters before them. So they are added here as
there, from the beginning of the text (or from behind its last byte that is no character, where the
encoder begins anew); what a configuration stands for is seldom met twice.
"""

from __future__ import annotations

import re
from array import array
from typing import NamedTuple

import numpy as np

from hat.byte_exact.canonical import DEAD, Canonical, unpacked
from hat.byte_exact.laws import Law
from hat.byte_exact.pretokens import utf8_status
from hat.byte_exact.token_bytes import Vocabulary, child
from hat.errors import UserError
from hat.text import sentencepiece_file
from hat.text.split_loop import compiled
from hat.text.tokenizers import SPACE, SentencePieceTokenizer

_KEPT, _MASKS = 1 << 16, 1024  # windows and masks in memory; others are computed again
_UNKNOWN_COSTS = np.float32(10)  # below the least score of a piece
_TRIED = (0, 2, 3)  # the library; before, it compared sums in float64, and scored otherwise
_NONE, _UNKNOWN = -1, -2  # no token; a character that no piece spells


class Window(NamedTuple):
    """text: the last bytes before the place, as many as a piece that goes on after it may have
    there; best float32 [len(text) + 1]: the sums there, NaN inside characters; pending: bytes
    after the place that may become a character."""

    text: bytes
    best: np.ndarray
    pending: bytes


_FRESH = Window(b"", np.zeros(1, np.float32), b"")


class Unigram:
    """What `Canonical` is for a BPE. Configurations are numbers of steps; `start` is that of the
    empty sequence."""

    start = 0

    def __init__(self, vocabulary: Vocabulary):
        """UserError: spaces or bytes are not spelled as usual, or the library is too old."""
        _check_library()
        tokenizer = vocabulary.tokenizer
        assert isinstance(tokenizer, SentencePieceTokenizer)
        self._vocabulary = vocabulary
        _, pieces = tokenizer.pieces()
        kinds = {sentencepiece_file.NORMAL, sentencepiece_file.USER_DEFINED}
        # A piece with a space of its own matches no text: the library writes spaces as SPACE.
        matched = [t for t, p in enumerate(pieces) if p.type in kinds and " " not in p.text]
        normal = (p.score for p in pieces if p.type == sentencepiece_file.NORMAL)
        scores = np.array(list(normal), np.float32)
        self._unknown = scores.min(initial=np.finfo(np.float32).max) - _UNKNOWN_COSTS
        self._piece = np.full(len(vocabulary.depth), _NONE, np.int32)  # by node of the trie
        self._score = np.zeros(len(vocabulary.depth), np.float32)
        for token in matched:
            node = vocabulary.node_of[vocabulary.place[token]]
            self._piece[node] = token
            self._score[node] = pieces[token].score
            if pieces[token].type == sentencepiece_file.USER_DEFINED:  # its own score is not read
                self._score[node] = 0.1 * (len(pieces[token].text.encode()) - 1)
        self._matched = frozenset(matched)
        self._longest = int(vocabulary.depth[self._piece != _NONE].max())
        self._bytes = {
            token: vocabulary.spellings[token][0]
            for token, p in enumerate(pieces) if p.type == sentencepiece_file.BYTE
        }
        space = self._piece[vocabulary.child(0, ord(" "))]
        if space == _NONE or tokenizer.encode(b" ").tolist() != [space] or len(self._bytes) < 256:
            raise UserError(
                f"tokenizer {tokenizer.name} has no law canonical or last-free here: it lacks the "
                f"piece {SPACE!r} of a space or a byte; --law all works with any tokenizer"
            )
        self._spelled = self._piece[vocabulary.node_of] == vocabulary.order  # not by another token
        self._byte_places = vocabulary.place[list(self._bytes)]
        self._after_pending: dict[bytes, tuple[np.ndarray, list[int]]] = {}
        self._inside = _inside(*self._trie, vocabulary.parent, vocabulary.depth, self._piece)
        self._parents, self._tokens = array("q", [DEAD]), array("i", [_NONE])
        self._windows = {self.start: _FRESH}
        self._steps: dict[tuple[int, int], int] = {}
        self._masks: dict[int, np.ndarray] = {}

    def check(self, law: Law) -> None:
        """UserError for a law that this cannot serve: none."""

    def step(self, configuration: int, token: int) -> int:
        """The configuration after one more token, or DEAD where no text is encoded so."""
        key = configuration, token
        after = self._steps.get(key)
        if after is None:
            window = self._after(self._window(configuration), token)
            after = DEAD
            if window is not None:
                after = len(self._parents)
                self._parents.append(configuration)
                self._tokens.append(token)
                self._keep(after, window)
            if len(self._steps) >= _KEPT:
                self._steps.clear()
            self._steps[key] = after
        return after

    def may_end(self, configuration: int) -> bool:
        """Whether the sequence is the whole encoding of its text: always."""
        return True

    def mask(self, configuration: int) -> np.ndarray:
        """bool [S]: which tokens, in sorted order, do not lead to DEAD."""
        return unpacked(self.packed_mask(configuration), self._vocabulary)

    def packed_mask(self, configuration: int) -> np.ndarray:
        """`mask` as the bits of uint8 [ceil(S / 8)]."""
        mask = self._masks.get(configuration)
        if mask is None:
            if len(self._masks) >= _MASKS:
                self._masks.clear()
            mask = self._masks[configuration] = np.packbits(self._mask(self._window(configuration)))
        return mask

    def _mask(self, window: Window) -> np.ndarray:
        vocabulary = self._vocabulary
        before = _FRESH if window.pending else window
        won = _all_pieces(
            *self._trie, self._piece, self._score, self._unknown, *self._inside,
            np.frombuffer(before.text, np.uint8), before.best,
        )
        mask = won[vocabulary.node_of] & self._spelled
        allowed, unsure = self._bytes_after(window.pending)
        mask[self._byte_places] = allowed
        for token in unsure:
            mask[vocabulary.place[token]] = self._after(window, token) is not None
        return mask

    def _bytes_after(self, pending: bytes) -> tuple[np.ndarray, list[int]]:
        """Which of the tokens of bytes may follow an unfinished character, and those of which that
        depends on what stands before: they finish a character that no piece spells."""
        found = self._after_pending.get(pending)
        if found is None:
            allowed, unsure, before = [], [], _FRESH._replace(pending=pending)
            for token, byte in self._bytes.items():
                data = pending + bytes([byte])
                if utf8_status(data) == "complete" and data != SPACE.encode():
                    at = self._vocabulary.find(data)
                    allowed.append(False)
                    if at < 0 or self._piece[at] == _NONE:
                        unsure.append(token)
                else:
                    allowed.append(self._after_byte(before, byte) is not None)
            found = self._after_pending[pending] = np.array(allowed), unsure
        return found

    @property
    def _trie(self) -> tuple[np.ndarray, ...]:
        return self._vocabulary.first, self._vocabulary.count, self._vocabulary.byte

    def _window(self, configuration: int) -> Window:
        """Kept, or computed again from one that is (at the latest that of the empty sequence)."""
        tokens, at = [], configuration
        while at not in self._windows:
            tokens.append(self._tokens[at])
            at = self._parents[at]
        window = self._windows[at]
        for token in reversed(tokens):
            after = self._after(window, token)
            assert after is not None  # it was not when the configuration got its number
            window = after
        if tokens:
            self._keep(configuration, window)
        return window

    def _keep(self, configuration: int, window: Window) -> None:
        if len(self._windows) >= _KEPT:
            self._windows = {self.start: _FRESH}
        self._windows[configuration] = window

    def _after(self, window: Window, token: int) -> Window | None:
        """None: no text is encoded so."""
        if token in self._bytes:
            return self._after_byte(window, self._bytes[token])
        if token not in self._matched:
            return None
        before = _FRESH if window.pending else window
        return self._extend(before, self._vocabulary.spellings[token], token)

    def _after_byte(self, window: Window, byte: int) -> Window | None:
        data = window.pending + bytes([byte])
        status = utf8_status(data)
        if status == "bad" and window.pending:  # it has not become a character
            return self._after_byte(_FRESH, byte)
        if status == "partial":
            return window._replace(pending=data)
        if status == "bad" or data == SPACE.encode():
            return _FRESH
        return self._extend(window, data, _UNKNOWN)

    def _extend(self, window: Window, spelling: bytes, token: int) -> Window | None:
        """After whole characters that must be one token (or one that no piece spells)."""
        done, text = len(window.text), window.text + spelling
        best = np.full(len(text) + 1, np.nan, np.float32)
        best[: done + 1] = window.best
        data = np.frombuffer(text, np.uint8)
        last, start = _forward(
            *self._trie, self._piece, self._score, self._unknown, data, done, best
        )
        if last != token or start != done:
            return None
        cut = max(len(text) - (self._longest - 1), 0)
        return Window(text[cut:], best[cut:].copy(), b"")


def canonical_of(vocabulary: Vocabulary) -> Canonical | Unigram:
    """What knows the encodings of a tokenizer. UserError where it is not understood."""
    tokenizer = vocabulary.tokenizer
    if isinstance(tokenizer, SentencePieceTokenizer):
        if tokenizer.pieces()[0] == sentencepiece_file.UNIGRAM:
            return Unigram(vocabulary)
    return Canonical(vocabulary)


def _check_library() -> None:
    import sentencepiece

    version = tuple(int(n) for n in re.findall(r"\d+", sentencepiece.__version__)[:3])
    if version < _TRIED:
        raise UserError(
            f"sentencepiece {sentencepiece.__version__} adds up the scores of a unigram model in "
            "another way than laws canonical and last-free do: install 0.2.3 or later, or use "
            "--law all"
        )


@compiled
def _character(byte):
    """Bytes of the character that begins with this one."""
    return 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4


@compiled
def _forward(first, count, byte, piece, score, unknown, text, done, best):
    """Fills in `best` behind `done`, in the order of the encoder: starts from left to right, and
    what comes later must be better than what is there. Returns the last token of the best
    segmentation of the whole and where it starts."""
    end, last, start = len(text), _NONE, -1
    for at in range(end):
        if np.isnan(best[at]):
            continue
        size = _character(text[at])
        node, spelled = 0, False
        for to in range(at + 1, end + 1):
            node = child(first, count, byte, node, text[to - 1])
            if node < 0:
                break
            if piece[node] < 0:
                continue
            spelled = spelled or to == at + size
            total = score[node] + best[at]
            if to > done and (np.isnan(best[to]) or total > best[to]):
                best[to] = total
                if to == end:
                    last, start = piece[node], at
        to = at + size
        if not spelled and done < to <= end:
            total = unknown + best[at]
            if np.isnan(best[to]) or total > best[to]:
                best[to] = total
                if to == end:
                    last, start = _UNKNOWN, at
    return last, start


@compiled
def _all_pieces(first, count, byte, piece, score, unknown, whole, offsets, starts, ends, unspelled,
                text, before):
    """bool [nodes]: whether the piece that a node spells is, after `text` with the sums `before`,
    the last token of the best segmentation. `_forward` for all of them at once."""
    size = len(piece)
    best = np.full(size, np.nan, np.float32)
    best[0] = before[len(text)]
    won = np.zeros(size, np.bool_)
    ours, theirs = np.zeros(size, np.int32), np.zeros(size, np.int32)
    for at in range(len(text)):  # pieces that start before the place and end behind it
        if np.isnan(before[at]):
            continue
        node = 0
        for t in range(at, len(text)):
            node = child(first, count, byte, node, text[t])
            if node < 0:
                break
        if node < 0:
            continue
        ours[0], theirs[0], waiting = node, 0, 1
        while waiting:
            waiting -= 1
            longer, beyond = ours[waiting], theirs[waiting]
            for c in range(first[longer], first[longer] + count[longer]):
                to = child(first, count, byte, beyond, byte[c])
                if to < 0:
                    continue
                if piece[c] >= 0:
                    total = score[c] + before[at]
                    if np.isnan(best[to]) or total > best[to]:
                        best[to] = total
                ours[waiting], theirs[waiting] = c, to
                waiting += 1
    for to in range(1, size):  # parents first
        if not whole[to]:
            continue
        if piece[to] >= 0:
            total = score[to] + best[0]
            if np.isnan(best[to]) or total > best[to]:
                best[to] = total
                won[to] = True
        for i in range(offsets[to], offsets[to + 1]):  # from left to right
            total = score[ends[i]] + best[starts[i]]
            if np.isnan(best[to]) or total > best[to]:
                best[to] = total
                won[to] = False
        if unspelled[to] >= 0:
            total = unknown + best[unspelled[to]]
            if np.isnan(best[to]) or total > best[to]:
                best[to] = total
                won[to] = False
    return won


@compiled
def _inside(first, count, byte, parent, depth, piece):
    """How the strings of the trie end, for `_all_pieces`: whole bool [nodes], of whole characters;
    the pieces ends[i] that end the string of a node and start inside it, behind the node starts[i],
    longest first, i from offsets[node] to offsets[node + 1]; unspelled int32 [nodes]: the node
    before the last character where no piece spells that alone, else -1."""
    size = len(piece)
    left = np.zeros(size, np.int64)  # bytes that the last character lacks
    whole = np.zeros(size, np.bool_)
    unspelled = np.full(size, -1, np.int32)
    offsets = np.ones(size + 1, np.int64)
    starts, ends = [np.int32(0)], [np.int32(0)]  # the first belongs to no node
    whole[0] = True
    for to in range(1, size):
        up = parent[to]
        left[to] = (left[up] if left[up] else _character(byte[to])) - 1
        whole[to] = left[to] == 0
        if whole[to]:
            text = np.zeros(depth[to], np.uint8)
            nodes = np.zeros(depth[to], np.int32)  # before each byte
            at = to
            for t in range(depth[to] - 1, -1, -1):
                text[t] = byte[at]
                at = parent[at]
                nodes[t] = at
            for t in range(depth[to]):
                if not whole[nodes[t]]:
                    continue
                node = 0
                for i in range(t, depth[to]):
                    node = child(first, count, byte, node, text[i])
                    if node < 0:
                        break
                spelled = node >= 0 and piece[node] >= 0
                if spelled and t:
                    starts.append(nodes[t])
                    ends.append(np.int32(node))
                unspelled[to] = np.int32(-1) if spelled else nodes[t]  # the last one stays
        offsets[to + 1] = len(starts)
    return whole, offsets, np.array(starts, np.int32), np.array(ends, np.int32), unspelled
