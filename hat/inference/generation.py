"""Continues prompts, and answers conversations, many at a time."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hat.errors import UserError
from hat.inference.engine import Engine
from hat.inference.requests import Continuation, Request
from hat.inference.sampling import Sampling
from hat.models.model import LanguageModel, Params
from hat.text.chat import Message, prompt_ids
from hat.text.splitters import Splitter
from hat.text.tokenizers import Tokenizer

if TYPE_CHECKING:  # a run is loaded from training's files; generation itself needs none of them
    from hat.inference.run import Run


Prompt = bytes | Sequence[Message]  # a text to continue, or messages to answer


@dataclasses.dataclass(frozen=True)
class Generation:
    """A continuation, or an answer. text: without the prompt; logprob: nats of its ids, the end of text
    included, under the model itself (before temperature and all else); stopped: whether the model
    or a stop ended the text, rather than the limit."""

    prompt: Prompt
    text: bytes
    logprob: float
    stopped: bool

    @classmethod
    def of(cls, prompt: Prompt, made: Continuation) -> Generation:
        return cls(prompt, bytes(made.text), -math.fsum(made.nats), made.finish == "stop")


# (index of the result, the bytes it grows by, or None once it has ended)
OnBytes = Callable[[int, bytes | None], None]


def generate(
    run: Run,
    prompts: Sequence[Prompt],
    *,
    num_bytes: int = 200,
    samples: int = 1,
    stops: Sequence[bytes] = (),
    batch_size: int = 16,
    on_bytes: OnBytes | None = None,
    **sampling: Any,
) -> list[Generation]:
    """`samples` continuations of every prompt, in the order of the prompts.

    sampling: fields of `Sampling`, such as temperature and seed.

    A continuation ends at the end of text, before the first of `stops`, or with the id that brings
    it to num_bytes bytes. It depends on the seed, the index of its prompt and of the sample, but
    (up to rounding) not on the other prompts or the batch_size. UserError for an option out of its
    range.
    """
    return generate_with(
        run.model,
        run.params,
        run.rule,
        prompts,
        num_bytes=num_bytes,
        samples=samples,
        sampling=Sampling(**sampling),
        stops=stops,
        batch_size=batch_size,
        on_bytes=on_bytes,
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
    stops: Sequence[bytes] = (),
    batch_size: int = 16,
    on_bytes: OnBytes | None = None,
) -> list[Generation]:
    """`generate` for a model in memory; rule: the splitter of a HAT, the tokenizer of a Llama."""
    for name, value in (("num_bytes", num_bytes), ("samples", samples), ("batch_size", batch_size)):
        if value < 1:
            raise UserError(f"{name} {value} must be at least 1")
    if not prompts:
        return []
    engine = Engine(model, params, rule, max_rows=min(batch_size, len(prompts) * samples))
    return continue_prompts(
        engine, prompts, num_bytes=num_bytes, samples=samples, sampling=sampling, stops=stops,
        on_bytes=on_bytes,
    )  # fmt: skip


def continue_prompts(
    engine: Engine,
    prompts: Sequence[Prompt],
    *,
    num_bytes: int,
    samples: int = 1,
    sampling: Sampling,
    stops: Sequence[bytes] = (),
    on_bytes: OnBytes | None = None,
) -> list[Generation]:
    """`generate_with` by an engine that is there."""
    continuations = []
    for number, prompt in enumerate(prompts):
        ids = read_ids(engine.tokenizer, prompt)
        for sample in range(samples):
            index, request = len(continuations), Request(
                ids, num_bytes, sampling, prompt=number, sample=sample, stops=tuple(stops)
            )  # fmt: skip
            tell = None if on_bytes is None else functools.partial(on_bytes, index)
            continuations.append(engine.submit(request, tell))
    engine.run()
    asked = (prompt for prompt in prompts for _ in range(samples))
    return [Generation.of(prompt, made) for prompt, made in zip(asked, continuations)]


def read_ids(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """What a model reads of a prompt, from BOS on."""

    def encode(text: bytes) -> list[int]:
        return tokenizer.encode(text).tolist()

    if isinstance(prompt, bytes):
        return [tokenizer.bos, *encode(prompt)]
    return [tokenizer.bos, *prompt_ids(prompt, encode, tokenizer.eot)]
