"""Rows of a subword (or flat byte-level) Llama in memory, by the interface of `hat_rows`."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hat.inference.memory import (
    Memory,
    Place,
    buffer_chunk,
    buffer_step,
    grow_buffers,
    ring_chunk,
    ring_step,
    run_layers,
    stack_memory,
)
from hat.inference.parts import Parts
from hat.models.llama import Llama, LlamaModel
from hat.models.model import Params

CHUNKS = (16, 128)  # tokens of a prompt that are read at once


class LlamaState(NamedTuple):
    """Of B rows: the position of the latest id, int32 [B], and the memory of every layer."""

    position: jax.Array
    backbone: tuple[Memory, ...]


class Prompt(NamedTuple):
    """ids: int32 [n], beginning with BOS."""

    ids: np.ndarray


class LlamaRows:
    """What `hat.inference.engine` asks of a Llama; see `hat_rows.HatRows`."""

    slots_per_step = 1
    scores = True
    chunks = CHUNKS

    def __init__(self, model: LlamaModel, rings: bool):
        self.config = model.config
        self._rings, self.goes_back = rings, not rings
        self._parts = Parts(model, take_apart)

    def prepare(self, params: Params, rule) -> dict[str, Any]:
        return self._parts.split(params)

    def read(self, rule, ids: np.ndarray) -> Prompt:
        return Prompt(ids)

    def empty(self, params: dict[str, Any], rows: int) -> LlamaState:
        stack, dtype = self.config.stack, jnp.dtype(self.config.dtype)
        memory = stack_memory(stack, rows, dtype, ring=self._rings)
        return LlamaState(np.full(rows, -1, np.int32), memory)

    def rings(self, state: LlamaState) -> dict[str, Any]:
        return {"backbone": state.backbone} if self._rings else {}

    def buffers(self, state: LlamaState) -> dict[str, Any]:
        return {} if self._rings else {"backbone": state.backbone}

    def slots_of(self, prompt: Prompt) -> int:
        return len(prompt.ids)

    def with_room(self, state: LlamaState, slots: int) -> LlamaState:
        return grow_buffers(state, self.buffers(state), slots)

    def slots(self, state: LlamaState) -> jax.Array:
        return state.position + 1

    def read_chunk(
        self, params, state: LlamaState, prompt: Prompt, first: int, most: int, *, scores=False
    ) -> tuple[LlamaState, jax.Array, int]:
        last = min(first + CHUNKS[-1], first + most, len(prompt.ids))
        size = next(size for size in CHUNKS if last - first <= size)
        ids = np.pad(prompt.ids[first:last], (0, size - (last - first)))[None]
        state = self.with_room(state, first + size)
        where = np.int32(first), np.int32(last - first)
        return *_read_chunk(self, params, state, ids, *where, scores), last

    def at_end(self, state: LlamaState, prompt: Prompt) -> LlamaState:
        return state

    def chunk(self, params, state: LlamaState, ids, start, count, scores: bool):
        """The program of `read_chunk`."""
        stack = self.config.stack
        position = (start + jnp.arange(ids.shape[1]))[None]
        place = buffer_chunk(start, stack.window, stack.logit_softcap)
        if self._rings:
            place = ring_chunk(start, count, stack.window, stack.logit_softcap,
                               self.config.attention)  # fmt: skip
        x, backbone = self.run(params, ids, state.backbone, position, place)
        x = x if scores else jax.lax.dynamic_slice_in_dim(x, count - 1, 1, axis=1)
        return LlamaState(start[None] + count - 1, backbone), self.logits(params, x)[0]

    def step(self, params, state: LlamaState, clock, ids, active, closing):
        stack = self.config.stack
        position = state.position + 1
        place = buffer_step(jnp.arange(len(ids)), position, stack.window, stack.logit_softcap)
        if self._rings:
            place = ring_step(clock, position, stack.logit_softcap)
        x, backbone = self.run(params, ids[:, None], state.backbone, position[:, None], place)
        return LlamaState(position, backbone), self.logits(params, x)[:, 0]

    def run(
        self, params, ids, memory: tuple[Memory, ...], position, place: Place
    ) -> tuple[jax.Array, tuple[Memory, ...]]:
        """ids int [B, T] at positions int [B, T] through the stack: [B, T, d], and the memory."""
        embedding, layers = (self._parts.module(params, part) for part in ("embedding", "backbone"))
        return run_layers(layers, embedding(ids), memory, position, self.config.stack, place)

    def logits(self, params, x: jax.Array) -> jax.Array:
        """float32 [B, T, ids]."""
        table = self._parts.module(params, "embedding").table[...]
        return self._parts.module(params, "head")(x, table)


def llama_rows(model: LlamaModel, rings: bool = True) -> LlamaRows:
    """rings: whether the memory of a window is that window alone; else rows can go back."""
    return _llama_rows(model, rings and model.config.stack.window is not None)


@functools.lru_cache(maxsize=8)
def _llama_rows(model: LlamaModel, rings: bool) -> LlamaRows:
    return LlamaRows(model, rings)


def take_apart(module: Llama) -> dict[str, Any]:
    """For `Parts`."""
    layers = module.config.stack.num_layers
    return {
        "embedding": module.embedding,
        "backbone": (module.backbone, layers),
        "head": module.head,
    }


@functools.partial(jax.jit, static_argnums=(0, 6))
def _read_chunk(rows: LlamaRows, params, state: LlamaState, ids, start, count, scores: bool):
    return rows.chunk(params, state, ids, start, count, scores)
