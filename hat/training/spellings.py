"""Words that are the tokens of a Llama: the encoder learns their embeddings before any text is read.

The encoder of a HAT of 2025 sees a word and nothing else, so that what it makes of a token is a
function of its spelling. Once that is the Llama's row for every token, the backbone reads what the
Llama reads, and only the decoder is left to learn from text. Bolmo (arXiv 2512.15586) aligns its
encoder in the same sense, over text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hat.errors import UserError
from hat.models.hat_2025 import Hat2025Config, Hat2025Model, lay_out
from hat.models.model import Params
from hat.text.ids import BOS, PAD
from hat.text.tokenizers import Tokenizer
from hat.training.distill_losses import word_distance

IDS, WORDS = 1024, 256  # of the one row of a step
RATE = 0.25  # of Adam, over the width of the encoder; it falls to 0 in a straight line


class Spelled(NamedTuple):
    """token: its id; ids: int32[n], the bytes that spell it, or BOS."""

    token: int
    ids: np.ndarray


def spelled_tokens(tokenizer: Tokenizer, num_ids: int, most: int) -> list[Spelled]:
    """The tokens that texts are encoded to, of those below num_ids with at most `most` bytes, and
    BOS. Of tokens that are spelled alike the encoder can know one, the one that `encode` gives."""
    spellings = {tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)}
    found = []
    for text in sorted(text for text in spellings if 0 < len(text) <= most):
        ids = tokenizer.encode(text)
        if len(ids) == 1 and ids[0] < num_ids:
            found.append(Spelled(int(ids[0]), np.frombuffer(text, np.uint8).astype(np.int32)))
    if tokenizer.bos < num_ids:
        found.append(Spelled(tokenizer.bos, np.array([BOS], np.int32)))
    return found


def fit_encoder(
    config: Hat2025Config,
    params: Params,
    tokenizer: Tokenizer,
    table: jax.Array,
    steps: int,
    seed: int,
    tell: Callable[[int, float], None] = lambda step, distance: None,
) -> tuple[Params, float]:
    """The encoder after `steps` steps towards the rows of `table` [ids, D], and the squared distance
    that is left of the squared length of the rows, in the mean of the last steps.

    params: of the HAT. tell: called ten times on the way with the step and the distance there.
    UserError: no token is short enough for config.word_bytes.
    """
    model = config.build()
    tokens = spelled_tokens(tokenizer, len(table), min(config.word_bytes, IDS))
    if len(tokens) < 2:
        raise UserError(f"no token has at most model.word_bytes={config.word_bytes} bytes")
    rate = optax.linear_schedule(RATE / config.encoder.hidden_size, 0.0, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    step = jax.jit(_make_step(model, optimizer), donate_argnums=(0, 1))
    encoder = jax.tree.map(jnp.copy, params["encoder"])  # the step takes its arguments' memory
    state, distances = optimizer.init(encoder), []
    rows = _rows(tokens, np.random.default_rng(seed))
    for number in range(1, steps + 1):
        encoder, state, distance = step(encoder, state, table, next(rows))
        distances.append(distance)
        if number % max(1, steps // 10) == 0:
            tell(number, float(distance))
    last = [float(distance) for distance in distances[-max(1, steps // 10) :]]
    return encoder, sum(last) / len(last)


def _make_step(model: Hat2025Model, optimizer: optax.GradientTransformation):
    def distance(encoder, table, row):
        words = model.module({"encoder": encoder} | _absent(model)).encoder(lay_out(row))
        total, count = word_distance(words, table[row["token"]], row["word_token"])
        return total / count

    def step(encoder, state, table, row):
        value, slope = jax.value_and_grad(distance)(encoder, table, row)
        change, state = optimizer.update(slope, state, encoder)
        return optax.apply_updates(encoder, change), state, value

    return step


def _absent(model: Hat2025Model) -> Params:
    """Parts that are not used, as zeros that the compiler drops."""
    parts = {name: part for name, part in model.abstract_params().items() if name != "encoder"}
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), parts)


def _rows(tokens: list[Spelled], random: np.random.Generator) -> Iterator[dict[str, np.ndarray]]:
    """Batches of one row [1, IDS] of words [1, WORDS], without end; every token once before any
    comes again. token, word_token: as in hat.text.alignment, of tokens that are the words."""
    waiting: list[int] = []
    while True:
        ids = np.full(IDS, PAD, np.int32)
        word = np.full(IDS, WORDS, np.int32)
        token = np.zeros(WORDS, np.int32)
        used = count = 0
        while count < WORDS:
            waiting = waiting or random.permutation(len(tokens)).tolist()
            its = tokens[waiting[-1]]
            end = used + len(its.ids)
            if end > IDS:
                break
            waiting.pop()
            ids[used:end], word[used:end], token[count] = its.ids, count, its.token
            used, count = end, count + 1
        index = np.arange(WORDS, dtype=np.int32)
        there = index < count
        row = {
            "bytes": ids, "word": word, "word_segment": there.astype(np.int32), "token": token,
            "word_token": np.where(there, index, WORDS).astype(np.int32),
        }  # fmt: skip
        yield {name: values[None] for name, values in row.items()}
