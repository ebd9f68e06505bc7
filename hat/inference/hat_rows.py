"""Rows of a HAT in memory: a chunk of a prompt at a time, then a byte of every row at a time.

A byte goes through the encoder; every word that the splitter now knows to be complete is pooled
and takes one step of the backbone, whose output is the row's new guide; then the byte goes through
the decoder under the guide of the last complete word. All of it is one program without the host:
the splitter runs from its tables, and the backbone in a loop that ends when no row has a complete
word left, so that it does not run at all for most bytes.

A row's memory is the windows of the byte stacks, the longest word, and the backbone's keys and
values, which alone grow.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hat.errors import UserError
from hat.inference.memory import (
    Memory,
    ages,
    buffer_chunk,
    buffer_step,
    empty_memory,
    grow_buffers,
    ring_chunk,
    ring_step,
    ring_write,
    run_layers,
    stack_memory,
)
from hat.inference.parts import Parts
from hat.inference.word_ends import (
    MOST_ENDS,
    NO_END,
    Prompt,
    empty_states,
    first_end,
    next_ends,
    read_words,
    row_state,
)
from hat.models.attention.plain import masked_attention
from hat.models.connector import segment_softmax_pool
from hat.models.hat import Hat, HatModel
from hat.models.hat_learned import LearnedHatModel
from hat.models.model import Params
from hat.text.entropy import EntropyState
from hat.text.split_tables import MAX_ROOM, SplitState
from hat.text.splitters import BYTE_CAUSAL, Splitter

CHUNKS = (64, 512)  # bytes of a prompt that are read at once; half as many words


class HatState(NamedTuple):
    """Of B rows, int32 [B]: the position of the latest id, how many words are complete, where the
    first that is not begins, and where the splitter is. guides: [B, d] for every decoder layer,
    what it adds to the bytes after the last complete word. connector: of the latest bytes, as many
    as the longest incomplete word has. Then the memories of the stacks, layer by layer."""

    position: jax.Array
    words: jax.Array
    begin: jax.Array
    split: SplitState | EntropyState
    guides: tuple[jax.Array, ...]
    encoder: tuple[Memory, ...]
    connector: Memory
    decoder: tuple[Memory, ...]
    backbone: tuple[Memory, ...]


class Chunk(NamedTuple):
    """T ids of a prompt, and N = T / 2 words at most.

    ids int [1, T]; start: position of the first; count: how many are real. word int [1, R + T]: of
    the ring's bytes and of the chunk's, 1 to N if the chunk completes it, 0 if it was complete
    before, N + 1 if it is not. guide int [1, T]: words of the chunk complete after every id.
    before, words: how many were complete, and how many the chunk completes.
    """

    ids: Any
    start: Any
    count: Any
    word: Any
    guide: Any
    before: Any
    words: Any


_BYTE_STACKS = ("encoder", "decoder")


class HatRows:
    """What `hat.inference.engine` asks of a HAT. Holds no arrays, so that programs are shared."""

    goes_back = False  # see hat.inference.checked

    def __init__(self, model: HatModel):
        config = model.config
        if isinstance(model, LearnedHatModel):
            raise UserError(
                "a HAT that draws its own words is trained and scored here; generation is not there "
                "yet"
            )
        if config.guide != "earliest":
            raise UserError(
                f'the model\'s guide is "{config.guide}", which looks ahead inside a character; '
                'byte-by-byte generation needs guide="earliest"'
            )
        self._config = config
        self._bytes_grow = not all(getattr(config, name).window for name in _BYTE_STACKS)
        self._parts = Parts(model, _take_apart)

    def prepare(self, params: Params, splitter: Splitter) -> dict[str, Any]:
        """The parameters as `chunk` and `step` take them, with the splitter's tables."""
        if splitter.causality != BYTE_CAUSAL:
            raise UserError(
                f"splitter {splitter.name} is not byte-causal (it is {splitter.causality.kind}); "
                "generation needs a rule that never looks ahead"
            )
        tables = jax.tree.map(jnp.asarray, splitter.tables)
        return {**self._parts.split(params), "tables": tables}

    def read(self, splitter: Splitter, ids: np.ndarray) -> Prompt:
        """The ids int32 [n] of a prompt, from BOS on, with their words."""
        return read_words(splitter, ids)

    def empty(self, params: dict[str, Any], rows: int) -> HatState:
        """Rows that have read nothing."""
        config, dtype = self._config, jnp.dtype(self._config.dtype)
        longest = int(params["tables"].max_word_bytes) + MAX_ROOM  # pending bytes, and this one
        heads = config.connector.num_heads
        numbers = np.zeros(rows, np.int32)
        return HatState(
            position=numbers - 1,
            words=numbers,
            begin=numbers,
            split=empty_states(params["tables"], rows),
            guides=(jnp.zeros((rows, config.decoder.hidden_size), dtype),)
            * config.decoder.num_layers,
            encoder=stack_memory(config.encoder, rows, dtype, ring=bool(config.encoder.window)),
            connector=empty_memory(
                rows, heads, longest, config.connector.hidden_size // heads, dtype
            ),
            decoder=stack_memory(config.decoder, rows, dtype, ring=bool(config.decoder.window)),
            backbone=stack_memory(config.backbone, rows, dtype, ring=False),
        )

    # Which memories of a state are rings and which are buffers.

    def rings(self, state: HatState) -> dict[str, Any]:
        config = self._config
        byte_stacks = {n: getattr(state, n) for n in _BYTE_STACKS if getattr(config, n).window}
        return {"connector": state.connector, **byte_stacks}

    def buffers(self, state: HatState) -> dict[str, Any]:
        config = self._config
        byte_stacks = {n: getattr(state, n) for n in _BYTE_STACKS if not getattr(config, n).window}
        return {"backbone": state.backbone, **byte_stacks}

    def slots_of(self, prompt: Prompt) -> int:
        """Slots of the buffers that the prompt takes."""
        return len(prompt.ids) if self._bytes_grow else int(prompt.complete[-1])

    def with_room(self, state: HatState, slots: int) -> HatState:
        """The same with buffers of so many slots, or what they have if it is more."""
        return grow_buffers(state, self.buffers(state), slots)

    def slots(self, state: HatState) -> jax.Array:
        """int [B]: slots of the buffers that the rows use."""
        return state.position + 1 if self._bytes_grow else state.words

    slots_per_step = MOST_ENDS  # at most
    chunks = CHUNKS

    def read_chunk(
        self,
        params: dict[str, Any],
        state: HatState,
        prompt: Prompt,
        first: int,
        most: int,
        *,
        scores: bool = False,
    ) -> tuple[HatState, jax.Array, int]:
        """Reads ids of the prompt from `first` on, at most `most`, into a row at clock 0.

        Also the logits float32 of the id after the last, [1, ids], or with `scores` of the id after
        every one, [T, ids] of which the first are real; and where it stopped. A chunk may end
        anywhere: a word is pooled with the chunk that tells it to be complete, from the connector's
        ring and the chunk.
        """
        before = int(prompt.complete[first - 1]) if first else 0
        last = min(first + CHUNKS[-1], first + most, len(prompt.ids))
        fits = np.searchsorted(prompt.complete[first:last], before + CHUNKS[-1] // 2, "right")
        last = first + int(fits)
        count, words = last - first, int(prompt.complete[last - 1]) - before
        size = next(size for size in CHUNKS if count <= size and words <= size // 2)

        used, new = (first, size) if self._bytes_grow else (before, size // 2)
        state = self.with_room(state, used + new)

        # Words of the ring's bytes and of the chunk's, from 1: 0 is complete before, the rest later.
        from_ring = min(first, state.connector.size)
        word = np.clip(prompt.word[first - from_ring : last] - before + 1, 0, words + 1)
        word = np.pad(word, (state.connector.size - from_ring, 0))

        def padded(values, length, fill):
            return np.pad(values, (0, length - len(values)), constant_values=fill)[None]

        inputs = Chunk(
            ids=padded(prompt.ids[first:last], size, 0),
            start=np.int32(first),
            count=np.int32(count),
            word=padded(
                np.where(word > words, size // 2 + 1, word), state.connector.size + size,
                size // 2 + 1,
            ),
            guide=padded(prompt.complete[first:last] - before, size, 0),
            before=np.int32(before),
            words=np.int32(words),
        )  # fmt: skip
        return *_read_chunk(self, params, state, inputs, scores), last

    def at_end(self, state: HatState, prompt: Prompt) -> HatState:
        """A row that has read the whole prompt, ready to `step`."""
        begin = np.full(1, prompt.begin, np.int32)
        return state._replace(begin=begin, split=row_state(prompt.split))

    def chunk(
        self, params: dict[str, Any], state: HatState, inputs: Chunk, scores: bool
    ) -> tuple[HatState, jax.Array]:
        """The program of `read_chunk`."""
        config, part = self._config, functools.partial(self._parts.module, params)
        length = inputs.ids.shape[1]
        position = (inputs.start + jnp.arange(length))[None]

        def place(stack):
            if stack.window is None:
                return buffer_chunk(inputs.start, None, stack.logit_softcap)
            return ring_chunk(
                inputs.start, inputs.count, stack.window, stack.logit_softcap, config.attention
            )

        x, encoder = run_layers(
            part("encoder"), part("embedding")(inputs.ids), state.encoder, position,
            config.encoder, place(config.encoder),
        )  # fmt: skip
        words, connector = self._pool_chunk(part("connector"), x, state.connector, inputs)
        num_words = words.shape[1]
        words, backbone = run_layers(
            part("backbone"), words, state.backbone, (inputs.before + jnp.arange(num_words))[None],
            config.backbone,
            buffer_chunk(inputs.before, config.backbone.window, config.backbone.logit_softcap),
        )  # fmt: skip
        tables = [
            jnp.concatenate([held[:, None], layer.guides(words)], axis=1)
            for held, layer in zip(state.guides, part("decoder"))
        ]
        x, decoder = run_layers(
            part("decoder"), x, state.decoder, position, config.decoder, place(config.decoder),
            apply=_guided,
            inputs=[jnp.take(table, inputs.guide[0], axis=1) for table in tables],
        )  # fmt: skip
        x = x[0] if scores else jax.lax.dynamic_slice_in_dim(x[0], inputs.count - 1, 1)
        state = HatState(
            position=inputs.start[None] + inputs.count - 1,
            words=inputs.before[None] + inputs.words,
            begin=state.begin,
            split=state.split,
            guides=tuple(jnp.take(table, inputs.words, axis=1) for table in tables),
            encoder=encoder,
            connector=connector,
            decoder=decoder,
            backbone=backbone,
        )
        return state, part("head")(x[None])[0]

    def _pool_chunk(self, connector, x, ring: Memory, inputs: Chunk) -> tuple[jax.Array, Memory]:
        """Embeddings [1, N, D] of the words that a chunk [1, T, d] completes, and the ring after."""
        k, v = connector.keys_values(x)
        k = jnp.concatenate([jnp.swapaxes(ring.keys, 1, 2), k], axis=1)
        v = jnp.concatenate([jnp.swapaxes(ring.values, 1, 2), v], axis=1)
        num_words = x.shape[1] // 2
        position = (inputs.start - ring.size + jnp.arange(k.shape[1]))[None]
        rotated = connector.rotate_keys(k, position, inputs.before + inputs.word - 1)
        scores = jnp.einsum(
            "bthk,hk->bth", rotated, connector.shared_query(), preferred_element_type=jnp.float32
        ) / jnp.sqrt(jnp.float32(k.shape[-1]))
        pooled = segment_softmax_pool(scores, v, inputs.word, num_words + 1)[:, 1:]

        def latest(x):
            return jnp.swapaxes(jax.lax.dynamic_slice_in_dim(x, inputs.count, ring.size, 1), 1, 2)

        return connector.o(pooled.reshape(1, num_words, -1)), Memory(latest(k), latest(v))

    def step(
        self, params: dict[str, Any], state: HatState, clock, ids, active, closing: int
    ) -> tuple[HatState, jax.Array]:
        """Reads a byte of every row, int [B]. Logits float32 [B, ids] of the id that follows.

        active bool [B]: the others' state and logits mean nothing from now on. closing: how many
        rows go through the backbone together.
        """
        config, part = self._config, functools.partial(self._parts.module, params)
        position = state.position + 1

        def place(stack):
            if stack.window is None:
                return buffer_step(jnp.arange(len(ids)), position, None, stack.logit_softcap)
            return ring_step(clock, position, stack.logit_softcap)

        x, encoder = run_layers(
            part("encoder"), part("embedding")(ids[:, None]), state.encoder, position[:, None],
            config.encoder, place(config.encoder),
        )  # fmt: skip
        k, v = part("connector").keys_values(x)
        split, ends = next_ends(params["tables"], state.split, position, ids)
        ends = jnp.where(active[:, None], ends, NO_END)
        state = state._replace(
            position=position,
            split=split,
            encoder=encoder,
            connector=ring_write(state.connector, k, v, clock),
        )
        state = self._complete_words(part, state, clock, ends, min(closing, len(ids)))
        x, decoder = run_layers(
            part("decoder"), x, state.decoder, position[:, None], config.decoder,
            place(config.decoder), apply=_guided, inputs=state.guides,
        )  # fmt: skip
        return state._replace(decoder=decoder), part("head")(x)[:, 0]

    def _complete_words(self, part, state: HatState, clock, ends, together: int) -> HatState:
        """Words that end at `ends` through the backbone, `together` rows at a time, until there
        are none."""
        config, ring = self._config, state.connector
        batch = len(state.begin)
        age = ages(ring.size, clock)
        held = state.position[:, None] - age  # the position in every slot, int [B, R]
        connector, query = part("connector"), part("connector").shared_query()

        def going(carry):
            return jnp.any(first_end(ends, carry[0]) < NO_END)

        def body(carry):
            begin, words, guides, backbone = carry
            end = first_end(ends, begin)
            rows = jnp.where(end < NO_END, jnp.arange(batch), batch)
            if together < batch:
                (rows,) = jnp.nonzero(end < NO_END, size=together, fill_value=batch)

            def of(x):
                return x.at[rows].get(mode="clip")

            index, mine = of(words), of(held)
            inside = (mine >= of(begin)[:, None]) & (mine < of(end)[:, None])
            pooled = masked_attention(
                jnp.broadcast_to(query, (len(rows), 1, *query.shape)),
                connector.rotate_keys(jnp.swapaxes(of(ring.keys), 1, 2), mine, index[:, None]),
                jnp.swapaxes(of(ring.values), 1, 2),
                inside[:, None, :],
            )
            x, backbone = run_layers(
                part("backbone"), connector.o(pooled.reshape(*pooled.shape[:2], -1)), backbone,
                index[:, None], config.backbone,
                buffer_step(rows, index, config.backbone.window, config.backbone.logit_softcap),
            )  # fmt: skip
            guides = tuple(
                held.at[rows].set(layer.guides(x)[:, 0], mode="drop")
                for held, layer in zip(guides, part("decoder"))
            )
            begin = begin.at[rows].set(of(end), mode="drop")
            return begin, words.at[rows].add(1, mode="drop"), guides, backbone

        carry = state.begin, state.words, state.guides, state.backbone
        begin, words, guides, backbone = jax.lax.while_loop(going, body, carry)
        return state._replace(begin=begin, words=words, guides=guides, backbone=backbone)


@functools.lru_cache(maxsize=8)
def hat_rows(model: HatModel) -> HatRows:
    return HatRows(model)


def _take_apart(module: Hat) -> dict[str, Any]:
    config = module.config
    return {
        "embedding": module.encoder.embedding,
        "encoder": (module.encoder.layers, config.encoder.num_layers),
        "connector": module.connector,
        "backbone": (module.backbone.layers, config.backbone.num_layers),
        "decoder": (module.decoder.layers, config.decoder.num_layers),
        "head": module.head,
    }


@functools.partial(jax.jit, static_argnums=(0, 4))
def _read_chunk(rows: HatRows, params, state: HatState, inputs: Chunk, scores: bool):
    return rows.chunk(params, state, inputs, scores)


def _guided(layer, x, rope, attention, guide):
    """A decoder layer; guide [B, d] or [B, T, d]."""
    return layer.block(x + (guide[:, None] if guide.ndim == 2 else guide), rope, attention)
