"""Byte by byte through a HAT, with caches: the same numbers as one pass over the whole.

A byte goes through the encoder; every word that the splitter now knows to be complete is pooled
and takes one step of the backbone, whose output is the new guide; then the byte goes through the
decoder under the guide of the last complete word. The memory of a row is the windows of the byte
stacks, the longest word, and the backbone's keys and values.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hat.errors import UserError
from hat.inference.caches import (
    Cache,
    Step,
    compute_params,
    empty_cache,
    grow,
    held_positions,
    run_cached_stack,
    stack_cache,
    write,
)
from hat.models.attention.plain import masked_attention
from hat.models.hat import Decoder, HatModel
from hat.models.model import Params
from hat.text.ids import BOS, EOT, NUM_BYTES, PAD
from hat.text.splitters import BYTE_CAUSAL, Splitter, Stream

WORD_ROOM = 128  # bytes of an unfinished word that the connector's ring holds to begin with


class HatState(NamedTuple):
    """What the device keeps of B documents.

    connector: keys and values of the latest bytes, one layer; guides [L, B, d]: what each decoder
    layer adds to the bytes that follow the last complete word.
    """

    encoder: Cache
    connector: Cache
    backbone: Cache
    decoder: Cache
    guides: jax.Array


class Word(NamedTuple):
    """A complete word: its index in the document and its positions [start, end); BOS is 0."""

    index: int
    start: int
    end: int


class WordTracker:
    """Which words of one document are complete, as the splitter's stream reveals them.

    An EOT inside the document ends a turn (hat.text.chat): it completes every word, is one itself,
    and the splitter begins anew after it.
    """

    def __init__(self, splitter: Splitter):
        self._splitter = splitter
        self._stream: Stream = splitter.stream()
        self._origin = 1  # position of the first byte that the stream has read
        self._words_before = 1  # words before it: BOS
        self.position = -1  # of the latest id; BOS is 0, byte i of the text i + 1
        self.num_complete = 0  # words, BOS included
        self.begin = 0  # where the first word not known to be complete begins
        self._starts: list[int] = []  # known word starts after `begin`

    def fork(self) -> WordTracker:
        """An independent tracker of the same bytes."""
        other = copy.copy(self)
        other._stream, other._starts = copy.copy(self._stream), list(self._starts)
        return other

    def push(self, id: int) -> list[Word]:
        """Reads one id and returns the words that it makes complete, in order."""
        self.position += 1
        if self.position == 0:  # BOS, at once
            return [self._complete(1)]
        if id == EOT:
            return self._end_turn()
        revealed = self._stream.push(id)
        self._learn(revealed.starts)
        words = []
        while self.num_complete < self._words_before + revealed.known:
            # No known start behind it: the latest byte closed its own word.
            words.append(self._complete(self._starts.pop(0) if self._starts else self.position + 1))
        return words

    def _end_turn(self) -> list[Word]:
        self._learn(self._stream.finish())
        ends = [end for end in (*self._starts, self.position) if end > self.begin]
        words = [self._complete(end) for end in (*ends, self.position + 1)]
        self._starts = []
        self._stream, self._origin = self._splitter.stream(), self.position + 1
        self._words_before = self.num_complete
        return words

    def _learn(self, starts: Iterable[int]) -> None:
        """Takes word starts that count from the beginning of the stream."""
        places = (self._origin + start for start in starts)
        self._starts += [place for place in places if place > self.begin]

    def _complete(self, end: int) -> Word:
        word = Word(self.num_complete, self.begin, end)
        self.begin, self.num_complete = end, self.num_complete + 1
        return word


class HatSession:
    """Rows in lock-step, one id per row and push. Holds device arrays; not for two threads.

    splitter must be byte-causal and that of training. capacity: slots of a cache without a
    window to begin with; they double as documents grow.
    """

    bos, eot, pad = BOS, EOT, PAD

    def __init__(
        self,
        model: HatModel,
        params: Params,
        splitter: Splitter,
        batch_size: int,
        *,
        capacity: int = 256,
    ):
        config = model.config
        if config.guide != "earliest":
            raise UserError(
                f'the model\'s guide is "{config.guide}", which looks ahead inside a character; '
                'byte-by-byte generation needs guide="earliest"'
            )
        if splitter.causality != BYTE_CAUSAL:
            raise UserError(
                f"splitter {splitter.name} is not byte-causal (it is {splitter.causality.kind}); "
                "generation needs a rule that never looks ahead"
            )
        self.batch_size = batch_size
        self._model = model
        self._params = compute_params(model, params)
        self._splitter = splitter
        self._trackers = [WordTracker(splitter) for _ in range(batch_size)]
        dtype = jnp.dtype(config.dtype)
        heads = config.connector.num_heads
        self._state = HatState(
            encoder=stack_cache(config.encoder, batch_size, capacity, dtype),
            connector=empty_cache(
                1, batch_size, WORD_ROOM, heads, config.connector.hidden_size // heads, dtype
            ),
            backbone=stack_cache(config.backbone, batch_size, capacity, dtype),
            decoder=stack_cache(config.decoder, batch_size, capacity, dtype),
            guides=jnp.zeros(
                (config.decoder.num_layers, batch_size, config.decoder.hidden_size), dtype
            ),
        )

    def fork(self) -> HatSession:
        """An independent session that has read the same; for the splitters of `hat.text`."""
        other = copy.copy(self)
        other._trackers = [tracker.fork() for tracker in self._trackers]
        other._state = jax.tree.map(jnp.copy, self._state)  # a push gives its arrays away
        return other

    @staticmethod
    def encode(text: bytes) -> list[int]:
        """The ids of a text, without BOS and EOT."""
        return list(text)

    @staticmethod
    def spell(id: int) -> bytes:
        """The bytes of one id."""
        return bytes([id])

    def push(self, ids: np.ndarray) -> jax.Array:
        """ids int [B] -> float32 logits [B, ids] of the id that follows in each row.

        BOS starts a new document in its row, which is the first thing a row must see; EOT ends a
        turn; a row with PAD does nothing, and its logits mean nothing. ValueError for another id.
        """
        ids = np.asarray(ids, np.int32)
        self._check(ids)
        active = ids != PAD
        for row in np.flatnonzero(ids == BOS):
            self._trackers[row] = WordTracker(self._splitter)
        # The bytes of the oldest unfinished word, this one included, must stay in the ring.
        word_room = max(t.position + 2 - t.begin for t in self._trackers)
        completed = [
            self._trackers[row].push(int(id)) if id != PAD else [] for row, id in enumerate(ids)
        ]
        self._make_room(word_room)

        step = Step(np.array([t.position for t in self._trackers], np.int32), active)
        self._state, x = _encode(self._model, self._params, self._state, ids, step)
        for turn in range(max(map(len, completed))):
            words = [row[turn] if turn < len(row) else None for row in completed]
            spans = np.array([word or Word(0, 0, 0) for word in words], np.int32)
            complete = np.array([word is not None for word in words])
            self._state = _complete_word(
                self._model, self._params, self._state, step.position, spans, complete
            )
        self._state, logits = _decode(self._model, self._params, self._state, x, step)
        return logits

    def _check(self, ids: np.ndarray) -> None:
        if ids.shape != (self.batch_size,):
            raise ValueError(f"ids of shape {ids.shape}; this session has {self.batch_size} rows")
        for id, tracker in zip(ids, self._trackers):
            if not (0 <= id < NUM_BYTES or id in (BOS, EOT, PAD)):
                raise ValueError(
                    f"id {id} cannot be read: push a byte, BOS={BOS}, EOT={EOT} or PAD={PAD}"
                )
            if (id < NUM_BYTES or id == EOT) and tracker.position < 0:
                raise ValueError("a row's first id must be BOS")

    def _make_room(self, word_room: int) -> None:
        """Grows the caches without a window to hold what this push writes."""
        state, config = self._state, self._model.config
        positions = max(tracker.position for tracker in self._trackers) + 1
        words = max(tracker.num_complete for tracker in self._trackers)

        def fit(cache, stack, needed):
            return cache if stack.window else grow(cache, needed)

        self._state = state._replace(
            encoder=fit(state.encoder, config.encoder, positions),
            connector=grow(state.connector, word_room),
            backbone=fit(state.backbone, config.backbone, words),
            decoder=fit(state.decoder, config.decoder, positions),
        )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _encode(model, params, state: HatState, ids, step: Step) -> tuple[HatState, jax.Array]:
    """ids int [B] -> encoder activations [B, 1, d]; their connector keys and values are kept."""
    module = model.module(params)
    x, encoder = run_cached_stack(
        lambda block, x, rope, attention, _: block(x, rope, attention),
        module.encoder.layers,
        module.encoder.embedding(ids[:, None]),
        state.encoder,
        step,
        model.config.encoder,
    )
    k, v = module.connector.keys_values(x)
    connector = write(state.connector, 0, k, v, step)
    return state._replace(encoder=encoder, connector=connector), x


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _complete_word(model, params, state: HatState, latest, spans, complete) -> HatState:
    """Pools one word of every row with `complete` bool [B], and renews the row's guide.

    latest int [B]: the position of the latest byte; spans int [B, 3]: `Word` of every row.
    """
    module = model.module(params)
    index, start, end = spans.T
    held = held_positions(state.connector.size, latest)
    inside = (held >= start[:, None]) & (held < end[:, None])
    query = module.connector.shared_query()
    pooled = masked_attention(
        jnp.broadcast_to(query, (len(index), 1, *query.shape)),
        module.connector.rotate_keys(state.connector.keys[0], held, index[:, None]),
        state.connector.values[0],
        inside[:, None, :],
    )
    words, backbone = run_cached_stack(
        lambda block, x, rope, attention, _: block(x, rope, attention),
        module.backbone.layers,
        module.connector.o(pooled.reshape(*pooled.shape[:2], -1)),
        state.backbone,
        Step(index, complete),
        model.config.backbone,
    )
    guides = _project_guides(module.decoder, words)
    guides = jnp.where(complete[:, None], guides, state.guides)
    return state._replace(backbone=backbone, guides=guides)


def _project_guides(decoder: Decoder, words: jax.Array) -> jax.Array:
    """Backbone outputs [B, 1, D] -> what every decoder layer adds to a byte, [L, B, d]."""
    graph, params = nnx.split(decoder.layers)
    return jax.lax.map(lambda layer: nnx.merge(graph, layer).guides(words)[:, 0], params)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _decode(model, params, state: HatState, x, step: Step) -> tuple[HatState, jax.Array]:
    """Encoder activations [B, 1, d] -> logits float32 [B, ids]."""
    module = model.module(params)
    x, decoder = run_cached_stack(
        lambda layer, x, rope, attention, guide: layer.block(x + guide[:, None], rope, attention),
        module.decoder.layers,
        x,
        state.decoder,
        step,
        model.config.decoder,
        inputs=state.guides,
    )
    return state._replace(decoder=decoder), module.head(x)[:, 0]
