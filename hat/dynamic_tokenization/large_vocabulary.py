"""Generation with a vocabulary that has been grown by continued byte-pair merging.

A base model gets the merges of a text as tokens, as many as are asked for, with predicted rows in
embedding and head. The prompt is read in merged tokens; every step runs the backbone once over its
caches (the published code has none: it reads the prefix anew, arXiv 2411.18553) and searches the best
tokens of the whole vocabulary (hat.dynamic_tokenization.search).
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hat.dynamic_tokenization.boundaries import Boundary, encode
from hat.dynamic_tokenization.embeddings import RowCache, extended, source_of
from hat.dynamic_tokenization.merging import MergeTable, apply, learn
from hat.dynamic_tokenization.search import Found, Vocabulary, recall
from hat.errors import UserError
from hat.inference.llama_rows import LlamaRows
from hat.inference.parts import Parts
from hat.models.hypernetwork import TokenRows
from hat.models.llama import Llama, LlamaModel
from hat.models.model import Params
from hat.text.tokenizers import Tokenizer

CANDIDATES = 20  # of a step; a sampled token is one of them


def grow(
    tokenizer: Tokenizer,
    base: int,
    texts: Sequence[bytes],
    size: int,
    boundary: Boundary = "word",
    most_parts: int | None = None,
) -> MergeTable:
    """The merges of the texts that make a vocabulary of `size` tokens. UserError: no more than the
    tokenizer has; the texts have fewer."""
    wanted = size - tokenizer.vocab_size
    if wanted <= 0:
        raise UserError(
            f"a vocabulary of {size:,} is none to grow: the tokenizer has {tokenizer.vocab_size:,}"
        )
    table = learn(
        [encode(text, tokenizer, boundary) for text in texts], base, merges=wanted,
        most_parts=most_parts,
    )  # fmt: skip
    if len(table) < wanted:
        raise UserError(
            f"the text yields only {tokenizer.vocab_size + len(table):,} tokens of {size:,}: ask for "
            "fewer, give more text, or merge across more with --boundary sentence"
        )
    return table


@dataclasses.dataclass(frozen=True)
class Continuation:
    """text: what was written. symbols: its tokens. ended: whether the model ended it. seconds: of
    all steps after the first two, which compile. hidden: float32 [n, d], what was searched for."""

    text: bytes
    symbols: list[int]
    ended: bool
    seconds: float
    hidden: np.ndarray


class LargeModel:
    """A Llama with its grown vocabulary, ready to write.

    rows: of the merged tokens, by their parts.
    """

    def __init__(
        self,
        model: LlamaModel,
        params: Params,
        tokenizer: Tokenizer,
        table: MergeTable,
        rows: RowCache,
        boundary: Boundary = "word",
        devices=None,
    ):
        self.model, self.tokenizer, self.table = model, tokenizer, table
        self._boundary, self._parts = boundary, table.parts()
        both: TokenRows = extended(source_of(model, params), rows(self._parts))
        config, size = model.config, model.config.num_ids + len(table)
        ids = np.arange(size)
        predicted = (ids < config.num_tokens) | (ids == config.eot) | (ids >= config.num_ids)
        outputs = np.asarray(both.inputs if both.outputs is None else both.outputs)
        self.vocabulary = Vocabulary(outputs, predicted, devices=devices)
        self._kind = _hidden_rows(model)
        whole = params | {"embedding": params["embedding"] | {"table": both.inputs}}
        self._prepared = self._kind.prepare(whole, None)

    def read(self, text: bytes) -> np.ndarray:
        """int32: the tokens of a text."""
        return apply(self.table, [encode(text, self.tokenizer, self._boundary)])[0]

    def spell(self, symbol: int) -> bytes:
        base = self.table.base
        return self.tokenizer.decode(self._parts[symbol - base] if symbol >= base else (symbol,))

    def write(
        self, prompt: bytes, tokens: int, *, temperature: float = 0.0, seed: int = 0,
        approximate: bool = False,
    ) -> Continuation:  # fmt: skip
        """Continues a prompt by at most so many tokens. temperature: 0 takes the likeliest of all;
        above, one of the CANDIDATES likeliest is drawn."""
        kind, rng = self._kind, np.random.default_rng(seed)
        ids = np.concatenate([[self.tokenizer.bos], self.read(prompt)]).astype(np.int32)
        state, first = kind.empty(self._prepared, 1), 0
        while first < len(ids):
            state, hidden, first = kind.read_chunk(
                self._prepared, state, kind.read(None, ids), first, len(ids)
            )
        symbols: list[int] = []
        searched: list[np.ndarray] = []
        ended, began = False, time.perf_counter()
        while len(symbols) < tokens:
            found = self.vocabulary.search(hidden, CANDIDATES, approximate)
            searched.append(np.asarray(hidden[0], np.float32))
            symbol = _choose(found, temperature, rng)
            if symbol == self.model.config.eot:
                ended = True
                break
            symbols.append(symbol)
            state = kind.with_room(state, len(ids) + len(symbols))
            clock, ids_now = np.int32(len(symbols) - 1), np.array([symbol], np.int32)
            state, hidden = _step(kind, self._prepared, state, clock, ids_now)
            if len(symbols) == 2:
                jax.block_until_ready(hidden)
                began = time.perf_counter()
        jax.block_until_ready(hidden)
        seconds = time.perf_counter() - began
        text = b"".join(map(self.spell, symbols))
        return Continuation(text, symbols, ended, seconds, np.stack(searched))

    def recall(self, hidden: np.ndarray) -> float:
        """Of the approximate search among its CANDIDATES best, over what was searched for."""
        queries = jnp.asarray(hidden)
        found, exact = (self.vocabulary.search(queries, CANDIDATES, how) for how in (True, False))
        return recall(found, exact)


def _choose(found: Found, temperature: float, rng: np.random.Generator) -> int:
    scores, ids = np.asarray(found.scores[0], np.float64), np.asarray(found.ids[0])
    if temperature == 0:
        return int(ids[0])
    p = np.exp((scores - scores[0]) / temperature)
    return int(rng.choice(ids, p=p / p.sum()))


class FinalNorm(nnx.Module):
    """In the place of a head: what it would score, [B, T, d]."""

    def __init__(self, norm: nnx.Module):
        self.norm = norm

    def __call__(self, x: jax.Array, table: jax.Array) -> jax.Array:
        return self.norm(x)


class HiddenRows(LlamaRows):
    """Rows of a Llama in memory that give what its head scores, in the place of logits."""

    def __init__(self, model: LlamaModel):
        super().__init__(model, rings=model.config.stack.window is not None)
        self._parts = Parts(model, _take_apart)


def _take_apart(module: Llama) -> dict[str, Any]:
    return {
        "embedding": module.embedding,
        "backbone": (module.backbone, module.config.stack.num_layers),
        "head": FinalNorm(module.head.norm),
    }


@functools.lru_cache(maxsize=8)
def _hidden_rows(model: LlamaModel) -> HiddenRows:
    return HiddenRows(model)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _step(kind: HiddenRows, params, state, clock, ids):
    return kind.step(params, state, clock, ids, np.ones(1, bool), 1)
