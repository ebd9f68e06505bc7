"""What attention remembers of a row: rings of a window, and buffers that grow in buckets.

Keys and values are kept in the order that a product reads them, [B, G, S, K]: rows, heads, slots,
head size.

A ring serves a stack with a window of S positions. All rows write the same slot, clock % S, at
every step, whatever their positions: one slice is replaced, where a scatter would visit the rows
one by one. What a slot holds follows from its age alone: `a` steps ago a row wrote its position
`position - a`, and what is older than the row's position 0 is another document's. So a row that
takes part must take part in every step, and its memory is the same however long it grows.

A buffer serves a stack without a window. Position p of a row is in slot p; `grow` makes room.

The functions below are `Place`s: they say where the keys and values of new positions go, and
attend over what is held then.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hat.models.attention import Form, attend
from hat.models.attention.plain import NEGATIVE, masked_attention
from hat.models.layers import StackConfig, rope_table

# Slots; buffers double from here. Attention reads every slot of every row: at 64 rows of 100 tokens or
# 30 words, buffers of 256 slots cost a subword Llama half of its speed on a CPU, a HAT a third.
SMALLEST_BUFFER = 64


class Memory(NamedTuple):
    """Keys and values [B, G, S, K] of one layer."""

    keys: jax.Array
    values: jax.Array

    @property
    def size(self) -> int:
        return self.keys.shape[2]


# (q [B, T, H, K], k and v [B, T, G, K], what was held) -> (what attention gives, what is held now)
Place = Callable[[jax.Array, jax.Array, jax.Array, Memory], tuple[jax.Array, Memory]]


def empty_memory(rows: int, heads: int, size: int, head_size: int, dtype) -> Memory:
    """Zeros, of which no position sees anything."""
    shape = (rows, heads, size, head_size)
    return Memory(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def stack_memory(config: StackConfig, rows: int, dtype, *, ring: bool) -> tuple[Memory, ...]:
    """Of every layer of a stack: a ring of its window, or the smallest buffer."""
    size = config.window if ring else SMALLEST_BUFFER
    return tuple(
        empty_memory(rows, config.kv_heads, size, config.head_size, dtype)
        for _ in range(config.num_layers)
    )


def bucket(needed: int) -> int:
    """The size of a buffer with `needed` slots: a power of two."""
    return max(SMALLEST_BUFFER, 1 << max(needed - 1, 1).bit_length())


def grow_buffers(state: Any, buffers: dict[str, tuple[Memory, ...]], slots: int) -> Any:
    """A state (a named tuple) with its buffers, by name, doubled until they have `slots` slots."""
    size = bucket(slots)
    if all(memory.size >= size for stack in buffers.values() for memory in stack):
        return state
    return state._replace(**grow_memory(buffers, size))


@functools.partial(jax.jit, static_argnums=1)
def grow_memory(memory, size: int):
    """Memories, in any structure, with `size` slots each; what they hold stays."""
    return jax.tree.map(
        lambda x: jnp.pad(x, [(0, 0), (0, 0), (0, size - x.shape[2]), (0, 0)]), memory
    )


def turn(memory: Memory, steps) -> Memory:
    """The ring with every slot moved up by `steps`: from a clock to a later one, without a write."""
    return Memory(*(jnp.roll(x, steps, axis=2) for x in memory))


def ring_write(memory: Memory, k, v, clock) -> Memory:
    """k and v [B, 1, G, K] into the slot of this step."""
    slot = clock % memory.size

    def put(held, new):
        if len(held) == 1:
            return _put(held, new[:, 0], jnp.zeros(1, jnp.int32), slot[None])
        return jax.lax.dynamic_update_slice_in_dim(held, jnp.swapaxes(new, 1, 2), slot, axis=2)

    return Memory(put(memory.keys, k), put(memory.values, v))


def ages(size: int, clock) -> jax.Array:
    """int [S]: how many steps ago every slot of a ring was written; 0 is this step."""
    return (clock - jnp.arange(size)) % size


def ring_step(clock, position, softcap=None) -> Place:
    """One position of every row. position int [B]: the row's latest, this one."""

    def place(q, k, v, memory):
        memory = ring_write(memory, k, v, clock)
        visible = ages(memory.size, clock) <= position[:, None]
        return attend_held(q, memory, visible[:, None], softcap), memory

    return place


def buffer_step(rows, position, window=None, softcap=None) -> Place:
    """One position of some rows: rows int [C], B for none; position int [C].

    Where C is B, row i can be i or none, and the memory need not be gathered.
    """

    def place(q, k, v, memory):
        memory = Memory(*(_put(held, x[:, 0], rows, position) for held, x in zip(memory, (k, v))))
        slots = jnp.arange(memory.size)
        visible = slots <= position[:, None]
        if window is not None:
            visible &= slots > position[:, None] - window
        mine = memory
        if len(rows) < len(memory.keys):
            mine = Memory(*(x.at[rows].get(mode="clip") for x in memory))
        return attend_held(q, mine, visible[:, None], softcap), memory

    return place


def _put(held, new, rows, position):
    """held [B, G, S, K] with new [C, G, K] in the rows int [C] at the positions int [C]."""
    if len(held) == 1:
        # Twice: of a single write XLA's CPU backend makes a slice's update, which it fuses into all
        # that reads the memory, and copies the memory for each: a third of a Llama's step.
        rows, position, new = (jnp.repeat(x, 2, axis=0) for x in (rows, position, new))
    return held.at[rows, :, position].set(new, mode="drop")


def ring_chunk(start, count, window: int, softcap, form: Form) -> Place:
    """T positions of one row whose ring is at clock 0, so that its slots are in order of time.

    start: the position of the first; count: how many of the T there are. The ring is put before the
    chunk as the end of a row, and the attention of training does the rest.
    """

    def place(q, k, v, memory):
        size, length = memory.size, q.shape[1]
        k = jnp.concatenate([jnp.swapaxes(memory.keys, 1, 2), k], axis=1)
        v = jnp.concatenate([jnp.swapaxes(memory.values, 1, 2), v], axis=1)
        q = jnp.pad(q, [(0, 0), (size, 0), (0, 0), (0, 0)])
        held = jnp.arange(size) >= size - start
        segment = jnp.concatenate([held, jnp.ones(length, bool)])[None].astype(jnp.int32)
        out = attend(q, k, v, segment=segment, window=window, softcap=softcap, form=form)

        def latest(x):
            return jnp.swapaxes(jax.lax.dynamic_slice_in_dim(x, count, size, axis=1), 1, 2)

        return out[:, size:], Memory(latest(k), latest(v))

    return place


def buffer_chunk(start, window=None, softcap=None) -> Place:
    """T positions of one row from `start` on; those that are not there are overwritten later."""

    def place(q, k, v, memory):
        def put(held, new):
            return jax.lax.dynamic_update_slice_in_dim(held, jnp.swapaxes(new, 1, 2), start, axis=2)

        memory = Memory(put(memory.keys, k), put(memory.values, v))
        slots, position = jnp.arange(memory.size), start + jnp.arange(q.shape[1])[:, None]
        visible = slots <= position
        if window is not None:
            visible &= slots > position - window
        k, v = (jnp.swapaxes(x, 1, 2) for x in memory)
        return masked_attention(q, k, v, visible[None], softcap), memory

    return place


def attend_held(q, memory: Memory, visible, softcap=None) -> jax.Array:
    """Attention over memory as it lies: q [B, T, H, K], visible bool [B, T, S] -> [B, T, H, K]."""
    batch, length, heads, head_size = q.shape
    groups = memory.keys.shape[1]
    q = q.reshape(batch, length, groups, heads // groups, head_size)
    scores = jnp.einsum("btgrk,bgsk->bgrts", q, memory.keys, preferred_element_type=jnp.float32)
    scores = scores / jnp.sqrt(jnp.float32(head_size))
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    scores = jnp.where(visible[:, None, None], scores, NEGATIVE)
    weights = jax.nn.softmax(scores, axis=-1).astype(memory.values.dtype)
    # Heads before positions, as they lie: with "btgrk" XLA's CPU code transposes the values of a
    # single row before every product.
    out = jnp.einsum("bgrts,bgsk->bgrtk", weights, memory.values)
    return jnp.moveaxis(out, 3, 1).reshape(batch, length, heads, head_size)


def run_layers(
    layers: Sequence[Any],
    x: jax.Array,
    memories: Sequence[Memory],
    position: jax.Array,
    config: StackConfig,
    place: Place,
    apply: Callable = lambda layer, x, rope, attention, _: layer(x, rope, attention),
    inputs: Sequence[Any] | None = None,
) -> tuple[jax.Array, tuple[Memory, ...]]:
    """x [B, T, d] of the positions int [B, T] through a stack, one layer after the other.

    The layers are not scanned: a scan copies every layer's parameters out of the stack at every
    step. `apply(layer, x, rope, attention, input)` runs one, with its element of `inputs`.
    """
    rope = rope_table(position, config)
    held = []

    def attention_of(memory):
        def attention(q, k, v):
            out, memory_now = place(q, k, v, memory)
            held.append(memory_now)
            return out

        return attention

    for index, (layer, memory) in enumerate(zip(layers, memories, strict=True)):
        given = None if inputs is None else inputs[index]
        x = apply(layer, x, rope, attention_of(memory), given)
    return x, tuple(held)
