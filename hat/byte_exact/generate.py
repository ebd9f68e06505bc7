"""Continues a prompt that may end anywhere: inside a token, a word or a character.

At the end of the prompt one of its covers is drawn, with the probability that the law gives it.
Its last token may reach beyond the prompt, and from there the model goes on in tokens, at the
speed of tokens: what is sampled is the law's own continuation of the bytes. Where every byte has
to be decided by itself (ensembles, top-p over bytes) `continue_bytes` asks for a distribution at
every byte.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from hat.byte_exact.model import END, ByteModel, normalized
from hat.byte_exact.pool import Node
from hat.byte_exact.tokenized import TokenizedModel
from hat.inference.generation import Generation
from hat.inference.sampling import Draw, Sampling, sample


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
    jobs = [_Job(*cover) for cover in _draw_covers(session, samples, sampling, random)]
    for job in jobs:
        job.cut(num_bytes, stop)
    step = 0
    while active := [job for job in jobs if not job.done]:
        rows: dict[Node, np.ndarray] = {}
        model.pool.read([job.node for job in active], rows)
        logits = np.stack([_allowed(model, job.node, rows[job.node]) for job in active])
        # Shapes stay as they were when samples end: little is compiled.
        padded = np.concatenate([logits, np.repeat(logits[:1], len(jobs) - len(active), axis=0)])
        numbers = [jobs.index(job) for job in active] + [0] * (len(jobs) - len(active))
        draw = Draw(*np.array([(0, number, step) for number in numbers], np.int32).T)
        tokens, _ = map(np.asarray, sample(jnp.asarray(padded), draw, sampling))
        for job, token in zip(active, tokens.tolist()):
            spelled = model.vocabulary.spellings[token]
            job.logprob += float(rows[job.node][token])
            if not spelled:
                job.done = job.stopped = True
                continue
            after = model.canonical.start
            if model.law == "canonical":
                after = model.canonical.step(job.node.configuration, token)
            job.node = Node(model.pool, token, job.node, after)
            job.text += spelled
            job.cut(num_bytes, stop)
        step += 1
    return [Generation(prompt, bytes(job.text), job.logprob, job.stopped) for job in jobs]


class _Job:
    def __init__(self, node: Node, beyond: bytes, logprob: float):
        self.node, self.text, self.logprob = node, bytearray(beyond), logprob
        self.done = self.stopped = False

    def cut(self, num_bytes: int, stop: bytes) -> None:
        at = self.text.find(stop) if stop else -1
        if at >= 0 or len(self.text) >= num_bytes:
            del self.text[min(at if at >= 0 else num_bytes, num_bytes) :]
            self.done = True


def _draw_covers(session, samples: int, sampling: Sampling, random) -> list[tuple]:
    """(node, bytes beyond the prompt, log-probability given the prompt) of drawn covers."""
    _ = session.logprob  # UserError where the prompt has no probability
    covers = session.covers()
    if not session.length:
        return [(session.states[0][0], b"", 0.0)] * samples
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
        drawn.append((node, beyond, float(given[pick])))
    return drawn


def _allowed(model: TokenizedModel, node: Node, row: np.ndarray) -> np.ndarray:
    """The row with what law `canonical` does not allow at minus infinity."""
    if model.law != "canonical":
        return row
    out = np.full(len(row), -np.inf, np.float32)
    tokens = model.vocabulary.order[model.canonical.mask(node.configuration)]
    out[tokens] = row[tokens]
    if model.canonical.may_end(node.configuration):
        out[model.vocabulary.ends] = row[model.vocabulary.ends]
    return out


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
    results = []
    for number in range(samples):
        session, text, logprob, stopped = start.fork(), bytearray(), 0.0, False
        while len(text) < num_bytes and not (stop and text.endswith(stop)):
            row = normalized(session.logprobs())
            draw = Draw(*np.array([[0], [number], [len(text)]], np.int32))
            symbol = int(sample(jnp.asarray(row, jnp.float32)[None], draw, sampling)[0][0])
            logprob += float(row[symbol])
            if symbol == END:
                stopped = True
                break
            text.append(symbol)
            session.push(symbol)
        if stop and text.endswith(stop):
            del text[-len(stop) :]
        results.append(Generation(prompt, bytes(text), logprob, stopped))
    return results
