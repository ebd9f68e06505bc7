"""Continues a prompt that may end anywhere: inside a token, a word or a character.

At the end of the prompt one of its covers is drawn, with the probability that the law gives it.
Its last token may reach beyond the prompt, and from there the model goes on in tokens, at the
speed of tokens: what is sampled is the law's own continuation of the bytes. Where every byte has
to be decided by itself (ensembles, top-p over bytes) `continue_bytes` asks for a distribution at
every byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hat.byte_exact.canonical import DEAD
from hat.byte_exact.model import END, NUM_SYMBOLS, ByteModel, ByteSession, normalized
from hat.byte_exact.pool import Node
from hat.byte_exact.sessions import read_ahead
from hat.byte_exact.tokenized import TokenizedModel
from hat.inference.generation import Generation
from hat.inference.requests import Continuation, Request
from hat.inference.sampling import Draw, Rules, Sampling, choose, leaves_out, noise, rules

_STEPS = 32  # whose random numbers are made together


def continue_tokens(
    model: TokenizedModel,
    prompt: bytes,
    *,
    num_bytes: int = 200,
    samples: int = 1,
    sampling: Sampling = Sampling(),
    stop: bytes = b"",
    context: Sequence[int] = (),
) -> list[Generation]:
    """Samples of what follows the prompt; each ends with END, after num_bytes bytes or before
    `stop`, wherever in a token that is. sampling: over tokens; the cover at the boundary is drawn
    as likely as it is, at temperature 0 the likeliest. context: as in `TokenizedModel.session`.
    Under law `canonical` no token is drawn after which no text is encoded so.

    logprob: of the cover given the prompt, and of the tokens after it, under the model itself.
    UserError where the prompt has no probability.
    """
    session = model.session(context)
    session.advance(prompt)
    random = np.random.default_rng(sampling.seed)
    covers = _draw_covers(session, samples, sampling, random)
    engine = model.evaluator.engine(model.vocabulary.tokenizer)
    made: list[Generation | tuple[_Cover, Continuation]] = []
    for number, cover in enumerate(covers):
        at = cover.beyond.find(stop) if stop else -1
        if at >= 0 or len(cover.beyond) >= num_bytes:
            text = cover.beyond[: num_bytes if at < 0 else min(at, num_bytes)]
            made.append(Generation(prompt, text, cover.logprob, 0 <= at <= num_bytes))
            continue
        check = None
        if model.law == "canonical":
            check = _Valid(model, cover.node.configuration)
        made.append((cover, engine.submit(Request(
            cover.node.ids(), num_bytes, sampling, sample=number, stops=(stop,) if stop else (),
            begun=cover.beyond, check=check,
        ))))  # fmt: skip
    engine.run()
    return [its if isinstance(its, Generation) else _ended(prompt, num_bytes, *its) for its in made]


class _Cover(NamedTuple):
    """One that was drawn: its last node, the bytes that it spells beyond the prompt, and its
    log-probability given the prompt."""

    node: Node
    beyond: bytes
    logprob: float


def _ended(prompt: bytes, num_bytes: int, cover: _Cover, made: Continuation) -> Generation:
    its = Generation.of(prompt, made)
    stopped = its.stopped and len(its.text) <= num_bytes
    return Generation(prompt, its.text[:num_bytes], cover.logprob + its.logprob, stopped)


class _Valid:
    """What law `canonical` lets follow a sequence; for `hat.inference.checked`."""

    def __init__(self, model: TokenizedModel, configuration: int):
        self._vocabulary, self._canonical = model.vocabulary, model.canonical
        self._configuration = configuration

    def count(self, ids: Sequence[int]) -> int:
        at = self._configuration
        for number, token in enumerate(ids):
            if not self._vocabulary.spellings[token]:
                return number + self._canonical.may_end(at)
            at = self._canonical.step(at, token)
            if at == DEAD:
                return number
        return len(ids)

    def take(self, ids: Sequence[int]) -> None:
        for token in ids:
            if self._vocabulary.spellings[token]:
                self._configuration = self._canonical.step(self._configuration, token)

    def mask(self) -> np.ndarray:
        allowed = np.zeros(len(self._vocabulary.spellings), bool)
        places = self._canonical.mask(self._configuration)
        allowed[self._vocabulary.order[places]] = True
        allowed[self._vocabulary.ends] = self._canonical.may_end(self._configuration)
        return allowed


def _draw_covers(session, samples: int, sampling: Sampling, random) -> list[_Cover]:
    _ = session.logprob  # UserError where the prompt has no probability
    covers = session.covers()
    if not session.length:
        return [_Cover(session.states[0][0], b"", 0.0)] * samples
    model = session.model
    logs = np.concatenate([logs for _, _, logs in covers])
    given = logs - np.logaddexp.reduce(logs)
    owners = np.repeat(np.arange(len(covers)), [len(logs) for _, _, logs in covers])
    tokens = np.concatenate([tokens for _, tokens, _ in covers])
    if sampling.temperature == 0:
        picks = [int(np.argmax(given))] * samples
    else:
        picks = random.choice(len(given), samples, p=np.exp(given) / np.exp(given).sum())
    drawn = []
    for pick in picks:
        before, token = covers[owners[pick]][0], int(tokens[pick])
        at = next(at for node, at in session.states if node is before and at)
        after = model.canonical.start
        if model.law == "canonical":
            after = model.canonical.step(before.configuration, token)
        node = Node(model.pool, token, before, after)
        beyond = model.vocabulary.spellings[token][int(model.vocabulary.depth[at]) :]
        drawn.append(_Cover(node, beyond, float(given[pick])))
    return drawn


def continue_bytes(
    model: ByteModel,
    prompt: bytes,
    *,
    num_bytes: int = 200,
    samples: int = 1,
    sampling: Sampling = Sampling(),
    stop: bytes = b"",
) -> list[Generation]:
    """The same, a distribution at every byte; sampling: over bytes and END."""
    start = model.session()
    for byte in prompt:
        start.push(byte)
    texts = [_Text(start.fork()) for _ in range(samples)]
    draws = _Draws(sampling, samples)
    rows = np.zeros((samples, NUM_SYMBOLS), np.float32)  # of a text that has ended: any
    step = 0
    while active := [number for number, text in enumerate(texts) if not text.done]:
        read_ahead([texts[number].session for number in active])
        logs = {number: normalized(texts[number].session.logprobs()) for number in active}
        for number in active:
            rows[number] = logs[number]
        symbols = draws.symbols(rows, step)
        for number in active:
            texts[number].take(symbols[number], float(logs[number][symbols[number]]))
            texts[number].check(num_bytes, stop)
        step += 1
    return [Generation(prompt, bytes(text.text), text.logprob, text.stopped) for text in texts]


class _Text:
    """A continuation that grows byte by byte."""

    def __init__(self, session: ByteSession):
        self.session = session
        self.text, self.logprob = bytearray(), 0.0
        self.done = self.stopped = False

    def take(self, symbol: int, logprob: float) -> None:
        self.logprob += logprob
        if symbol == END:
            self.done = self.stopped = True
        else:
            self.text.append(symbol)

    def check(self, num_bytes: int, stop: bytes) -> None:
        """Ends where the text has; else the session goes on to its last byte."""
        if stop and self.text.endswith(stop) and not self.done:
            del self.text[-len(stop) :]
            self.done = self.stopped = True
        self.done |= len(self.text) >= num_bytes
        if not self.done:
            self.session.push(self.text[-1])


class _Draws:
    """Symbols drawn side by side, by the random numbers that `sample` would use. Those of many
    steps are made together: a call for each byte takes about as long as all else on the host."""

    def __init__(self, sampling: Sampling, samples: int):
        none, numbers = np.zeros(samples, np.int32), np.arange(samples, dtype=np.int32)
        self._rules = jax.tree.map(jnp.asarray, rules(sampling, Draw(none, numbers, none)))
        self._sampling = sampling
        self._noise = np.zeros((0, samples, NUM_SYMBOLS), np.float32)

    def symbols(self, rows: np.ndarray, step: int) -> list[int]:
        """From log-probabilities float32 [B, 257]; steps come one after the other."""
        if leaves_out(self._sampling):
            return np.asarray(_draw(rows, self._rules, np.int32(step))).tolist()
        if self._sampling.temperature > 0:
            at = step % _STEPS
            if at == 0:
                more = noise(self._rules, np.int32(step), _STEPS, NUM_SYMBOLS)
                self._noise = np.asarray(more)
            rows = rows / np.float32(self._sampling.temperature) + self._noise[at]
        return np.argmax(rows, axis=-1).tolist()


@jax.jit
def _draw(rows, its: Rules, step):
    """Symbols int [B] from log-probabilities float32 [B, 257], by the random numbers of a step."""
    step = jnp.full_like(its.draw.step, step)
    return choose(rows, rows, its._replace(draw=its.draw._replace(step=step)))[0]
