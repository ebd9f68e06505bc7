"""What a HAT that learns beside a teacher makes of a batch, in either architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import numpy as np

from hat.models.hat import EOT, NUM_BYTES, HatModel
from hat.models.hat_2025 import Hat2025Model, W, lay_out, price
from hat.models.model import Batch, Params, cross_entropy

OUTCOMES = np.r_[:NUM_BYTES, EOT]  # specials that are never predicted lie between


class Student(NamedTuple):
    """states: words [B, N, D] after so many blocks of the backbone. nats, correct: [B, T], as
    `LanguageModel.nats`. logprobs: float32 [B, T, 257], of the byte after every position, or the
    end of the text (column 256).

    Of a HAT that predicts where its words end, logprobs are inside words, with their end as column
    257, and opening, float32 [B, N, 257], has what opens each word; of others it is None.
    """

    states: dict[int, jax.Array]
    nats: jax.Array
    correct: jax.Array
    logprobs: jax.Array
    opening: jax.Array | None = None


def run_student(
    model: HatModel | Hat2025Model, params: Params, batch: Batch, depths: Iterable[int]
) -> Student:
    """depths: numbers of blocks after which `states` are kept."""
    module = model.module(params)

    def backbone(words):
        return at_depths(
            lambda x, part: module.backbone(x, batch["word_segment"], batch["word_position"], part),
            words,
            depths,
            model.config.backbone.num_layers,
        )

    if isinstance(model, Hat2025Model):
        layout = lay_out(batch)
        states, words = backbone(module.encoder(layout))
        inside, opening = module.write(layout, words)
        nats, correct = price(batch, model.targets(batch), inside, opening)
        inside = jax.nn.log_softmax(inside)[..., np.r_[OUTCOMES, W]]
        return Student(states, nats, correct, inside, jax.nn.log_softmax(opening)[..., OUTCOMES])
    x, words = module.read(batch)
    states, words = backbone(words)
    logits = module.write(batch, x, words)
    nats, correct = cross_entropy(logits, model.targets(batch))
    return Student(states, nats, correct, jax.nn.log_softmax(logits)[..., OUTCOMES])


def at_depths(
    run: Callable[[jax.Array, slice], jax.Array], x: jax.Array, depths: Iterable[int], layers: int
) -> tuple[dict[int, jax.Array], jax.Array]:
    """x after so many of the layers, by depth, and after all; run(x, part) runs some of them."""
    states, done = {}, 0
    for depth in sorted({*depths, layers}):
        x = run(x, slice(done, depth)) if depth > done else x
        states[depth], done = x, depth
    return states, x
