"""Which token may follow which inside a pretoken, by the order of the merges of a BPE.

BPE merges the neighbours of the lowest rank first, of equal ranks the leftmost. A sequence of
tokens is what BPE makes of its own text just where every two neighbours are: up to the first merge
across a boundary, the two tokens beside it have been built as they are when they stand alone.

So a pair (l, r) is decided by two histories. While l is built alone, its last symbol changes at
certain clocks (the highest rank merged so far); the first symbol of r likewise. The pair fails
where two such symbols are neighbours while their own merge is next (arXiv 2506.14123 walks the
same two edges of the two merge trees).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from hat.errors import UserError
from hat.text import sentencepiece_file
from hat.text.split_loop import compiled
from hat.text.tokenizers import JsonTokenizer, SentencePieceTokenizer, Tokenizer

ALWAYS = np.int32(2**31 - 1)  # the clock at which what is never merged is merged
_BYTE = "<0x{:02X}>"


@dataclasses.dataclass(frozen=True)
class Rules:
    """A BPE over ids.

    pairs int64 [M, 2] are merged into merged [M] at ranks [M]. symbols: for each id what merging
    starts from, empty where there is no such text. pieces: the ids of single characters, by
    character, of a vocabulary with byte fallback, and byte_ids those of its 256 bytes (None in a
    byte-level vocabulary). whole: a pretoken that is a token is that token (`ignore_merges`).
    added: texts that become their id before anything else, by id.
    """

    pairs: np.ndarray
    merged: np.ndarray
    ranks: np.ndarray
    symbols: list[list[int]]
    pieces: dict[str, int] | None = None
    byte_ids: list[int] | None = None
    whole: bool = False
    added: dict[int, bytes] = dataclasses.field(default_factory=dict)


def read_rules(tokenizer: Tokenizer) -> Rules:
    """UserError where the tokenizer is no BPE, or one with an option that is not understood."""
    if isinstance(tokenizer, JsonTokenizer):
        return _json_rules(tokenizer)
    if isinstance(tokenizer, SentencePieceTokenizer):
        return _sentencepiece_rules(tokenizer)
    size = tokenizer.vocab_size  # bytes: nothing is merged
    return Rules(*_arrays([]), [[token] for token in range(size)])


def _json_rules(tokenizer: JsonTokenizer) -> Rules:
    spec, model = tokenizer.spec, tokenizer.spec["model"]
    if model.get("type", "BPE") != "BPE":
        raise UserError(_not_bpe(tokenizer, f"its model is {model['type']}"))
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise UserError(_not_bpe(tokenizer, f"its model has {option}"))
    vocabulary: dict[str, int] = model["vocab"]
    ranked = {}
    for rank, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        ranked[vocabulary[left], vocabulary[right]] = (vocabulary[left + right], rank)
    symbols: list[list[int]] = [[] for _ in range(tokenizer.vocab_size)]
    for piece, token in vocabulary.items():
        if tokenizer.token_bytes(token):
            characters = [vocabulary.get(character, -1) for character in piece]
            symbols[token] = [] if -1 in characters else characters
    pieces = byte_ids = None
    if model.get("byte_fallback"):
        pieces = {piece: token for piece, token in vocabulary.items() if len(piece) == 1}
        byte_ids = [vocabulary[_BYTE.format(byte)] for byte in range(256)]
        for token in byte_ids:
            symbols[token] = [token]
    added = {}
    for token in spec["added_tokens"]:
        if not token["special"]:
            if token["lstrip"] or token["rstrip"] or token["single_word"]:
                raise UserError(_not_bpe(tokenizer, f"added token {token['content']!r} strips"))
            added[token["id"]] = token["content"].encode()
    arrays = _arrays([(a, b, c, rank) for (a, b), (c, rank) in ranked.items()])
    whole = bool(model.get("ignore_merges"))
    return Rules(*arrays, symbols, pieces, byte_ids, whole, added)


def _sentencepiece_rules(tokenizer: SentencePieceTokenizer) -> Rules:
    kind, pieces = tokenizer.pieces()
    if kind != sentencepiece_file.BPE:
        raise UserError(_not_bpe(tokenizer, "its SentencePiece model is not a BPE"))
    odd = {sentencepiece_file.USER_DEFINED, sentencepiece_file.UNUSED}
    for piece in pieces:
        if piece.type in odd:
            raise UserError(_not_bpe(tokenizer, f"piece {piece.text!r} is user-defined or unused"))
    known = {p.text: i for i, p in enumerate(pieces) if p.type == sentencepiece_file.NORMAL}
    # Any two neighbours whose union is a piece are merged, in the order of the pieces' scores.
    order = {score: rank for rank, score in enumerate(sorted({-p.score for p in pieces}))}
    merges = []
    symbols: list[list[int]] = [[] for _ in pieces]
    for text, token in known.items():
        characters = [known.get(character, -1) for character in text]
        symbols[token] = [] if -1 in characters else characters
        for cut in range(1, len(text)):
            left, right = known.get(text[:cut]), known.get(text[cut:])
            if left is not None and right is not None:
                merges.append((left, right, token, order[-pieces[token].score]))
    ids = {p.text: i for i, p in enumerate(pieces) if p.type == sentencepiece_file.BYTE}
    byte_ids = [ids[_BYTE.format(byte)] for byte in range(256)]
    for token in byte_ids:
        symbols[token] = [token]
    characters = {text: token for text, token in known.items() if len(text) == 1}
    return Rules(*_arrays(merges), symbols, characters, byte_ids)


def _not_bpe(tokenizer: Tokenizer, why: str) -> str:
    return (
        f"tokenizer {tokenizer.name} has no law canonical or last-free here: {why}; "
        "--law all works with any tokenizer"
    )


def _arrays(merges: list[tuple[int, ...]]) -> tuple[Any, ...]:
    table = np.array(merges, np.int64).reshape(-1, 4)
    return table[:, :2], table[:, 2].astype(np.int32), table[:, 3].astype(np.int32)


class Pairs:
    """The pairs of a BPE, decided when they are asked for.

    heads bool [ids]: tokens that BPE makes of their own text.
    """

    def __init__(self, rules: Rules):
        self._table = _hash_table(rules)
        lengths = np.array([len(symbols) for symbols in rules.symbols])
        flat = np.array([s for symbols in rules.symbols for s in symbols], np.int32)
        starts = np.append(0, np.cumsum(lengths))
        self.heads = np.zeros(len(lengths), bool)
        # One more clock than merges, so never more entries than symbols.
        edges = [np.zeros((len(flat), 3), np.int32) for _ in range(2)]
        counts = np.zeros((2, len(lengths)), np.int32)
        _build_all(flat, starts, *self._table, *edges, counts, self.heads)
        self._edges = (*edges, starts, counts)
        # What `after` walks: merges by their left symbol, and first edges by their symbol.
        size = 1 + max(lengths.size, *(int(a.max(initial=0)) + 1 for a in (rules.pairs, flat)))
        self._merges = _grouped(rules.pairs[:, 0], size, rules.pairs[:, 1], rules.ranks)
        owner = np.repeat(np.arange(len(lengths)), lengths)
        number = np.arange(len(flat)) - np.repeat(starts[:-1], lengths)
        used = (number < counts[0][owner]) & self.heads[owner]
        first = edges[0][used]
        self._openings = _grouped(first[:, 0], size, owner[used], first[:, 1], first[:, 2])

    def allowed(self, left: int, right: int) -> bool:
        """Whether BPE leaves these neighbours as they are."""
        return bool(_allowed(left, right, *self._edges, self.heads, *self._table))

    def after(self, left: int, tokens: np.ndarray) -> np.ndarray:
        """bool [n]: whether each of `tokens` int32 [n] may follow `left`."""
        _, last_edges, starts, counts = self._edges
        allowed = self.heads & self.heads[left]
        if self.heads[left]:
            edges = last_edges[starts[left] : starts[left] + counts[1, left]]
            _forbid(edges, *self._merges, *self._openings, allowed)
        return allowed[tokens]


def _grouped(keys: np.ndarray, size: int, *columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of columns in the order of their keys below `size`, int32; where each key's begin."""
    order = np.argsort(keys, kind="stable")
    rows = np.stack(columns, axis=1).astype(np.int32)[order]
    return np.searchsorted(keys[order], np.arange(size + 1)), rows


def _hash_table(rules: Rules) -> tuple[np.ndarray, ...]:
    """Open addressing: slots hold the two symbols of a pair, and what they become at which rank."""
    size = 1 << max(4, int(2 * len(rules.merged)).bit_length())
    slots = np.full((size, 4), -1, np.int32)
    _fill(slots, rules.pairs.astype(np.int32), rules.merged, rules.ranks)
    return (slots,)


@compiled
def _slot(slots, left, right):
    """Where the pair is, or where it would be."""
    mask = len(slots) - 1
    at = ((left * np.int64(73856093)) ^ (right * np.int64(19349663))) & mask
    while slots[at, 0] >= 0 and (slots[at, 0] != left or slots[at, 1] != right):
        at = (at + 1) & mask
    return at


@compiled
def _fill(slots, pairs, merged, ranks):
    for i in range(len(merged)):
        at = _slot(slots, pairs[i, 0], pairs[i, 1])
        slots[at, 0], slots[at, 1], slots[at, 2], slots[at, 3] = (
            pairs[i, 0], pairs[i, 1], merged[i], ranks[i],
        )  # fmt: skip


@compiled
def _build_all(flat, starts, slots, first_edges, last_edges, counts, heads):
    """Runs BPE on the symbols of every token alone.

    An edge is a symbol at the first (last) place, the clock at which it came there and that at
    which it is merged away.
    """
    for token in range(len(starts) - 1):
        begin = starts[token]
        symbols = flat[begin : starts[token + 1]].copy()
        size = len(symbols)
        if size == 0:
            continue
        clock = np.int32(-1)
        counts[0, token] = counts[1, token] = 1
        first_edges[begin, 0], first_edges[begin, 1] = symbols[0], clock
        last_edges[begin, 0], last_edges[begin, 1] = symbols[size - 1], clock
        while True:
            best, best_rank, becomes = -1, ALWAYS, 0
            for i in range(size - 1):
                at = _slot(slots, symbols[i], symbols[i + 1])
                if slots[at, 0] >= 0 and slots[at, 3] < best_rank:
                    best, best_rank, becomes = i, slots[at, 3], slots[at, 2]
            if best < 0:
                break
            clock = max(clock, best_rank)
            symbols[best] = becomes
            for i in range(best + 1, size - 1):
                symbols[i] = symbols[i + 1]
            size -= 1
            if best == 0:
                first_edges[begin + counts[0, token] - 1, 2] = clock
                at = begin + counts[0, token]
                first_edges[at, 0], first_edges[at, 1] = symbols[0], clock
                counts[0, token] += 1
            if best == size - 1:
                last_edges[begin + counts[1, token] - 1, 2] = clock
                at = begin + counts[1, token]
                last_edges[at, 0], last_edges[at, 1] = symbols[size - 1], clock
                counts[1, token] += 1
        first_edges[begin + counts[0, token] - 1, 2] = ALWAYS
        last_edges[begin + counts[1, token] - 1, 2] = ALWAYS
        heads[token] = size == 1 and symbols[0] == token


@compiled
def _allowed(left, right, first_edges, last_edges, starts, counts, heads, slots):
    if not (heads[left] and heads[right]):
        return False
    for i in range(starts[left], starts[left] + counts[1, left]):
        came, goes = last_edges[i, 1], last_edges[i, 2]
        for j in range(starts[right], starts[right] + counts[0, right]):
            came_right, goes_right = first_edges[j, 1], first_edges[j, 2]
            # At equal clocks what is merged in `left` comes first, then the boundary, then `right`.
            if came > goes_right or came_right >= goes:
                continue  # the two were never neighbours
            at = _slot(slots, last_edges[i, 0], first_edges[j, 0])
            if slots[at, 0] >= 0 and slots[at, 3] < goes and slots[at, 3] <= goes_right:
                return False
    return True


@compiled
def _forbid(edges, merge_starts, merges, opening_starts, openings, allowed):
    """`_allowed` for all right tokens at once, from the merges that the last edges of the left
    token could take part in."""
    for i in range(len(edges)):
        symbol, came, goes = edges[i, 0], edges[i, 1], edges[i, 2]
        for m in range(merge_starts[symbol], merge_starts[symbol + 1]):
            right, rank = merges[m, 0], merges[m, 1]
            if rank >= goes:
                continue
            for o in range(opening_starts[right], opening_starts[right + 1]):
                came_right, goes_right = openings[o, 1], openings[o, 2]
                if came <= goes_right and came_right < goes and rank <= goes_right:
                    allowed[openings[o, 0]] = False
