"""Rows of the HAT of 2025 in memory, by the interface of `hat_rows`.

The model writes [W] where a word ends, as an id of its own, which spells nothing. [W] completes the
word: its bytes go through the encoder together, the backbone takes a step, and the decoder begins
anew under its output. A byte goes through the decoder alone. In a prompt the splitter says where
[W] stands; at its end the word is open, and the model decides.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hat.errors import UserError
from hat.inference.memory import Memory, buffer_step, empty_memory, grow_buffers, run_layers, stack_memory
from hat.inference.parts import Parts
from hat.models.attention.plain import NEGATIVE, masked_attention
from hat.models.hat_2025 import Hat2025, Hat2025Model, W
from hat.models.layers import rope_table
from hat.models.model import Params
from hat.text.ids import NUM_BYTES
from hat.text.splitters import Splitter

CHUNKS = (32, 256)  # ids of a prompt that are read by one program, [W] among them


class State(NamedTuple):
    """Of B rows. words: int [B], how many are complete. ids: int [B, L], the bytes of the word that
    is not; size: int [B], how many. decoder: the memory of this word alone; backbone: of all."""

    words: jax.Array
    ids: jax.Array
    size: jax.Array
    decoder: tuple[Memory, ...]
    backbone: tuple[Memory, ...]


class Prompt(NamedTuple):
    """ids: int32 [n], beginning with BOS. written: of each id, itself with the [W] before or after
    it."""

    ids: np.ndarray
    written: list[list[int]]


class Hat2025Rows:
    """What `hat.inference.engine` asks of a model; see `hat_rows.HatRows`."""

    slots_per_step = 1
    chunks = CHUNKS
    goes_back = False  # see hat.inference.checked
    scores = False  # of a byte behind [W], the nats are in part those of [W]

    def __init__(self, model: Hat2025Model):
        self._config = model.config
        self._parts = Parts(model, _take_apart)

    def prepare(self, params: Params, splitter: Splitter) -> dict[str, Any]:
        longest = getattr(splitter, "max_word_bytes", None) or getattr(splitter, "stride", 0)
        if longest > self._config.word_bytes:
            raise UserError(
                f"splitter {splitter.name} makes words of {longest} bytes, and the model sees "
                f"{self._config.word_bytes} (model.word_bytes); generation needs shorter words"
            )
        return self._parts.split(params)

    def read(self, splitter: Splitter, ids: np.ndarray) -> Prompt:
        """[W] stands before every word but the first, and after BOS and EOT at once."""
        special = ids >= NUM_BYTES
        opens, first = special.copy(), 1
        for end in [*np.flatnonzero(special)[1:].tolist(), len(ids)]:
            opens[first:end] = splitter.split(ids[first:end].astype(np.uint8)).starts
            first = end + 1
        before = opens & ~np.append(True, special[:-1])
        written = [
            [W] * int(opening) + [id] + [W] * int(alone)
            for id, opening, alone in zip(ids.tolist(), before, special)
        ]
        return Prompt(ids, written)

    def empty(self, params: dict[str, Any], rows: int) -> State:
        """Rows that have read nothing: the word of BOS is open."""
        config, dtype = self._config, jnp.dtype(self._config.dtype)
        stack, numbers = config.decoder, np.zeros(rows, np.int32)
        return State(
            words=numbers,
            ids=np.zeros((rows, config.word_bytes), np.int32),
            size=numbers,
            decoder=tuple(
                empty_memory(rows, stack.kv_heads, config.word_bytes + 1, stack.head_size, dtype)
                for _ in range(stack.num_layers)
            ),
            backbone=stack_memory(config.backbone, rows, dtype, ring=False),
        )

    def rings(self, state: State) -> dict[str, Any]:
        return {}

    def buffers(self, state: State) -> dict[str, Any]:
        return {"backbone": state.backbone}

    def slots_of(self, prompt: Prompt) -> int:
        return sum(ids.count(W) for ids in prompt.written)

    def with_room(self, state: State, slots: int) -> State:
        return grow_buffers(state, self.buffers(state), slots)

    def slots(self, state: State) -> jax.Array:
        return state.words

    def read_chunk(
        self, params, state: State, prompt: Prompt, first: int, most: int, *, scores: bool = False
    ) -> tuple[State, jax.Array, int]:
        assert not scores
        ids, last = [], first
        while last < min(first + most, len(prompt.ids)):
            if len(ids) + len(prompt.written[last]) > CHUNKS[-1]:
                break
            ids += prompt.written[last]
            last += 1
        size = next(size for size in CHUNKS if len(ids) <= size)
        state = self.with_room(state, int(np.max(state.words)) + ids.count(W))
        padded = np.pad(np.array(ids, np.int32), (0, size - len(ids)))
        return *_read_chunk(self, params, state, padded, np.int32(len(ids))), last

    def at_end(self, state: State, prompt: Prompt) -> State:
        return state

    def chunk(self, params, state: State, ids, count) -> tuple[State, jax.Array]:
        """The program of `read_chunk`: one id after the other."""

        def one(carry, inputs):
            state, logits = carry
            number, id = inputs
            after = self.step(params, state, 0, id[None], jnp.ones(1, bool), 1)
            keep = number < count
            return jax.tree.map(lambda new, old: jnp.where(keep, new, old), after, carry), None

        state = jax.tree.map(jnp.asarray, state)
        logits = jnp.zeros((1, self._config.num_ids), jnp.float32)
        (state, logits), _ = jax.lax.scan(one, (state, logits), (jnp.arange(len(ids)), ids))
        return state, logits

    def step(
        self, params, state: State, clock, ids, active, closing
    ) -> tuple[State, jax.Array]:
        """Reads an id of every row, int [B], a byte or [W]. Logits float32 [B, ids]."""
        config, part = self._config, functools.partial(self._parts.module, params)
        batch, longest = state.ids.shape
        ends = (ids == W) & active
        before, backbone = jax.lax.cond(
            jnp.any(ends),
            lambda: self._complete(part, state, ends),
            lambda: (jnp.zeros((batch, config.decoder.hidden_size), config.dtype), state.backbone),
        )
        x = jnp.where(ends[:, None], before, part("embedding")(ids))
        place = jnp.where(ends, 0, state.size + 1)  # in the word; [W] is at 0
        x, decoder = run_layers(
            part("decoder"), x[:, None], state.decoder, place[:, None], config.decoder,
            buffer_step(jnp.arange(batch), place),
        )  # fmt: skip
        logits, size = part("head")(x, ends[:, None])[:, 0], place
        full = (size >= longest)[:, None] & (jnp.arange(config.num_ids) != W)  # no longer words
        state = State(
            words=state.words + ends,
            ids=state.ids.at[jnp.arange(batch), state.size].set(ids, mode="drop"),
            size=size,
            decoder=decoder,
            backbone=backbone,
        )
        return state, jnp.where(full, NEGATIVE, logits)

    def _complete(self, part, state: State, ends) -> tuple[jax.Array, tuple[Memory, ...]]:
        """The words of the rows that end one through encoder and backbone: what the next ones begin
        with, [B, d], and the backbone's memory."""
        config = self._config
        batch, longest = state.ids.shape
        ids = jnp.concatenate([jnp.full((batch, 1), W, state.ids.dtype), state.ids], axis=1)
        index = jnp.arange(longest + 1)[None]
        rope = rope_table(index, config.encoder)
        visible = jnp.broadcast_to(
            (index <= state.size[:, None])[:, None], (batch, longest + 1, longest + 1)
        )
        x = part("embedding")(ids)
        for layer in part("encoder"):
            x = layer(x, rope, lambda q, k, v: masked_attention(q, k, v, visible))
        words = part("to_word")(x[:, :1])
        rows = jnp.where(ends, jnp.arange(batch), batch)
        words, backbone = run_layers(
            part("backbone"), words, state.backbone, state.words[:, None], config.backbone,
            buffer_step(rows, state.words, config.backbone.window, config.backbone.logit_softcap),
        )  # fmt: skip
        return part("from_word")(words)[:, 0], backbone


@functools.lru_cache(maxsize=8)
def hat_2025_rows(model: Hat2025Model) -> Hat2025Rows:
    return Hat2025Rows(model)


def _take_apart(module: Hat2025) -> dict[str, Any]:
    config = module.backbone.config
    return {
        "embedding": module.encoder.embedding,
        "encoder": (module.encoder.layers, config.encoder.num_layers),
        "to_word": module.encoder.to_word,
        "backbone": (module.backbone.layers, config.backbone.num_layers),
        "from_word": module.decoder.from_word,
        "decoder": (module.decoder.layers, config.decoder.num_layers),
        "head": module.head,
    }


@functools.partial(jax.jit, static_argnums=0)
def _read_chunk(rows: Hat2025Rows, params, state: State, ids, count):
    return rows.chunk(params, state, ids, count)
