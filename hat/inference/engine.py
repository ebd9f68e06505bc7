"""Many continuations at once: requests come and go while the others go on.

`step` reads a part of the prompts that wait, then runs one burst of the compiled loop for all rows.
Rows live in slots whose number is one of few sizes, and memories in buffers whose length is one of
few, so that after a while every program that can be needed is there. What a row gives depends on
its request alone, up to the rounding of sums.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from hat.errors import UserError
from hat.inference.burst import (
    BURST,
    Burst,
    Slots,
    empty_slots,
    put_row,
    run_burst,
    score_chunk,
    take_rows,
)
from hat.inference.checked import go_back, guide_of, no_way_back
from hat.inference.kinds import rows_of
from hat.inference.memory import SMALLEST_BUFFER
from hat.inference.prefixes import Prefixes
from hat.inference.requests import Continuation, OnBytes, Request
from hat.inference.sampling import REPETITION_IDS, Draw, Sampling, latest, rules
from hat.inference.text_rules import missing_bytes, read_state, text_tables
from hat.models.llama import LlamaModel
from hat.models.model import LanguageModel, Params
from hat.text.splitters import Splitter
from hat.text.tokenizers import ByteTokenizer, Tokenizer

READ_PER_STEP = 1024  # ids of prompts between two bursts, while rows go on


class Engine:
    """A model that continues texts. Holds device arrays; for one thread."""

    def __init__(
        self,
        model: LanguageModel,
        params: Params | None,
        rule: Splitter | Tokenizer,
        *,
        max_rows: int = 16,
        prefixes: int = 32,
        max_words: int = 2**30,
        room: int = SMALLEST_BUFFER,
        closing: int | None = None,
        unspelled_end: bool = False,
        rings: bool = True,
        prepared: Any = None,
    ):
        """rule: the splitter of a HAT, the tokenizer of a Llama. max_rows: continuations at once.
        prefixes: how many rows are kept for prompts that begin alike. max_words: of a row (tokens
        of a Llama), which bounds the backbone's memory; a text that reaches it ends there. room: slots
        that buffers have from the start, as every size that they grow to is compiled anew. closing:
        rows that the backbone takes together; None: `best_closing`. unspelled_end: whether every id
        that spells nothing ends a text. rings: see `llama_rows`; requests with a check need False.
        prepared: what `prepare` made of the parameters, instead of them."""
        self._kind = rows_of(model, rings)
        self.tokenizer = rule if isinstance(model, LlamaModel) else ByteTokenizer()
        self._rule = rule
        self._params = self._kind.prepare(params, rule) if prepared is None else prepared
        self._num_ids = model.config.num_ids
        tables = text_tables(self.tokenizer, self._num_ids, unspelled_end)
        self._ends = tables.ends
        self._tables = jax.tree.map(jax.numpy.asarray, tables)
        self.sizes = [*(n for n in (1, 4, 16, 64, 256) if n < max_rows), max_rows]
        self._closing, self._max_words, self._room = closing, max_words, room
        self.prefixes = Prefixes(prefixes)
        self.waiting: deque[Continuation] = deque()
        self._reading: _Reading | None = None
        self._places: list[Continuation | None] = []
        self._slots: Slots | None = None
        self._clock = np.int32(0)
        self._used = 0  # slots of the buffers, at most
        self._turns = BURST  # of a burst with rows that are checked

    @property
    def chunks(self) -> tuple[int, ...]:
        """The numbers of ids that are read at once."""
        return self._kind.chunks

    @property
    def scores(self) -> bool:
        """Whether the ids of prompts are scored where requests ask for it."""
        return self._kind.scores

    @property
    def active(self) -> list[Continuation]:
        """The continuations that have a row."""
        return [row for row in self._places if row is not None]

    def submit(self, request: Request, on_bytes: OnBytes | None = None) -> Continuation:
        """Queues a request; `step` works on it. May be called from another thread, as may `cancel`;
        on_bytes is called from the thread that steps. UserError: it can never be done."""
        self.check(request)
        continuation = Continuation(request, on_bytes)
        self.waiting.append(continuation)
        return continuation

    def check(self, request: Request) -> None:
        """UserError, or ValueError for ids that no text has, where it can never be done."""
        check_ids(request.ids, self.tokenizer, self._num_ids)
        if request.check is not None and not self._kind.goes_back:
            raise ValueError("no row goes back here, so that none can be checked")
        if request.scores and not self.scores:
            raise UserError(
                "a HAT of 2025 gives no scores of prompts, as it writes the ends of words beside "
                "bytes; use hat score, or leave echo out"
            )
        words = self._kind.slots_of(self._kind.read(self._rule, np.asarray(request.ids, np.int32)))
        if words + self._kind.slots_per_step > self._max_words:
            raise UserError(
                f"the prompt has {words} words or tokens; rows end at {self._max_words} here"
            )
        if request.sampling.valid_utf8 and request.num_bytes:
            missing = missing_bytes(self._reader(request.ids))
            if missing > request.num_bytes:
                raise UserError(
                    f"the prompt ends inside a character that needs {missing} more bytes; "
                    f"valid UTF-8 of at most {request.num_bytes} cannot follow"
                )

    def cancel(self, continuation: Continuation) -> None:
        """Its row is free with the next step; what it has stays."""
        continuation.cancelled = True

    def run(self) -> None:
        """Steps until nothing is left to do."""
        while self.step():
            pass

    def step(self) -> bool:
        """Some of the prompts that wait, then a burst; whether there is more to do."""
        self._drop_cancelled()
        budget = READ_PER_STEP
        while (self._reading or self.waiting) and len(self.active) < self.sizes[-1]:
            if budget <= 0 and self.active:
                break
            budget -= self._read()
        if self.active:
            self._burst()
        return bool(self.active or self.waiting or self._reading)

    # Prompts

    def _read(self) -> int:
        """Reads on in a prompt, or begins the next; how many ids were read."""
        if self._reading is None:
            self._reading = self._begin(self.waiting.popleft())
        reading = self._reading
        prompt, request = reading.prompt, reading.continuation.request
        first = reading.at
        if first < len(prompt.ids):
            most = next(mark for mark in reading.marks if mark > first) - first
            state, logits, last = self._kind.read_chunk(
                self._params, reading.state, prompt, first, most, scores=request.scores
            )
            if request.scores:
                logits = self._score(reading.continuation, prompt.ids, first, last, logits)
            reading.state, reading.logits, reading.at = state, logits, last
            if last in reading.marks:
                self.prefixes.keep(prompt.ids[:last], (state, logits))
        if reading.at == len(prompt.ids):
            self._reading = None
            if request.num_bytes == 0:
                reading.continuation.end("length")
                reading.continuation.tell()
            else:
                self._seat(reading)
        return max(reading.at - first, 1)

    def _begin(self, continuation: Continuation) -> _Reading:
        ids = np.asarray(continuation.request.ids, np.int32)
        at, kept = (0, None) if continuation.request.scores else self.prefixes.find(ids)
        if kept is None:
            kept = self._kind.with_room(self._kind.empty(self._params, 1), self._room), None
        state, logits = kept
        marks = sorted({self.prefixes.shared(ids), len(ids)} - {0})
        return _Reading(continuation, self._kind.read(self._rule, ids), marks, at, state, logits)

    def _score(self, continuation: Continuation, ids, first: int, last: int, logits):
        """Scores the ids that follow those of a chunk; the logits after its last."""
        targets = np.zeros(len(logits), np.int32)
        following = ids[first + 1 : last + 1]
        targets[: len(following)] = following
        after, *scored = score_chunk(logits, targets, np.int32(last - first))
        nats, top_ids, top_nats = (np.asarray(x)[: len(following)] for x in scored)
        continuation.prompt_nats += nats.tolist()
        continuation.prompt_tops += list(zip(top_ids, top_nats))
        return after

    def _reader(self, ids: Sequence[int]) -> int:
        return read_state(b"".join(self.tokenizer.token_bytes(id) for id in ids[-4:]))

    # Rows

    def _seat(self, reading: _Reading) -> None:
        """Gives a row that has read its prompt a place."""
        request = reading.continuation.request
        if None not in self._places:
            self._resize(next(n for n in self.sizes if n > len(self._places)))
        state = self._kind.at_end(reading.state, reading.prompt)
        draw = Draw(*(np.full(1, n, np.int32) for n in (request.prompt, request.sample, 0)))
        row = Slots(
            state=state,
            logits=reading.logits,
            active=np.ones(1, bool),
            room=np.full(1, reading.continuation.room, np.int32),
            rules=rules(request.sampling, draw),
            valid=np.full(1, request.sampling.valid_utf8),
            reader=np.full(1, self._reader(request.ids), np.int32),
            recent=latest(request.ids)[None],
        )
        slots = int(self._kind.slots(state)[0])
        self._used = max(self._used, slots)
        self._make_room(max(self._used, self._buffer_size(state)))
        place = self._places.index(None)
        self._slots = put_row(self._kind, self._slots, self._clock, row, np.int32(place))
        self._places[place] = reading.continuation

    def _buffer_size(self, state) -> int:
        sizes = [memory.size for stack in self._kind.buffers(state).values() for memory in stack]
        return max(sizes, default=0)

    def _make_room(self, slots: int) -> None:
        state = self._kind.with_room(self._slots.state, max(slots, self._room))
        self._slots = self._slots._replace(state=state)

    def _resize(self, size: int) -> None:
        """As many places as `size`; rows move to the first of them."""
        if not self.active:  # anew, with the smallest buffers
            rule = rules(Sampling(), Draw(*np.zeros((3, size), np.int32)))
            self._slots = empty_slots(
                self._kind, self._params, size, self._num_ids, rule, REPETITION_IDS
            )
            self._places, self._used = [None] * size, 0
            return
        kept = [place for place, row in enumerate(self._places) if row is not None]
        places = np.array(kept + [-1] * (size - len(kept)), np.int32)
        self._slots = take_rows(self._slots, places)
        self._places = [None if place < 0 else self._places[place] for place in places]

    def _drop_cancelled(self) -> None:
        reading = self._reading
        if reading is not None and reading.continuation.cancelled:
            self._reading = None
            self._give_up(reading.continuation)
        for row in [row for row in list(self.waiting) if row.cancelled]:
            self.waiting.remove(row)
            self._give_up(row)
        for row in self.active:
            if row.cancelled:
                self._give_up(row)
        self._free()

    def _give_up(self, continuation: Continuation) -> None:
        continuation.end("cancelled")
        continuation.tell()

    def _free(self) -> None:
        """The places of rows that have ended."""
        gone = [n for n, row in enumerate(self._places) if row is not None and row.finish]
        if gone:
            active = np.array(self._slots.active)
            active[gone] = False
            self._slots = self._slots._replace(active=jax.numpy.array(active))
            for place in gone:
                self._places[place] = None
            self._shrink()

    def _shrink(self) -> None:
        """Fewer places where fewer do, unless others wait for them."""
        count = len(self.active)
        if self.waiting or self._reading:
            return
        if not count:
            self._places, self._slots = [], None
        while smaller := [n for n in self.sizes if count <= n < len(self._places)]:
            self._resize(smaller[-1])  # size by size: fewer programs than pairs of sizes

    def _burst(self) -> None:
        self._make_room(self._used + BURST + self._kind.slots_per_step)
        rows = len(self._places)
        tops = any(row.request.tops for row in self.active)
        early = bool(self.waiting or self._reading)
        closing = self._closing or best_closing(rows)
        self._slots, self._clock, burst = run_burst(
            self._kind, closing, self._params, self._tables, self._slots, self._clock,
            np.int32(self._max_words), early, tops, guide_of(self._places, self._num_ids, self._turns),
        )  # fmt: skip
        burst = jax.tree.map(np.asarray, burst)
        self._used = int(burst.slots)
        self._deliver(burst)

    def _deliver(self, burst: Burst) -> None:
        wrong, counts = [], []
        ids, nats = burst.ids.T.tolist(), burst.nats.T.tolist()
        for place, row in enumerate(self._places):
            if row is None:
                continue
            turns = np.flatnonzero(burst.ids[:, place] >= 0)
            if row.request.check is not None:
                turns, all_right = self._checked(row, burst.ids[:, place], turns)
                counts.append(len(turns))
                if not all_right:
                    wrong.append(place)
            for turn in turns.tolist():
                id, top = ids[place][turn], None
                if row.request.tops:
                    top = burst.top_ids[turn, place], burst.top_nats[turn, place]
                row.take(id, self.tokenizer.token_bytes(id), bool(self._ends[id]),
                         nats[place][turn], top)  # fmt: skip
                if row.finish is not None:
                    break
            if row.finish is None and not burst.active[place] and place not in wrong:
                row.end("length")  # at max_words
            row.tell()
        if counts:  # few turns where most of what is drawn is wrong
            self._turns = min(2 * max(sum(counts) // len(counts), 1) + 1, BURST) if wrong else BURST
        self._go_back([place for place in wrong if self._places[place].finish is None])
        self._free()

    # Rows whose ids are checked

    def _checked(self, row: Continuation, ids, turns) -> tuple[np.ndarray, bool]:
        """Which turns of a burst stand, and whether all do."""
        if row.wrong == "read":  # its first id was read again
            turns = turns[1:]
            row.wrong = None if len(turns) else "draw"
        elif len(turns):
            row.wrong = None
        count = row.request.check.count(ids[turns].tolist())
        row.request.check.take(ids[turns[:count]].tolist())
        return turns[:count], count == len(turns)

    def _go_back(self, places: list[int]) -> None:
        """Rows read their last good id again and draw another."""
        if not places:
            return
        back = no_way_back(len(self._places))
        for place in places:
            row = self._places[place]
            ids = [*row.request.ids, *row.ids]
            row.wrong = "read"
            back.rows[place], back.position[place] = True, len(ids) - 2
            back.room[place] = row.room + max(len(self.tokenizer.token_bytes(ids[-1])), 1)
            back.reader[place], back.recent[place] = self._reader(ids[:-1]), latest(ids[:-1])
            back.step[place] = len(row.ids) - 1
        self._slots = go_back(self._slots, back)
        self._used = max(self._used, int(back.position.max()) + 1)


@dataclasses.dataclass
class _Reading:
    """A prompt being read: so far to `at`, in chunks that end at `marks` at the latest."""

    continuation: Continuation
    prompt: Any
    marks: list[int]
    at: int
    state: Any
    logits: Any


def best_closing(rows: int) -> int:
    """How many rows the backbone takes together.

    A fifth of the rows ends a word with a byte. With 64 rows of a HAT of 25 million parameters on
    one busy CPU core, the backbone took 62 ms for all rows and 25 ms for 16, a byte of all rows 24
    ms: 741 bytes/s with all rows at every word (a conditional a byte), 1,298 with 16 together, and
    613 in rounds in which rows wait until each has a word, whose longest of 64 has 19 bytes on
    average. `hat bench generate` repeats the comparison. Few rows go one by one: a product with a
    single row is much the fastest, so that on two cores 4 rows gave 1,252 and 1,309 bytes/s that
    way, 999 and 1,019 together.
    """
    return 1 if rows <= 8 else max(4, rows // 4)


def check_ids(ids: Sequence[int], tokenizer: Tokenizer, num_ids: int) -> None:
    """ValueError unless a row can read these ids."""
    if not len(ids) or ids[0] != tokenizer.bos:
        raise ValueError("a row's first id must be BOS")
    refused = {tokenizer.bos, tokenizer.pad} - {tokenizer.eot}
    for id in ids[1:]:
        if not 0 <= id < num_ids or id in refused:
            raise ValueError(f"id {id} cannot be read inside a text")
