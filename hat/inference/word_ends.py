"""Where words end: of a prompt, on the host and at once; of what is generated, on the device.

Positions count from BOS, which is 0 and a word of its own, complete at once. An EOT inside a
document ends a turn (hat.text.chat): it completes every word before it and is one itself, and the
splitter begins anew after it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hat.text import entropy
from hat.text.entropy import EntropyState, EntropyTables
from hat.text.ids import EOT
from hat.text.split_tables import SplitState, SplitTables, step
from hat.text.splitters import Splitter

MOST_ENDS = 5  # words that one byte can complete: four that a broken character reveals, and its own
NO_END = 2**31 - 1


class Prompt(NamedTuple):
    """What is to be read, beginning with BOS.

    ids: int32 [n]. word: int32 [n], the word of every id; right as far as its word is known to be
    complete. complete: int32 [n], how many words are known to be once the id is read. begin: where
    the first word begins that is not. split: where the splitter is at the end, integers.
    """

    ids: np.ndarray
    word: np.ndarray
    complete: np.ndarray
    begin: int
    split: SplitState | EntropyState


def read_words(splitter: Splitter, ids: np.ndarray) -> Prompt:
    """The words of ids int32 [n]: BOS, then bytes and EOTs. n is at least 1."""
    word, complete = np.zeros(len(ids), np.int32), np.ones(len(ids), np.int32)
    ends = [*np.flatnonzero(ids == EOT).tolist(), len(ids)]
    first, words = 1, 1
    for end in ends:
        data = ids[first:end].astype(np.uint8)
        split = splitter.split(data)
        word[first:end] = words - 1 + np.cumsum(split.starts)
        complete[first:end] = words + split.known
        if end < len(ids):
            words += int(split.starts.sum()) + 1
            word[end], complete[end] = words - 1, words
            first = end + 1
    incomplete = np.flatnonzero(word >= complete[-1])
    begin = int(incomplete[0]) if len(incomplete) else len(ids)
    return Prompt(ids, word, complete, begin, splitter.state_after(ids[first:].astype(np.uint8)))


def row_state(state: SplitState | EntropyState) -> SplitState | EntropyState:
    """A splitter's state on the host as that of one row, int32 [1] and the like."""
    if isinstance(state, EntropyState):
        return state
    return SplitState(*(np.full(1, number, np.int32) for number in state))


def empty_states(tables: SplitTables | EntropyTables, rows: int) -> SplitState | EntropyState:
    """Of so many rows that have read nothing."""
    if isinstance(tables, EntropyTables):
        return entropy.empty_state(tables, rows)
    return SplitState(*(np.zeros(rows, np.int32) for _ in SplitState._fields))


def next_ends(
    tables: SplitTables | EntropyTables, state, position: jax.Array, byte: jax.Array
) -> tuple[SplitState | EntropyState, jax.Array]:
    """Reads a byte a row, int [B] in 0..255, at its position int [B].

    Returns the splitter's states and the ends, int [B, MOST_ENDS], of words that the byte may have
    completed: one of them is news where it lies beyond the beginning of the row's first
    incomplete word. NO_END fills up.
    """
    if isinstance(tables, EntropyTables):
        with jax.default_matmul_precision("float32"):  # as on the host, or other words would end
            state, closed = entropy.step(tables, state, byte, jnp)
        end = jnp.where(closed, position + 1, NO_END)
        return state, jnp.pad(end[:, None], [(0, 0), (0, MOST_ENDS - 1)], constant_values=NO_END)
    state, (starts, closed) = step(tables, state, byte)
    back = jnp.arange(4)
    ends = jnp.where(starts[:, None] >> back & 1, position[:, None] - back, NO_END)
    closing = jnp.where(closed == 1, position + 1 - tables.pending[state.byte], NO_END)
    return state, jnp.concatenate([ends, closing[:, None]], axis=1)


def first_end(ends: jax.Array, begin: jax.Array) -> jax.Array:
    """int [B]: of ends int [B, MOST_ENDS] the first beyond begin int [B], or NO_END."""
    return jnp.min(jnp.where(ends > begin[:, None], ends, NO_END), axis=1)
