"""Ids that the host checks after they are drawn, and rows that go back to the first that is wrong.

Some rules about ids (which sequences a tokenizer can write, say) are too large for the compiled
loop. Their rows draw freely, and the host looks at a burst afterwards: at the first id that is not
allowed a row goes back, and draws again among the allowed ids alone. An id that is allowed has been
drawn as the same random numbers draw it among the allowed ones, since those only take the likeliest
of all perturbed logits; so the law is that of logits masked at every id. Where ids are drawn from
the likeliest alone (top k, top p, min p) that is not so, and every draw gets its mask beforehand.

A row goes back by a step that reads its last good id again; so it needs memory that has forgotten
nothing, which a ring has (see `llama_rows`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from hat.inference.sampling import REPETITION_IDS, leaves_out

if TYPE_CHECKING:
    from hat.inference.requests import Continuation


class Checker(Protocol):
    """What may follow one text; it grows with `take`."""

    def count(self, ids: Sequence[int]) -> int:
        """How many of these ids, from the first on, may follow one after the other."""
        ...

    def take(self, ids: Sequence[int]) -> None:
        """Makes the text longer by ids that may follow."""
        ...

    def mask(self) -> np.ndarray:
        """bool [ids]: what may follow."""
        ...


class Guide(NamedTuple):
    """What a burst of B rows is told. ids int32 [B]: that a row takes first, not drawn, -1 for
    none; masks bool [B, ids]: what the first draw of a row is from; turns int32: how many ids at
    most."""

    ids: jax.Array
    masks: jax.Array
    turns: jax.Array

    def draw(self, turn: jax.Array, logits: jax.Array) -> jax.Array:
        """Logits [B, ids] from which a turn draws."""
        first = turn == (self.ids >= 0)
        return jnp.where(~first[:, None] | self.masks, logits, -jnp.inf)

    def given(self, turn: jax.Array) -> jax.Array:
        """bool [B]: whose id of a turn is given, and ends nothing."""
        return (turn == 0) & (self.ids >= 0)


def guide_of(rows: Sequence[Continuation | None], num_ids: int, turns: int) -> Guide | None:
    """What the places of these rows are told; None where no row is checked."""
    if not any(row is not None and row.request.check is not None for row in rows):
        return None
    ids, masks = np.full(len(rows), -1, np.int32), np.ones((len(rows), num_ids), bool)
    for place, row in enumerate(rows):
        if row is None or row.request.check is None:
            continue
        always = leaves_out(row.request.sampling)
        if row.wrong == "read":
            ids[place] = (row.ids or row.request.ids)[-1]
        if row.wrong or always:
            masks[place] = row.request.check.mask()
        turns = 1 if always else turns
    return Guide(ids, masks, np.int32(turns))


class Back(NamedTuple):
    """Rows that go back, bool [B], and where to: see `Slots`, and Slots.rules for step."""

    rows: np.ndarray
    position: np.ndarray
    room: np.ndarray
    reader: np.ndarray
    recent: np.ndarray
    step: np.ndarray


def no_way_back(size: int) -> Back:
    """Of `size` places none goes back."""
    position, room, reader, step = np.zeros((4, size), np.int32)
    recent = np.zeros((size, REPETITION_IDS), np.int32)
    return Back(np.zeros(size, bool), position, room, reader, recent, step)


@functools.partial(jax.jit, donate_argnums=0)
def go_back(slots, back: Back):
    """The slots with some rows as they were, and active again; their logits mean nothing."""

    def put(held, earlier):
        rows = back.rows.reshape(-1, *[1] * (held.ndim - 1))
        return jnp.where(rows, earlier, held)

    draw = slots.rules.draw
    return slots._replace(
        state=slots.state._replace(position=put(slots.state.position, back.position)),
        active=slots.active | back.rows,
        room=put(slots.room, back.room),
        reader=put(slots.reader, back.reader),
        recent=put(slots.recent, back.recent),
        rules=slots.rules._replace(draw=draw._replace(step=put(draw.step, back.step))),
    )
