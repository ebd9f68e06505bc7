"""Rows of embedding and head for tokens that a model has never had: one interface, several ways.

A predictor is a function of the base's rows and of new tokens, given by their base tokens:

    predictor(source: TokenRows [V, d], parts: int32 [N, L], -1 after the last) -> TokenRows [N, d]

`mean_of_parts`, `last_part` (hat.models.hypernetwork) and a trained hypernetwork are such functions
of arrays; `KnownSpellings` puts exact lookup before any of them. `RowCache` makes rows of many
tokens: each distinct one once, in blocks of one shape.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from hat.models.hypernetwork import (
    RowPredictor,
    TokenRows,
    last_part,
    last_suffix,
    mean_of_parts,
)
from hat.models.llama import LlamaModel
from hat.models.model import Params
from hat.text.split_loop import compiled
from hat.text.tokenizers import Tokenizer

Predictor = Callable[[TokenRows, jax.Array], TokenRows]
Parts = tuple[int, ...]

PREDICTORS: dict[str, Predictor] = {  # that are not trained
    "mean": mean_of_parts, "last": last_part, "suffix": last_suffix,
}  # fmt: skip
BLOCK = 1024  # tokens whose rows are predicted at once


def source_of(model: LlamaModel, params: Params) -> TokenRows:
    """The rows of a model's own tokens, as its forward pass uses them."""
    params = model.compute_params(params)
    head = None if model.config.tie_embeddings else params["head"]["projection"]["kernel"].T
    return TokenRows(params["embedding"]["table"], head)


def hypernetwork(model: RowPredictor, params: Params, tokenizer: Tokenizer) -> Predictor:
    """The predictor of a trained hypernetwork. tokenizer: of its base."""
    return functools.partial(model.rows, params, spellings_for(model, tokenizer))


def spellings_for(model: RowPredictor, tokenizer: Tokenizer) -> np.ndarray | None:
    """int16 [num_ids, S]: the bytes of every token, then -1, where the predictor reads them."""
    if not model.reads_bytes:
        return None
    texts = [tokenizer.token_bytes(token) for token in range(model.config.num_ids)]
    longest = min(max(map(len, texts)), model.config.most_bytes)
    out = np.full((len(texts), longest), -1, np.int16)
    for row, text in zip(out, texts):
        its = np.frombuffer(text[:longest], np.uint8)
        row[: len(its)] = its
    return out


def pad_parts(parts: Sequence[Parts], longest: int, count: int | None = None) -> np.ndarray:
    """int32 [count, longest]: the parts of every token, then -1; rows of -1 after the last token.
    ValueError: one has more."""
    out = np.full((len(parts) if count is None else count, longest), -1, np.int32)
    for row, its in zip(out, parts):
        if len(its) > longest:
            raise ValueError(f"a token of {len(its)} parts, where {longest} are the most")
        row[: len(its)] = its
    return out


class KnownSpellings:
    """Exact lookup before any predictor: a token that spells what a base token spells is that token,
    of one part, so that every predictor gives it that row or begins there."""

    def __init__(self, tokenizer: Tokenizer):
        self._bytes = tokenizer.token_bytes
        self._known = {self._bytes(t): t for t in reversed(range(tokenizer.vocab_size))}
        self._known.pop(b"", None)

    def __call__(self, parts: Sequence[Parts]) -> list[Parts]:
        spelled = (b"".join(map(self._bytes, its)) for its in parts)
        return [(self._known[text],) if text in self._known else its
                for text, its in zip(spelled, parts)]  # fmt: skip


class RowCache:
    """Rows of tokens by their parts, each distinct one predicted once and kept on the host.

    The rows that one call asks for are never dropped for one another; beyond `capacity` the least
    lately used go (arXiv 2411.18553, appendix D). A cache changes nothing but the time.

    predicted: how many rows have been computed.
    """

    def __init__(
        self,
        predictor: Predictor,
        source: TokenRows,
        known: KnownSpellings | None = None,
        capacity: int = 100_000,
    ):
        """known: looks tokens up before they are predicted; None: none is."""
        self._predict = jax.jit(predictor)
        self._source, self._known, self._capacity = source, known, capacity
        self._rows: OrderedDict[Parts, list[np.ndarray]] = OrderedDict()
        shapes = jax.eval_shape(predictor, source, np.full((1, 1), -1, np.int32))
        self._sides = 1 if shapes.outputs is None else 2
        self.predicted = 0

    def __call__(self, parts: Sequence[Parts]) -> TokenRows:
        """TokenRows of NumPy arrays [N, d]."""
        parts = parts if self._known is None else self._known(parts)
        missing = [its for its in dict.fromkeys(parts) if its not in self._rows]
        for first in range(0, len(missing), BLOCK):
            block = missing[first : first + BLOCK]
            # Lengths to powers of two, so that few shapes are compiled.
            longest = 1 << (max(map(len, block)) - 1).bit_length()
            found = self._predict(self._source, pad_parts(block, longest, BLOCK))
            sides = [np.asarray(rows) for rows in found if rows is not None]
            for number, its in enumerate(block):
                self._rows[its] = [rows[number] for rows in sides]
            self.predicted += len(block)
        for its in parts:
            self._rows.move_to_end(its)
        size, dtype = self._source.inputs.shape[1], self._source.inputs.dtype
        out = np.zeros((self._sides, len(parts), size), dtype)
        for number, its in enumerate(parts):
            for side, row in enumerate(self._rows[its]):
                out[side, number] = row
        while len(self._rows) > max(self._capacity, len(set(parts))):
            self._rows.popitem(last=False)
        return TokenRows(out[0], out[1] if self._sides == 2 else None)


def extended(source: TokenRows, rows: TokenRows) -> TokenRows:
    """The base's rows, untouched, and then those of new tokens, which may have heads of their own
    where the base's are its embeddings."""
    inputs, outputs = source
    if outputs is None and rows.outputs is not None:
        outputs = inputs
    return TokenRows(*(
        None if a is None else jnp.concatenate([a, jnp.asarray(b, a.dtype)])
        for a, b in zip((inputs, outputs), rows)
    ))  # fmt: skip


# --- suffixes -------------------------------------------------------------------------------------


class Suffixes:
    """The tokens of a vocabulary as a trie of reversed spellings."""

    def __init__(self, tokenizer: Tokenizer):
        nodes: list[dict[int, int]] = [{}]
        token_at = [-1]
        for token in reversed(range(tokenizer.vocab_size)):  # of equal spellings the first id stays
            node, spelled = 0, tokenizer.token_bytes(token)
            for byte in reversed(spelled):
                if byte not in nodes[node]:
                    nodes[node][byte] = len(nodes)
                    nodes.append({})
                    token_at.append(-1)
                node = nodes[node][byte]
            if spelled:
                token_at[node] = token
        self._child = np.full((len(nodes), 256), -1, np.int32)
        for node, children in enumerate(nodes):
            self._child[node, list(children)] = list(children.values())
        self._token_at = np.array(token_at, np.int32)

    def __call__(self, text: bytes) -> np.ndarray:
        """int32 [T]: for each byte the longest token that ends with it, and lies in the text: it
        depends on nothing behind the byte."""
        return longest_suffixes(np.frombuffer(text, np.uint8), self._child, self._token_at)


@compiled
def longest_suffixes(text, child, token_at):
    out = np.full(len(text), -1, np.int32)
    for end in range(len(text)):
        node, place = 0, end
        while place >= 0:
            node = child[node, text[place]]
            if node < 0:
                break
            if token_at[node] >= 0:
                out[end] = token_at[node]
            place -= 1
    return out


class SuffixSpellings(KnownSpellings):
    """The same, and behind the parts of every token the longest base token that it ends with, for
    `last_suffix`."""

    def __init__(self, tokenizer: Tokenizer):
        super().__init__(tokenizer)
        self._suffixes = Suffixes(tokenizer)

    def __call__(self, parts: Sequence[Parts]) -> list[Parts]:
        spelled = (b"".join(map(self._bytes, its)) for its in parts)
        return [(*its, int(self._suffixes(text)[-1]))
                for its, text in zip(super().__call__(parts), spelled)]  # fmt: skip


def untrained(way: str, tokenizer: Tokenizer) -> tuple[Predictor, KnownSpellings]:
    """A predictor of `PREDICTORS`, and what is to prepare the parts it reads; for `RowCache`."""
    spellings = SuffixSpellings if way == "suffix" else KnownSpellings
    return PREDICTORS[way], spellings(tokenizer)


__all__ = [
    "BLOCK", "KnownSpellings", "PREDICTORS", "Parts", "Predictor", "RowCache",
    "SuffixSpellings", "Suffixes", "extended", "hypernetwork", "last_part", "last_suffix",
    "longest_suffixes", "mean_of_parts", "pad_parts", "source_of", "spellings_for", "untrained",
]  # fmt: skip
