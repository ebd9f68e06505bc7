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
from hat.inference.pooling import pool_chunk, pool_rows
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
from hat.models.hat import Hat, HatModel
from hat.models.model import Params
from hat.text.split_tables import MAX_ROOM
from hat.text.splitters import BYTE_CAUSAL, Splitter

CHUNKS = (64, 512)  # bytes of a prompt that are read at once; half as many words


class HatState(NamedTuple):
    """Of B rows, int32 [B]: the position of the latest id, how many words are complete, where the
    first that is not begins, and where the splitter, or what finds the words, is. guides: [B, d]
    for every decoder layer, what it adds to the bytes after the last complete word. connector: of
    the latest bytes, as many as the longest incomplete word has. Then the memories of the stacks,
    layer by layer."""

    position: jax.Array
    words: jax.Array
    begin: jax.Array
    split: Any
    guides: tuple[jax.Array, ...]
    encoder: tuple[Memory, ...]
    connector: Memory
    decoder: tuple[Memory, ...]
    backbone: tuple[Memory, ...]


class Chunk(NamedTuple):
    """T ids of a prompt, and N = T / 2 words at most (T, where the model finds them).

    ids int [1, T]; start: position of the first; count: how many are real. word int [1, R + T]: of
    the ring's bytes and of the chunk's, 1 to N if the chunk completes it, 0 if it was complete
    before, N + 1 if it is not. guide int [1, T]: words of the chunk complete after every id.
    before, words: how many were complete, and how many the chunk completes. keep: float32 [1, N],
    how much of its own output is in the guide of a word, where the model finds the words.
    """

    ids: Any
    start: Any
    count: Any
    word: Any = None
    guide: Any = None
    before: Any = None
    words: Any = None
    keep: Any = None


_BYTE_STACKS = ("encoder", "decoder")


class HatRows:
    """What `hat.inference.engine` asks of a HAT. Holds no arrays, so that programs are shared."""

    goes_back = False  # see hat.inference.checked
    scores = True  # of prompts

    def __init__(self, model: HatModel):
        config = model.config
        if config.guide != "earliest":
            raise UserError(
                f'the model\'s guide is "{config.guide}", which looks ahead inside a character; '
                'byte-by-byte generation needs guide="earliest"'
            )
        self._config = config
        self._bytes_grow = not all(getattr(config, name).window for name in _BYTE_STACKS)
        self._parts = Parts(model, take_apart)

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
        longest = int(params["tables"].max_word_bytes) + MAX_ROOM  # pending bytes, and this one
        return self._empty(rows, longest, empty_states(params["tables"], rows))

    def _empty(self, rows: int, longest: int, split: Any) -> HatState:
        config, dtype = self._config, jnp.dtype(self._config.dtype)
        heads = config.connector.num_heads
        numbers = np.zeros(rows, np.int32)
        return HatState(
            position=numbers - 1,
            words=numbers,
            begin=numbers,
            split=split,
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
    _bytes_per_word = 2  # in a chunk, at least

    def read_chunk(
        self, params, state: HatState, prompt: Prompt, first: int, most: int, *, scores=False
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
        return *read_chunk(self, params, state, inputs, scores), last

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
        state, inputs = self._find_words(part, state, x, inputs)
        num_words = length // self._bytes_per_word
        words, connector = pool_chunk(
            part("connector"), x, state.connector, inputs.start, inputs.count, inputs.word,
            inputs.before, num_words,
        )  # fmt: skip
        words, backbone = run_layers(
            part("backbone"), words, state.backbone, (inputs.before + jnp.arange(num_words))[None],
            config.backbone,
            buffer_chunk(inputs.before, config.backbone.window, config.backbone.logit_softcap),
        )  # fmt: skip
        split, words = self._smooth_chunk(state.split, words, inputs)
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
            split=split,
            guides=tuple(jnp.take(table, inputs.words, axis=1) for table in tables),
            encoder=encoder,
            connector=connector,
            decoder=decoder,
            backbone=backbone,
        )
        return state, part("head")(x[None])[0]

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
        state = state._replace(
            position=position, encoder=encoder, connector=ring_write(state.connector, k, v, clock)
        )
        state, ends = self._find_ends(params, state, x, ids)
        ends = jnp.where(active[:, None], ends, NO_END)
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
        held = state.position[:, None] - ages(ring.size, clock)  # in every slot, int [B, R]
        query = part("connector").shared_query()

        def going(carry):
            return jnp.any(first_end(ends, carry[0]) < NO_END)

        def body(carry):
            begin, words, split, guides, backbone = carry
            end = first_end(ends, begin)
            rows = jnp.where(end < NO_END, jnp.arange(batch), batch)
            if together < batch:
                (rows,) = jnp.nonzero(end < NO_END, size=together, fill_value=batch)

            def of(x):
                return x.at[rows].get(mode="clip")

            index = of(words)
            x = pool_rows(part("connector"), query, ring, rows, held, of(begin), of(end), index)
            x, backbone = run_layers(
                part("backbone"), x, backbone, index[:, None], config.backbone,
                buffer_step(rows, index, config.backbone.window, config.backbone.logit_softcap),
            )  # fmt: skip
            split, x = self._smooth(split, rows, x)
            guides = tuple(
                held.at[rows].set(layer.guides(x)[:, 0], mode="drop")
                for held, layer in zip(guides, part("decoder"))
            )
            begin = begin.at[rows].set(of(end), mode="drop")
            return begin, words.at[rows].add(1, mode="drop"), split, guides, backbone

        names = "begin", "words", "split", "guides", "backbone"
        carry = tuple(getattr(state, name) for name in names)
        return state._replace(**dict(zip(names, jax.lax.while_loop(going, body, carry))))

    # What a HAT that finds its words itself does otherwise: see `hat.inference.hat_learned_rows`.

    def _find_words(self, part, state: HatState, x, inputs: Chunk) -> tuple[HatState, Chunk]:
        """The words of a chunk, of its activations [1, T, d]; here the splitter's, told before."""
        return state, inputs

    def _smooth_chunk(self, split, words, inputs: Chunk) -> tuple[Any, jax.Array]:
        """What guides bytes, of backbone outputs [1, N, D]; here themselves."""
        return split, words

    def _find_ends(self, params, state: HatState, x, ids) -> tuple[HatState, jax.Array]:
        """The ends, int [B, E], of words that a byte a row may have completed (see `next_ends`)."""
        split, ends = next_ends(params["tables"], state.split, state.position, ids)
        return state._replace(split=split), ends

    def _smooth(self, split, rows, words) -> tuple[Any, jax.Array]:
        """As `_smooth_chunk`, of one output [C, 1, D] of the rows int [C], B for none."""
        return split, words


@functools.lru_cache(maxsize=8)
def hat_rows(model: HatModel) -> HatRows:
    return HatRows(model)


def take_apart(module: Hat) -> dict[str, Any]:
    """For `Parts`."""
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
def read_chunk(rows: HatRows, params, state: HatState, inputs: Chunk, scores: bool):
    return rows.chunk(params, state, inputs, scores)


def _guided(layer, x, rope, attention, guide):
    """A decoder layer; guide [B, d] or [B, T, d]."""
    return layer.block(x + (guide[:, None] if guide.ndim == 2 else guide), rope, attention)
