"""Rows of a HAT that draws its own words, by the interface of `hat_rows`, of which they are.

The predictor tells of every byte that is read whether it starts a word, by the rule of training
(`find_starts`); if so, the word before it is complete. What guides the bytes is the backbone's
output smoothed with the one before, so the smoothed output is remembered too, and of the byte
before its id, its script and its activations.

A row of training has room for so many words and starts none beyond; a row in memory takes as many
as it draws. So what is generated, and scored here, equals one pass over rows in which no word is
dropped, as those of `hat.inference.scoring` are. A chance within rounding of one half may fall on
the other side of it in another program.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hat.inference.hat_rows import CHUNKS, Chunk, HatRows, HatState, read_chunk, take_apart
from hat.inference.llama_rows import Prompt
from hat.inference.parts import Parts
from hat.inference.word_ends import NO_END
from hat.models.hat_learned import (
    LearnedHat,
    LearnedHatModel,
    Latest,
    find_starts,
    nothing_read,
    smoothed,
)
from hat.models.model import Params
from hat.text.ids import NUM_BYTES
from hat.text.splitters import Splitter


class Drawing(NamedTuple):
    """Of B rows. latest: the byte before. guide: float32 [B, D], the smoothed output of the last
    complete word. keep: float32 [B], how much of its own a word that the latest byte ended has."""

    latest: Latest
    guide: jax.Array
    keep: jax.Array


class LearnedHatRows(HatRows):
    """`split` of a state is a `Drawing`, and `begin` is right after every chunk."""

    slots_per_step = 1
    # A chunk can complete a word with every id, and the one before it.
    chunks = tuple(size - 1 for size in CHUNKS)
    _bytes_per_word = 1

    def __init__(self, model: LearnedHatModel):
        super().__init__(model)
        self._parts = Parts(model, _take_apart)

    def prepare(self, params: Params, splitter: Splitter) -> dict[str, Any]:
        """The splitter, any, finds no words here."""
        return self._parts.split(params)

    def read(self, splitter: Splitter, ids: np.ndarray) -> Prompt:
        return Prompt(ids)

    def empty(self, params: dict[str, Any], rows: int) -> HatState:
        config, dtype = self._config, jnp.dtype(self._config.dtype)
        drawing = Drawing(
            nothing_read(rows, config.encoder.hidden_size, dtype),
            jnp.zeros((rows, config.backbone.hidden_size), jnp.float32),
            jnp.ones(rows, jnp.float32),
        )
        return self._empty(rows, self._longest + 1, drawing)

    def slots_of(self, prompt: Prompt) -> int:
        """At least: how many words there are is known when they are read."""
        if self._bytes_grow:
            return len(prompt.ids)
        return -(-len(prompt.ids) // self._longest)

    def read_chunk(
        self, params, state: HatState, prompt: Prompt, first: int, most: int, *, scores=False
    ) -> tuple[HatState, jax.Array, int]:
        last = min(first + self.chunks[-1], first + most, len(prompt.ids))
        count = last - first
        size = next(size for size in CHUNKS if count < size)
        used = first if self._bytes_grow else int(state.words[0])
        state = self.with_room(state, used + size)
        ids = np.pad(prompt.ids[first:last], (0, size - count))[None]
        inputs = Chunk(ids, np.int32(first), np.int32(count))
        return *read_chunk(self, params, state, inputs, scores), last

    def at_end(self, state: HatState, prompt: Prompt) -> HatState:
        return state

    def _find_words(self, part, state: HatState, x, inputs: Chunk) -> tuple[HatState, Chunk]:
        ids, count, latest = inputs.ids, inputs.count, state.split.latest
        index = jnp.arange(ids.shape[1])[None]
        position, real = inputs.start + index, index < count
        chance, groups = part("boundaries")(ids, x, latest)
        starts, _, keep = find_starts(
            ids, latest.id, real, chance, position, state.begin, self._longest
        )
        # Words from the first that is not complete; the ring holds it unless a special came last.
        number = jnp.cumsum(starts, axis=1) - 1 + (latest.id < NUM_BYTES)[:, None]
        special = ids >= NUM_BYTES
        guide = number + special

        def last(x):
            return jax.lax.dynamic_index_in_dim(x, count - 1, axis=1, keepdims=False)

        words, room = last(guide)[0], ids.shape[1]
        ring = state.connector.size
        held = (inputs.start - ring + jnp.arange(ring))[None] >= state.begin[:, None]
        word = jnp.concatenate([held, jnp.where(real, number + 1, room + 1)], axis=1)
        place = jnp.where(starts, number, room + 1)[0]
        keeps = jnp.ones((1, room + 1)).at[:, place].set(keep, mode="drop")[:, 1:]
        begin = jnp.max(jnp.where(starts, position, state.begin[:, None]), axis=1)
        latest = Latest(last(ids), last(groups), last(x))
        state = state._replace(
            begin=jnp.where(last(special), inputs.start + count, begin),
            split=state.split._replace(latest=latest),
        )
        return state, inputs._replace(
            word=jnp.where(word > words, room + 1, word), guide=guide, before=state.words[0],
            words=words, keep=keeps,
        )  # fmt: skip

    def _smooth_chunk(self, split: Drawing, words, inputs: Chunk) -> tuple[Drawing, jax.Array]:
        mixed = _smoothed_after(split.guide, words, inputs.keep)
        table = jnp.concatenate([split.guide[:, None], mixed], axis=1)
        guide = jnp.take(table, inputs.words, axis=1)
        return split._replace(guide=guide), mixed.astype(words.dtype)

    def _find_ends(self, params, state: HatState, x, ids) -> tuple[HatState, jax.Array]:
        latest, position = state.split.latest, state.position[:, None]
        chance, groups = self._parts.module(params, "boundaries")(ids[:, None], x, latest)
        starts, _, keep = find_starts(
            ids[:, None], latest.id, True, chance, position, state.begin, self._longest
        )
        split = state.split._replace(latest=Latest(ids, groups[:, 0], x[:, 0]), keep=keep[:, 0])
        return state._replace(split=split), jnp.where(starts, position, NO_END)

    def _smooth(self, split: Drawing, rows, words) -> tuple[Drawing, jax.Array]:
        guide, keep = (x.at[rows].get(mode="clip") for x in (split.guide, split.keep))
        mixed = _smoothed_after(guide, words, keep[:, None])
        guide = split.guide.at[rows].set(mixed[:, 0], mode="drop")
        return split._replace(guide=guide), mixed.astype(words.dtype)

    @property
    def _longest(self) -> int:
        return self._config.boundaries.max_word_bytes


@functools.lru_cache(maxsize=8)
def hat_learned_rows(model: LearnedHatModel) -> LearnedHatRows:
    return LearnedHatRows(model)


def _take_apart(module: LearnedHat) -> dict[str, Any]:
    return {**take_apart(module), "boundaries": module.boundaries}


def _smoothed_after(before, words, keep) -> jax.Array:
    """float32 [C, N, D]: outputs [C, N, D] smoothed behind the smoothed one before, [C, D]."""
    words = jnp.concatenate([before[:, None], words.astype(jnp.float32)], axis=1)
    return smoothed(words, jnp.pad(keep, [(0, 0), (1, 0)], constant_values=1.0))[:, 1:]
