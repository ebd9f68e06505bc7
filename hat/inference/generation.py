"""Continues prompts, and answers conversations, many at a time, one id per row and step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import jax
import numpy as np

from hat.errors import UserError
from hat.inference.hat_session import HatSession
from hat.inference.llama_session import LlamaSession, Tokenizer
from hat.inference.sampling import Draw, Sampling, sample
from hat.models.hat import HatModel
from hat.models.model import LanguageModel, Params
from hat.text.chat import Message, prompt_ids
from hat.text.splitters import Splitter

if TYPE_CHECKING:  # a run is loaded from training's files; generation itself needs none of them
    from hat.inference.run import Run


class Session(Protocol):
    """Documents in lock-step: `HatSession`, `LlamaSession`."""

    batch_size: int
    bos: int
    eot: int
    pad: int

    def encode(self, text: bytes) -> list[int]: ...

    def spell(self, id: int) -> bytes: ...

    def push(self, ids: np.ndarray) -> jax.Array: ...


Prompt = bytes | Sequence[Message]  # a text to continue, or messages to answer


@dataclasses.dataclass(frozen=True)
class Generation:
    """A continuation, or an answer. text: without the prompt; logprob: nats of its ids, the end of text
    included, under the model itself (before temperature, top-k and top-p); stopped: whether the
    model ended the text, rather than the limit."""

    prompt: Prompt
    text: bytes
    logprob: float
    stopped: bool


OnBytes = Callable[[int, bytes], None]  # (index of the result, the bytes it grows by)


def generate(
    run: Run,
    prompts: Sequence[Prompt],
    *,
    num_bytes: int = 200,
    samples: int = 1,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    batch_size: int = 16,
    on_byte: OnBytes | None = None,
) -> list[Generation]:
    """`samples` continuations of every prompt, in the order of the prompts.

    A continuation ends at the end of text or with the id that brings it to num_bytes bytes.
    It depends on the seed, the index of its prompt and of the sample, but (up to rounding) not
    on the other prompts or the batch_size. UserError for an option out of its range.
    """
    return generate_with(
        run.model,
        run.params,
        run.rule,
        prompts,
        num_bytes=num_bytes,
        samples=samples,
        sampling=Sampling(temperature, top_k, top_p, seed),
        batch_size=batch_size,
        on_byte=on_byte,
    )


def generate_with(
    model: LanguageModel,
    params: Params,
    rule: Splitter | Tokenizer,
    prompts: Sequence[Prompt],
    *,
    num_bytes: int = 200,
    samples: int = 1,
    sampling: Sampling = Sampling(),
    batch_size: int = 16,
    on_byte: OnBytes | None = None,
) -> list[Generation]:
    """`generate` for a model in memory; rule: the splitter of a HAT, the tokenizer of a Llama."""
    for name, value in (("num_bytes", num_bytes), ("samples", samples), ("batch_size", batch_size)):
        if value < 1:
            raise UserError(f"{name} {value} must be at least 1")
    if not prompts:
        return []
    session = open_session(model, params, rule, min(batch_size, len(prompts) * samples))
    return continue_prompts(
        session, prompts, num_bytes=num_bytes, samples=samples, sampling=sampling, on_byte=on_byte
    )


def open_session(
    model: LanguageModel, params: Params, rule: Splitter | Tokenizer, batch_size: int
) -> Session:
    """Empty rows of the model. rule: as in `generate_with`."""
    session_class = HatSession if isinstance(model, HatModel) else LlamaSession
    return session_class(model, params, rule, batch_size)


def continue_prompts(
    session: Session,
    prompts: Sequence[Prompt],
    *,
    num_bytes: int,
    samples: int,
    sampling: Sampling,
    on_byte: OnBytes | None = None,
) -> list[Generation]:
    """`generate_with` through an open session. A row that ends takes the next prompt that waits."""
    ids = [[session.bos, *read_ids(session, prompt)] for prompt in prompts]
    jobs = [
        Job(number, sample, ids[number]) for number in range(len(prompts)) for sample in range(samples)
    ]
    run_jobs(session, jobs, num_bytes=num_bytes, sampling=sampling, on_byte=on_byte)
    return [job.result(prompts[job.prompt]) for job in jobs]


def read_ids(session: Session, prompt: Prompt) -> list[int]:
    """What a session reads of a prompt after BOS."""
    if isinstance(prompt, bytes):
        return session.encode(prompt)
    return prompt_ids(prompt, session.encode, session.eot)


def run_jobs(
    session: Session,
    jobs: Sequence[Job],
    *,
    num_bytes: int,
    sampling: Sampling,
    on_byte: OnBytes | None = None,
) -> None:
    """Runs these jobs to their ends. A row that ends takes the next job that waits."""
    waiting = iter(enumerate(jobs))
    rows = [next(waiting, None) for _ in range(session.batch_size)]
    while any(rows):
        running = [None if row is None else row[1] for row in rows]
        ids = [session.pad if job is None else job.next_id for job in running]
        logits = session.push(np.array(ids, np.int32))
        drawing = [job is not None and not job.forced for job in running]
        if any(drawing):
            drawn, logprobs = map(np.asarray, sample(logits, _draw(running), sampling))
        for row, job in enumerate(running):
            if job is None:
                continue
            if not drawing[row]:
                job.next_id = job.forced.pop()
                continue
            piece = job.append(session, int(drawn[row]), float(logprobs[row]), num_bytes)
            if on_byte is not None and piece:
                on_byte(rows[row][0], piece)
            if job.done:
                rows[row] = next(waiting, None)


class Job:
    """One continuation in the making: what is read first, and what has been drawn since.

    prompt, sample: its numbers, which its random numbers depend on. next_id: what the session has
    not read yet.
    """

    def __init__(self, prompt: int, sample: int, ids: Sequence[int]):
        self.prompt, self.sample = prompt, sample
        self.next_id = ids[0]
        self.forced = list(ids[:0:-1])  # still to be read, last first
        self.text = bytearray()
        self.logprob = 0.0
        self.num_drawn = 0
        self.stopped = self.done = False

    def append(self, session: Session, id: int, logprob: float, num_bytes: int) -> bytes:
        """Takes a drawn id and returns the bytes it adds."""
        self.next_id = id
        self.num_drawn += 1
        self.logprob += logprob
        # A model that begins another document, where its tokenizer lets it, has ended this one.
        self.stopped = id in (session.eot, session.bos, session.pad)
        piece = b"" if self.stopped else session.spell(id)
        self.text += piece
        self.done = self.stopped or len(self.text) >= num_bytes
        return piece

    def result(self, prompt: Prompt) -> Generation:
        return Generation(prompt, bytes(self.text), self.logprob, self.stopped)


def _draw(rows: Sequence[Job | None]) -> Draw:
    numbers = [(0, 0, 0) if job is None else (job.prompt, job.sample, job.num_drawn)
               for job in rows]
    return Draw(*np.array(numbers, np.int32).T)
