"""The HAT of the first paper (arXiv 2501.10322, section 3): words that tell where they end.

Every word has a position [W] before its bytes. An encoder that sees a word in both directions, and
nothing else, leaves the word's embedding at its [W]; the backbone is that of every HAT; a decoder
spells the next word: it begins with the backbone's output in the place of [W], sees that and the
bytes of its own word so far, and ends with [W]. So word boundaries are part of what the model
predicts, and charged, whatever rule has drawn them.

Rows are those of `hat.text.rows`. BOS is a word by itself, of which nothing is predicted; EOT is
the dummy word at the end of a document, and neither ends with a [W].
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hat.errors import UserError
from hat.models.attention import Form, attend
from hat.models.attention.plain import NEGATIVE, masked_attention
from hat.models.flops import linear_flops, segment_lengths, stack_flops, total
from hat.models.hat import EOT, NUM_BYTES, Backbone
from hat.models.layers import Block, Linear, Remat, RMSNorm, StackConfig, rope_table, run_stack
from hat.models.model import (
    Batch,
    Embedding,
    LanguageModel,
    Params,
    Stage,
    Targets,
    check_choices,
    cross_entropy,
    next_ids,
    score_ids,
)
from hat.models.rows import keep_rows

W = 259  # the id before every word; it is in no row


@dataclasses.dataclass(frozen=True)
class Hat2025Config:
    """d is the width of encoder and decoder, D that of the backbone.

    word_bytes: the longest word that the byte stacks see whole, which the splitter should not
    exceed; what is farther apart is not seen, and such words are counted ("long_words").
    """

    encoder: StackConfig
    backbone: StackConfig
    decoder: StackConfig
    word_bytes: int = 100
    num_ids: int = 264
    embedding_std: float = 0.02
    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of matrices and activations
    scan_layers: bool = True
    remat: Remat = "none"
    attention: Form = "auto"  # of backbone and decoder

    def __post_init__(self):
        check_choices(self)
        if self.encoder.hidden_size != self.decoder.hidden_size:
            raise UserError(
                f"decoder.hidden_size {self.decoder.hidden_size} must equal encoder.hidden_size "
                f"{self.encoder.hidden_size}: they share their bytes' embeddings"
            )
        for name in ("encoder", "decoder"):
            stack = getattr(self, name)
            if stack.window is not None or stack.logit_softcap is not None:
                raise UserError(f"{name}: its words are the window; set window and logit_softcap none")
        if self.word_bytes < 1:
            raise UserError(f"word_bytes {self.word_bytes} must be at least 1")
        if self.num_ids < W + 1:
            raise UserError(f"num_ids {self.num_ids} has no row for id {W}; set {W + 1} or more")

    def build(self) -> Hat2025Model:
        return Hat2025Model(self)


class Layout(NamedTuple):
    """Rows of T bytes and N words with a position for every [W], T + N in all.

    byte_place: int [B, T], where every byte is. word_place: int [B, N], where every [W] is. ids,
    word: int [B, T + N], the id and the word of every position; word is N at padding. position: int
    [B, T + N], in the word, 0 for [W].
    """

    byte_place: jax.Array
    word_place: jax.Array
    ids: jax.Array
    word: jax.Array
    position: jax.Array


def lay_out(batch: Batch) -> Layout:
    word, used = batch["word"], batch["word_segment"] > 0
    rows, length = word.shape
    num_words = used.shape[1]
    count = jnp.sum(used, axis=1, keepdims=True)  # the used words come first
    t, n = jnp.arange(length), jnp.arange(num_words)
    byte_place = t + jnp.minimum(word + 1, count)
    begins = word_begins(word, num_words)
    word_place = jnp.where(used, begins + n, length + n)
    row = jnp.arange(rows)[:, None]
    shape = (rows, length + num_words)
    ids = jnp.full(shape, W, word.dtype).at[row, byte_place].set(batch["bytes"])
    words = jnp.full(shape, num_words, word.dtype).at[row, byte_place].set(word)
    words = words.at[row, word_place].set(jnp.where(used, n, num_words))
    at = jnp.minimum(words, num_words - 1)
    position = jnp.arange(shape[1]) - jnp.take_along_axis(word_place, at, axis=1)
    return Layout(byte_place, word_place, ids, words, jnp.where(words < num_words, position, 0))


def word_begins(word: jax.Array, num_words: int) -> jax.Array:
    """int [B, T], the word of every byte -> where each of N = num_words begins, int [B, N]; T or
    where padding begins for those that are not there."""
    return jax.vmap(lambda row: jnp.searchsorted(row, jnp.arange(num_words)))(word)


def pick(x: jax.Array, place: jax.Array) -> jax.Array:
    """x [B, S, ...] at int [B, M] -> [B, M, ...]."""
    return jnp.take_along_axis(x, place.reshape(*place.shape, *[1] * (x.ndim - 2)), axis=1)


class Encoder(nnx.Module):
    """Every word by itself, in both directions -> its embedding [B, N, D]."""

    def __init__(self, config: Hat2025Config, rngs):
        self.config = config
        size = config.encoder.hidden_size
        self.embedding = Embedding(rngs, config.num_ids, size, std=config.embedding_std)
        self.layers = Block(config.encoder, rngs, stack=(config.encoder.num_layers,))
        self.to_word = Linear(rngs, size, config.backbone.hidden_size, ("heads", "embed"))

    def __call__(self, layout: Layout) -> jax.Array:
        config = self.config
        rope = rope_table(layout.position, config.encoder)
        segment, reach = layout.word, config.word_bytes + 1

        def layer(block, x):
            return block(x, rope, lambda q, k, v: attend_within(q, k, v, segment, reach))

        x = self.embedding(layout.ids)
        x = run_stack(layer, self.layers, x, scan=config.scan_layers, remat=config.remat)
        return keep_rows(self.to_word(pick(x, layout.word_place)))


def attend_within(q, k, v, segment, reach: int) -> jax.Array:
    """Attention in both directions inside segments, to keys less than `reach` positions away.

    Shapes as in `hat.models.attention.attend`. Blocks of `reach` queries see three blocks of keys.
    """
    rows, length = segment.shape
    reach = min(reach, length)
    blocks = -(-length // reach)

    def split(x, fill=0):  # [B, S, ...] -> [B, blocks, reach, ...]
        x = jnp.pad(x, [(0, 0), (0, blocks * reach - length)] + [(0, 0)] * (x.ndim - 2),
                    constant_values=fill)  # fmt: skip
        return x.reshape(rows, blocks, reach, *x.shape[2:])

    def around(x, fill=0):  # [B, blocks, reach, ...] -> [B * blocks, 3 * reach, ...]
        x = jnp.pad(x, [(0, 0), (1, 1)] + [(0, 0)] * (x.ndim - 2), constant_values=fill)
        x = jnp.concatenate([x[:, :-2], x[:, 1:-1], x[:, 2:]], axis=2)
        return x.reshape(rows * blocks, 3 * reach, *x.shape[3:])

    def merged(x):
        return x.reshape(rows * blocks, reach, *x.shape[3:])

    away = jnp.arange(3 * reach) - reach - jnp.arange(reach)[:, None]
    segments = split(segment, fill=-1)
    visible = merged(segments)[:, :, None] == around(segments, fill=-2)[:, None, :]
    visible = visible & (jnp.abs(away) < reach)
    out = masked_attention(merged(split(q)), around(split(k)), around(split(v)), visible)
    return out.reshape(rows, blocks * reach, *out.shape[2:])[:, :length]


class Decoder(nnx.Module):
    """Spells every word under the backbone's output for the word before: [B, T + N, d]."""

    def __init__(self, config: Hat2025Config, rngs):
        self.config = config
        self.from_word = Linear(
            rngs, config.backbone.hidden_size, config.decoder.hidden_size, ("embed", "heads")
        )
        self.layers = Block(config.decoder, rngs, stack=(config.decoder.num_layers,))

    def __call__(self, embedded: jax.Array, words: jax.Array, layout: Layout) -> jax.Array:
        """embedded [B, T + N, d], bytes; words [B, N, D], the backbone's outputs."""
        config = self.config
        before = jnp.pad(self.from_word(words), [(0, 0), (1, 0), (0, 0)])[:, :-1]
        row = jnp.arange(len(embedded))[:, None]
        x = embedded.at[row, layout.word_place].set(before)
        rope = rope_table(layout.position, config.decoder)
        how = dict(segment=layout.word + 1, window=config.word_bytes + 1, form=config.attention)

        def layer(block, x):
            return block(x, rope, lambda q, k, v: attend(q, k, v, **how))

        return run_stack(layer, self.layers, x, scan=config.scan_layers, remat=config.remat)


class Head(nnx.Module):
    """RMSNorm and an untied projection: [B, M, d] -> float32 logits [B, M, ids]."""

    def __init__(self, config: Hat2025Config, rngs):
        size = config.decoder.hidden_size
        self.norm = RMSNorm(size, eps=config.decoder.norm_eps)
        self.projection = Linear(rngs, size, config.num_ids, ("embed", "vocab"))

    def __call__(self, x: jax.Array, opens: bool | jax.Array) -> jax.Array:
        """opens: bool [B, M], or one for all: positions of [W], after which no other may follow."""
        kernel = self.projection.kernel[...]
        ids = jnp.arange(kernel.shape[-1])
        logits = score_ids(self.norm(x), kernel, (ids < NUM_BYTES) | (ids == EOT) | (ids == W))
        return jnp.where(jnp.asarray(opens)[..., None] & (ids == W), NEGATIVE, logits)


class Hat2025(nnx.Module):
    def __init__(self, config: Hat2025Config, rngs):
        self.encoder = Encoder(config, rngs)
        self.backbone = Backbone(config, rngs)
        self.decoder = Decoder(config, rngs)
        self.head = Head(config, rngs)

    def __call__(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Logits float32 [B, T, ids] after every byte, and [B, N, ids] after every [W]: of what
        opens the word."""
        layout = lay_out(batch)
        words = self.encoder(layout)
        words = self.backbone(words, batch["word_segment"], batch["word_position"])
        return self.write(layout, words)

    def write(self, layout: Layout, words: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Those logits from the backbone's outputs, [B, N, D]."""
        y = self.decoder(self.encoder.embedding(layout.ids), words, layout)
        inside, opening = pick(y, layout.byte_place), pick(y, layout.word_place)
        return self.head(inside, False), self.head(opening, True)


class Hat2025Model(LanguageModel):
    parts = ("encoder", "backbone", "decoder", "head")
    any_splitter = True

    def __init__(self, config: Hat2025Config):
        super().__init__(config, Hat2025)

    def targets(self, batch: Batch) -> Targets:
        ids, mask = next_ids(batch["bytes"], batch["segment"], batch.get("answer"))
        return Targets(ids, mask, (ids < NUM_BYTES).astype(jnp.int32))

    def nats(self, params: Params, batch: Batch) -> tuple[jax.Array, jax.Array, Targets]:
        """Of the id after every position, and of the [W] before it where it opens a word."""
        inside, opening = self.module(params)(batch)
        return *price(batch, self.targets(batch), inside, opening), self.targets(batch)

    def words(self, batch: Batch) -> jax.Array:
        return jnp.sum(batch["word_segment"] > 0)

    def training_loss(self, params: Params, batch: Batch):
        sums = self.loss(params, batch)
        long = long_words(batch, self.config.word_bytes)
        return sums.nats, sums, {"long_words": (long, sums.words)}

    def stages(self, params: Params, batch: Batch) -> dict[str, Stage]:
        layout = jax.jit(lay_out)(batch)
        segment, position = batch["word_segment"], batch["word_position"]

        def encoder(params):
            return self.module(params).encoder(layout)

        def backbone(params, words):
            return self.module(params).backbone(words, segment, position)

        def decoder(params, words):
            module = self.module(params)
            return module.decoder(module.encoder.embedding(layout.ids), words, layout)

        def head(params, y):
            logits = self.module(params).head
            inside = logits(pick(y, layout.byte_place), False)
            opening = logits(pick(y, layout.word_place), True)
            return price(batch, self.targets(batch), inside, opening)[0]

        words = jax.jit(encoder)(params)
        return {
            "encoder": (encoder, ()),
            "backbone": (backbone, (words,)),
            "decoder": (decoder, (words,)),
            "head": (head, (jax.jit(decoder)(params, words),)),
        }

    def batch_flops(self, batch: Batch) -> dict[str, float]:
        num_bytes = segment_lengths(batch["segment"])
        num_words = segment_lengths(batch["word_segment"])
        return total(self.flops(num_bytes=num_bytes, num_words=num_words, context_words=num_words))

    def flops(self, *, num_bytes, num_words, context_words, context_bytes=None) -> dict[str, float]:
        """Forward FLOPs of every part for num_bytes byte and num_words word positions, in documents
        of context_words words. Words count as of equal length. Elementwise, where they are arrays.
        context_bytes: unused, as no byte sees beyond its word."""
        config = self.config
        d, wide = config.encoder.hidden_size, config.backbone.hidden_size
        positions = num_bytes + num_words
        longest = positions / np.maximum(num_words, 1)
        return {
            # A position of a word of n sees n, which in one direction it would of 2 n - 1.
            "encoder": positions * stack_flops(config.encoder, 2 * longest - 1)
            + num_words * linear_flops(d, wide),
            "backbone": num_words * stack_flops(config.backbone, context_words),
            "decoder": positions * stack_flops(config.decoder, longest)
            + num_words * linear_flops(wide, d),
            "head": positions * linear_flops(d, config.num_ids),
        }


def long_words(batch: Batch, most: int) -> jax.Array:
    """How many words have more than `most` bytes, float32 []."""
    place = place_in_word(batch["word"])
    return jnp.sum((batch["segment"] > 0) & (place == most), dtype=jnp.float32)


def place_in_word(word: jax.Array) -> jax.Array:
    """int [B, T], the word of every byte -> how many bytes of it come before, int [B, T]."""
    index = jnp.arange(word.shape[1])
    opens = word != jnp.pad(word, [(0, 0), (1, 0)], constant_values=-1)[:, :-1]
    return index - jax.lax.cummax(jnp.where(opens, index, 0), axis=1)


def price(
    batch: Batch, targets: Targets, inside: jax.Array, opening: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """As `LanguageModel.nats`, from the logits of `Hat2025`."""
    word, num_words = batch["word"], batch["word_segment"].shape[1]
    after = jnp.pad(word[:, 1:], [(0, 0), (0, 1)], constant_values=num_words)
    opens = after != word
    closes = opens & (batch["bytes"] < NUM_BYTES)  # BOS and EOT are words without an end
    within = Targets(jnp.where(opens, W, targets.ids), targets.mask & (~opens | closes), targets.bytes)
    first = Targets(targets.ids, targets.mask & opens, targets.bytes)
    opening = pick(opening, jnp.minimum(after, num_words - 1))
    nats, right = cross_entropy(inside, within)
    first_nats, first_right = cross_entropy(opening, first)
    correct = (right | ~within.mask) & (first_right | ~first.mask) & targets.mask
    return nats + first_nats, correct
