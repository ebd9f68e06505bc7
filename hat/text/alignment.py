"""Rows of bytes beside the tokens that another vocabulary makes of the same text.

`TokenView` is a pure function of a batch of HAT rows: it spells out every document (or piece of
one) and encodes it, so that a teacher can read what the student reads. All arrays are int32 with
static shapes: T ids and N words in a row of the student, M tokens in a row of the teacher.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from hat.text.ids import EOT, NUM_BYTES
from hat.text.tokenizers import Tokenizer

WHITE_SPACE = b" \t\n\v\f\r"

Arrays = dict[str, np.ndarray]


class TokenView:
    """The tokens of a batch of HAT rows [B, T], under a tokenizer.

    eot: the id with which the teacher ends a text. bytes_per_token: M = T / bytes_per_token; the
    tokens of a row beyond M are dropped. vocabulary: its tokens, sorted.
    """

    def __init__(self, tokenizer: Tokenizer, eot: int, bytes_per_token: float = 1.0):
        self._tokenizer, self._eot, self._bytes_per_token = tokenizer, eot, bytes_per_token
        self.vocabulary = SortedVocabulary(tokenizer, eot)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> Arrays:
        """The arrays of `hat.text.alignment.align` for every row, [B, ...]."""
        rows = [
            self._row({name: values[row] for name, values in batch.items()})
            for row in range(len(batch["bytes"]))
        ]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _row(self, row: Arrays) -> Arrays:
        ids = row["bytes"]
        tokens: list[np.ndarray] = []
        widths: list[np.ndarray] = []  # ids of the row that every token stands for
        for begin, end in segment_bounds(row["segment"]):
            content = ids[begin + 1 : end]
            ends = int(EOT in content[-1:])
            found = self._tokenizer.encode(document_bytes(content))
            spelled = self._tokenizer.byte_lengths[found]
            tokens.append(np.array([self._tokenizer.bos, *found, *[self._eot] * ends], np.int64))
            widths.append(np.array([1, *spelled, *[1] * ends], np.int64))
        return align(row, tokens, widths, math.ceil(len(ids) / self._bytes_per_token)) | (
            self.vocabulary.locate(tokens, len(ids))
        )


def segment_bounds(segment: np.ndarray) -> list[tuple[int, int]]:
    """Begin and end of every segment of a row; segment int[T], 0 at padding."""
    used = int((segment > 0).sum())
    opening = np.flatnonzero(np.diff(segment[:used], prepend=0)).tolist()
    return list(zip(opening, [*opening[1:], used]))


def document_bytes(content: np.ndarray) -> bytes:
    """What the ids of a segment after its BOS spell."""
    return content[content < NUM_BYTES].astype(np.uint8).tobytes()


def align(
    row: Mapping[str, np.ndarray],
    tokens: list[np.ndarray],
    widths: list[np.ndarray],
    room: int,
) -> Arrays:
    """One row of T ids in N words beside its tokens, of which the first M = `room` are kept.

    tokens, widths: per segment, the ids of its tokens and how many ids of the row each stands for.

    teacher_tokens[M], teacher_segment[M] (0 padding), teacher_position[M];
    token[T]: index of the token that the id belongs to, M where there is none;
    word_token[N]: the token that ends where the word ends, M where none does;
    span[T], token_span[M]: number of the span of white-space separated text, M outside all;
    closed[T], token_closed[M]: 1 at the last id and token of a span after which white space or the
    end of the text begins a token. A span that is not closed is none.
    """
    ids, length = row["bytes"], len(row["bytes"])
    lengths = np.array([len(part) for part in tokens], np.int64)
    none = np.zeros(0, np.int64)  # a row of padding has no segment
    width = np.concatenate([none, *widths])
    used, count = int(width.sum()), len(width)
    first = np.cumsum(width) - width  # of every token, the id where it begins

    token = np.full(length, room, np.int32)
    token[:used] = np.minimum(np.repeat(np.arange(count), width), room)
    segment = np.repeat(np.arange(1, len(tokens) + 1), lengths)
    begins = np.repeat(np.cumsum(lengths) - lengths, lengths)

    # A word ends where the id after it is of another; its token ends there if that changes too.
    last = np.append(row["word"][1:] != row["word"][:-1], True) & (row["segment"] > 0)
    last &= (np.append(token[1:], -1) != token) & (token < room) & (ids != EOT)
    word_token = np.full(len(row["word_segment"]), room, np.int32)
    word_token[row["word"][last]] = token[last]

    span, token_span, closed, token_closed = _spans(ids, first, segment, width, room)
    return {
        "teacher_tokens": _fit(np.concatenate([none, *tokens]), room, 0),
        "teacher_segment": _fit(segment, room, 0),
        "teacher_position": _fit(np.arange(count) - begins, room, 0),
        "token": token,
        "word_token": word_token,
        "span": span,
        "token_span": token_span,
        "closed": closed,
        "token_closed": token_closed,
    }


def _spans(ids, first, segment, width, room) -> tuple[np.ndarray, ...]:
    """span[T], token_span[M], closed[T] and token_closed[M]; see `align`."""
    count = len(first)
    opens_document = np.diff(segment, prepend=0) > 0
    white = np.isin(ids[first], [*WHITE_SPACE, EOT])
    # BOS is a span of its own, which nothing predicts; what follows it opens one.
    opens = opens_document | white | np.append(False, opens_document)[:-1]
    number = np.cumsum(opens) - 1
    follows = np.append((white & ~opens_document)[1:], False)[:count]  # white space, or the end
    closed = follows & ~opens_document
    # A span that the room cuts off is none. The end of a text is one that nothing has to close.
    whole = np.zeros(count, bool)
    whole[number[closed & (np.arange(count) < room)]] = True
    whole[number[(ids[first] == EOT) & (np.arange(count) < room)]] = True
    token_span = np.where(whole[number], number, room).astype(np.int32)
    closed &= token_span < room
    span, closed_ids = np.full(len(ids), room, np.int32), np.zeros(len(ids), np.int32)
    span[: int(width.sum())] = np.repeat(token_span, width)
    closed_ids[(first + width - 1)[closed]] = 1
    return span, _fit(token_span, room, room), closed_ids, _fit(closed, room, 0)


def _fit(values: np.ndarray, size: int, fill: int) -> np.ndarray:
    """The first `size` values, filled up."""
    out = np.full(size, fill, np.int32)
    kept = values[:size]
    out[: len(kept)] = kept
    return out


class Continuations(NamedTuple):
    """A vocabulary, sorted for the question which byte goes on from some bytes of a token.

    order: int32[K], ids of the tokens that spell something, sorted by their bytes, after the end
    of text. next_bytes: uint16[L, K], the byte at depth j of each; 256 is the end of text (at
    depth 0 of the first), 257 stands where a token has ended, as all have at the last depth.
    """

    order: np.ndarray
    next_bytes: np.ndarray


_PLACES = ("depth", "low", "high", "own_low", "own_high")


class SortedVocabulary:
    """Which tokens go on from the first bytes of a token: a range of the sorted vocabulary."""

    def __init__(self, tokenizer: Tokenizer, eot: int):
        spelled = [(tokenizer.token_bytes(i), i) for i in range(tokenizer.vocab_size) if i != eot]
        ordered = sorted((text, i) for text, i in spelled if text)
        self._texts = [text for text, _ in ordered]
        self._token_bytes, self._eot = tokenizer.token_bytes, eot
        self._found: dict[int | None, np.ndarray] = {}  # of every token met so far
        longest = 1 + max(map(len, self._texts))
        table = np.full((longest, 1 + len(ordered)), NUM_BYTES + 1, np.uint16)
        table[0, 0] = NUM_BYTES
        for column, text in enumerate(self._texts, start=1):
            table[: len(text), column] = np.frombuffer(text, np.uint8)
        self.continuations = Continuations(np.array([eot, *(i for _, i in ordered)], np.int32), table)

    def locate(self, tokens: list[np.ndarray], length: int) -> Arrays:
        """For every id of a row of T = `length` ids: depth[T], its place in its token, and low[T]
        and high[T], the range of the sorted tokens that go on from the bytes before it there; and
        own_low[T] and own_high[T], that of the tokens that begin with those and its own byte, the
        one that is over with it among them. Empty ranges at BOS and at padding; the second also
        where the text ends."""
        out = np.zeros((len(_PLACES), length), np.int32)
        at = 0
        for part in tokens:
            for token in [None, *part[1:].tolist()]:
                ranges = self._ranges(token)
                out[:, at : at + ranges.shape[1]] = ranges
                at += ranges.shape[1]
        return dict(zip(_PLACES, out))

    def _ranges(self, token: int | None) -> np.ndarray:
        """int32[_PLACES, bytes of the token]. None stands for BOS."""
        if token not in self._found:
            self._found[token] = self._find_ranges(token)
        return self._found[token]

    def _find_ranges(self, token: int | None) -> np.ndarray:
        if token is None:
            return np.zeros((len(_PLACES), 1), np.int32)
        if token == self._eot:
            return np.array([[0], [0], [1 + len(self._texts)], [0], [0]], np.int32)
        text, columns = self._token_bytes(token), []
        before = 0, 1 + len(self._texts)  # nothing is known yet, so that all tokens go on
        for depth in range(len(text)):
            known = text[: depth + 1]
            high = 1 + self._end(known)
            columns.append((depth, *before, 1 + bisect.bisect_left(self._texts, known), high))
            before = 1 + bisect.bisect_right(self._texts, known), high
        return np.array(columns, np.int32).T

    def _end(self, prefix: bytes) -> int:
        """Where the texts that begin with `prefix` end among the sorted ones."""
        stripped = prefix.rstrip(b"\xff")  # no byte follows 0xff
        if not stripped:
            return len(self._texts)
        after = stripped[:-1] + bytes([stripped[-1] + 1])
        return bisect.bisect_left(self._texts, after)
