"""The compiled loop: many ids for every row before the host looks."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hat.inference.checked import Guide
from hat.inference.memory import turn
from hat.inference.sampling import Rules, choose, penalise
from hat.inference.text_rules import TextTables, keep_valid

BURST = 16  # ids of a row between two looks of the host
MOST_TOPS = 5  # likeliest ids that are reported with each that is drawn


class Slots(NamedTuple):
    """B places for rows; of every leaf the first axis is B.

    state: of the model. logits float32 [B, ids]: of the next id. active bool [B]: whether a row
    goes on. room int32 [B]: how many bytes it may still grow by. rules: how its ids are drawn, and
    how many have been. valid bool [B]: whether its text must be UTF-8; reader int32 [B]: where in a
    character its text is. recent int32 [B, 64]: the latest ids, -1 for none.
    """

    state: Any
    logits: jax.Array
    active: jax.Array
    room: jax.Array
    rules: Rules
    valid: jax.Array
    reader: jax.Array
    recent: jax.Array


class Burst(NamedTuple):
    """What a burst of K = BURST steps gave.

    ids int32 [K, B], -1 where a row did not go on; nats float32 [K, B], minus their
    log-probabilities; top_ids int32 and top_nats float32 [K, B, MOST_TOPS], the likeliest ids,
    where they were asked for. active bool [B]: which rows go on; slots int32: the most slots that
    one of these has in use.
    """

    ids: jax.Array
    nats: jax.Array
    top_ids: jax.Array
    top_nats: jax.Array
    active: jax.Array
    slots: jax.Array


def top_logprobs(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits [..., ids] -> the likeliest ids and minus their log-probabilities [..., MOST_TOPS]."""
    top, ids = jax.lax.top_k(logits, MOST_TOPS)
    return ids.astype(jnp.int32), jax.nn.logsumexp(logits, axis=-1, keepdims=True) - top


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=4)
def run_burst(
    kind, closing: int, params, tables: TextTables, slots: Slots, clock, most, early, tops,
    guide: Guide | None = None,
) -> tuple[Slots, jax.Array, Burst]:
    """Up to BURST ids for every active row; also the clock after it.

    kind: `HatRows` or `LlamaRows`. most: slots of the buffers that a row may use. early: whether to
    end once a row has ended, as another waits. tops: whether `top_ids` are asked for. guide: of
    rows that are checked.
    """
    rows = len(slots.active)
    shape = (BURST, rows)
    blank = Burst(
        ids=jnp.full(shape, -1, jnp.int32),
        nats=jnp.zeros(shape, jnp.float32),
        top_ids=jnp.zeros((*shape, MOST_TOPS), jnp.int32),
        top_nats=jnp.zeros((*shape, MOST_TOPS), jnp.float32),
        active=slots.active,
        slots=jnp.int32(0),
    )
    first_active = slots.active
    turns = BURST if guide is None else guide.turns

    def going(carry):
        turn_, slots, _, _ = carry
        ended = jnp.any(first_active & ~slots.active)
        return (turn_ < turns) & jnp.any(slots.active) & ~(early & ended)

    def body(carry):
        turn_, slots, clock, burst = carry
        if guide is None:
            ids, nats = _choose(slots, tables)
            ends = tables.ends[ids]
        else:
            ids, nats = _choose(slots, tables, functools.partial(guide.draw, turn_))
            given = guide.given(turn_)
            ids = jnp.where(given, guide.ids, ids)
            ends = tables.ends[ids] & ~given
        top_ids, top_nats = jax.lax.cond(
            tops,
            lambda: top_logprobs(slots.logits),
            lambda: (burst.top_ids[0], burst.top_nats[0]),
        )
        burst = burst._replace(
            ids=burst.ids.at[turn_].set(jnp.where(slots.active, ids, -1)),
            nats=burst.nats.at[turn_].set(nats),
            top_ids=burst.top_ids.at[turn_].set(top_ids),
            top_nats=burst.top_nats.at[turn_].set(top_nats),
        )
        slots = _append(slots, tables, ids, ends)
        state, logits = kind.step(
            params, slots.state, clock, jnp.where(slots.active, ids, 0), slots.active, closing
        )
        active = slots.active & (kind.slots(state) + kind.slots_per_step <= most)
        slots = slots._replace(state=state, logits=logits, active=active)
        return turn_ + 1, slots, clock + 1, burst

    _, slots, clock, burst = jax.lax.while_loop(going, body, (0, slots, clock, blank))
    used = jnp.max(jnp.where(slots.active, kind.slots(slots.state), 0))
    return slots, clock, burst._replace(active=slots.active, slots=used)


def _choose(slots: Slots, tables: TextTables, masked=None) -> tuple[jax.Array, jax.Array]:
    rules = slots.rules
    changed = jax.lax.cond(
        jnp.any(rules.repetition_penalty != 1),
        lambda: penalise(slots.logits, slots.recent, rules.repetition_penalty),
        lambda: slots.logits,
    )
    changed = jax.lax.cond(
        jnp.any(slots.valid),
        lambda: jnp.where(
            slots.valid[:, None], keep_valid(changed, tables, slots.reader, slots.room), changed
        ),
        lambda: changed,
    )
    changed = changed if masked is None else masked(changed)
    ids, logprobs = choose(slots.logits, changed, rules)
    return ids, -logprobs


def _append(slots: Slots, tables: TextTables, ids: jax.Array, ends: jax.Array) -> Slots:
    """Every row longer by an id; those end that say so, or that have no room left."""
    # An id that spells nothing takes room too: no row goes on for ever.
    room = slots.room - jnp.maximum(tables.length[ids], 1)
    reader = tables.after[slots.reader, ids]
    return slots._replace(
        active=slots.active & ~ends & (room > 0),
        room=room,
        reader=jnp.where(reader < len(tables.missing), reader, 0),
        recent=jnp.concatenate([slots.recent[:, 1:], ids[:, None]], axis=1),
        rules=slots.rules._replace(
            draw=slots.rules.draw._replace(step=slots.rules.draw.step + 1)
        ),
    )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def put_row(kind, slots: Slots, clock, row: Slots, place) -> Slots:
    """The slots with a row (one slot, its rings at clock 0) at a place; buffers not longer."""
    row = row._replace(state=_turned(kind, row.state, clock))

    def put(held, new):
        return held.at[(place, *(slice(0, n) for n in new.shape[1:]))].set(new[0])

    return jax.tree.map(put, slots, row)


@jax.jit
def take_rows(slots: Slots, places) -> Slots:
    """Other slots: those at places int [B'], none of them active where it is negative."""
    slots = jax.tree.map(lambda x: x[jnp.maximum(places, 0)], slots)
    return slots._replace(active=slots.active & (places >= 0))


def _turned(kind, state, clock):
    def turned(stack):
        if hasattr(stack, "keys"):  # one memory
            return turn(stack, clock % stack.size)
        return tuple(turn(memory, clock % memory.size) for memory in stack)

    return state._replace(**{name: turned(stack) for name, stack in kind.rings(state).items()})


@jax.jit
def score_chunk(logits: jax.Array, targets, count) -> tuple[jax.Array, ...]:
    """Logits [T, ids], of which `count` are real, and the ids that follow, int [T]. The logits
    after the last, [1, ids]; nats float32 [T] of the targets; the likeliest ids and their nats
    [T, MOST_TOPS]."""
    chosen = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    after = jax.lax.dynamic_slice_in_dim(logits, count - 1, 1)
    return after, jax.nn.logsumexp(logits, axis=-1) - chosen, *top_logprobs(logits)


def empty_slots(kind, params, rows: int, num_ids: int, rule: Rules, recent: int) -> Slots:
    """No row; rule: any, of `rows` rows."""
    numbers, none = np.zeros(rows, np.int32), np.zeros(rows, bool)
    slots = Slots(
        state=kind.empty(params, rows),
        logits=np.zeros((rows, num_ids), np.float32),
        active=none, room=numbers, rules=rule, valid=none, reader=numbers,
        recent=np.full((rows, recent), -1, np.int32),
    )  # fmt: skip
    return jax.tree.map(jnp.array, slots)  # buffers of their own, which `run_burst` may take
