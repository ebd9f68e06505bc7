"""A HAT that draws its own word boundaries.

After the encoder a predictor gives, for every byte, the probability that it starts a word: from the
cosine of neighbouring activations (H-Net, arXiv 2507.07955, section 2.1), or from an MLP of its
script (MAGNET, arXiv 2407.08818). Above one half it does. A word is known to be complete when the
next one starts, so everything stays byte-causal. The gradient of the bytes reaches the predictor
through the guides: each is smoothed with the one before it by its boundary's probability (the
dechunking of H-Net, equation 5). Beside it stands a loss on the share of bytes that start words, or
on the words of the splitter that the rows came with.

Shapes are static: a row has room for N words. Where a row needs more, the rest of its bytes start
none: they are read and charged as all others, guided by the last word there is. How many words were
dropped so is counted.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hat.errors import UserError
from hat.models.hat import EOT, NUM_BYTES, Hat, HatConfig, HatModel
from hat.models.layers import Linear
from hat.models.model import Batch, LanguageModel, Params, Sums, check_choices, cross_entropy, sums_of

# First and last code points, in blocks of 64: as much of a character as its first two bytes tell.
SCRIPTS: dict[str, tuple[tuple[int, int], ...]] = {
    "latin": ((0x0000, 0x02FF), (0x1E00, 0x1EFF)),
    "greek": ((0x0380, 0x03FF), (0x1F00, 0x1FFF)),
    "cyrillic": ((0x0400, 0x053F),),
    "armenian": ((0x0540, 0x057F),),
    "hebrew": ((0x0580, 0x05FF),),
    "arabic": ((0x0600, 0x06FF), (0x0740, 0x077F)),
    "devanagari": ((0x0900, 0x097F),),
    "bengali": ((0x0980, 0x09FF),),
    "tamil": ((0x0B80, 0x0BFF),),
    "thai": ((0x0E00, 0x0E7F),),
    "lao": ((0x0E80, 0x0EFF),),
    "tibetan": ((0x0F00, 0x0FFF),),
    "myanmar": ((0x1000, 0x107F),),
    "georgian": ((0x1080, 0x10FF),),
    "khmer": ((0x1780, 0x17FF),),
    "kana": ((0x3040, 0x30FF),),
    "han": ((0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)),
    "hangul": ((0x1100, 0x11FF), (0xAC00, 0xD7BF)),
}


@dataclasses.dataclass(frozen=True)
class BoundaryConfig:
    """How word boundaries are predicted and learned.

    bytes_per_word: what the share of starts is drawn to. scripts: scripts with an MLP and a number
    of bytes a word of their own; all others share one. learn: "ratio" draws the share of starts to
    1 / bytes_per_word (H-Net, equation 10), "splitter" the starts to those of the splitter of the
    rows. weight: of that loss, beside one nat. max_word_bytes: where a word ends in any case.
    """

    predictor: Literal["cosine", "mlp"] = "cosine"
    learn: Literal["ratio", "splitter"] = "ratio"
    bytes_per_word: float = 6.0
    scripts: tuple[tuple[str, float], ...] = ()
    weight: float = 0.03
    mlp_size: int = 64
    max_word_bytes: int = 64

    def __post_init__(self):
        check_choices(self)
        for name, ratio in (("all", self.bytes_per_word), *self.scripts):
            if not 1 < ratio <= self.max_word_bytes:
                raise UserError(
                    f"boundaries: {ratio:g} bytes a word ({name}) cannot be; give more than 1, at "
                    f"most max_word_bytes {self.max_word_bytes}"
                )
        names = [name for name, _ in self.scripts]
        if unknown := set(names) - set(SCRIPTS):
            raise UserError(
                f"boundaries.scripts: no predictor for script {unknown.pop()!r}; there are "
                f"{', '.join(SCRIPTS)}"
            )
        if len(set(names)) < len(names):
            raise UserError("boundaries.scripts names a script twice; give it one number")
        if self.scripts and self.predictor != "mlp":
            raise UserError("boundaries.scripts are of predictor 'mlp'; set it, or drop them")
        if self.weight < 0 or self.mlp_size < 1:
            raise UserError("boundaries: weight must be 0 or more, mlp_size 1 or more")


@dataclasses.dataclass(frozen=True)
class LearnedHatConfig(HatConfig):
    """A HAT with a predictor; of `hat.models.hat.HatConfig` in all else."""

    boundaries: BoundaryConfig = BoundaryConfig()

    def __post_init__(self):
        super().__post_init__()
        if self.guide != "earliest":
            raise UserError('guide must be "earliest" where word boundaries are learned')

    def build(self) -> LearnedHatModel:
        return LearnedHatModel(self)


class Latest(NamedTuple):
    """What boundaries need of the byte before the first, of B rows. id: int [B], EOT for none;
    group: int [B], its predictor; x: [B, d], its encoder activations."""

    id: jax.Array
    group: jax.Array
    x: jax.Array


def nothing_read(rows: int, size: int, dtype) -> Latest:
    """Of rows that begin."""
    numbers = jnp.zeros(rows, jnp.int32)
    return Latest(numbers + EOT, numbers, jnp.zeros((rows, size), dtype))


def after(first: jax.Array, x: jax.Array) -> jax.Array:
    """x [B, T, ...] one place later, behind `first` [B, ...]."""
    return jnp.concatenate([first[:, None], x[:, :-1]], axis=1)


class Drawn(NamedTuple):
    """Words drawn in rows of T bytes, at most N. starts: bool [B, T]; may: bool [B, T], whether the
    predictor decides there; chance: float32 [B, T], of a start; groups: int [B, T], the predictor.
    batch: the row arrays with these words. keep: float32 [B, N], how much of a word's own output is
    in its guide. dropped: float32 [], starts that a row had no room for."""

    starts: jax.Array
    may: jax.Array
    chance: jax.Array
    groups: jax.Array
    batch: Batch
    keep: jax.Array
    dropped: jax.Array


def groups_of(ids: jax.Array, scripts: tuple[str, ...], latest: Latest) -> jax.Array:
    """The place of every byte's script among `scripts`, from 1; 0 for all others. int [B, T].

    The script of a character is known from its first byte, or where that does not tell from its
    second; until then it counts as that of the character before.
    """
    if not scripts:
        return jnp.zeros_like(ids)
    blocks = [(*block, n) for n, name in enumerate(scripts, 1) for block in SCRIPTS[name]]
    first, last, numbers = np.array(blocks).T
    before = after(latest.id, ids)
    ascii_, two = ids < 0x80, (ids >= 0xC2) & (ids < 0xE0)
    follows = (ids >= 0x80) & (ids < 0xC0)
    three = follows & (before >= 0xE0) & (before < 0xF0)
    four = follows & (before >= 0xF0) & (before < 0xF5)
    point = jnp.select(
        [ascii_, two, three, four],
        [
            ids,
            (ids & 0x1F) << 6,
            (before & 0xF) << 12 | (ids & 0x3F) << 6,
            (before & 7) << 18 | (ids & 0x3F) << 12,
        ],
        -1,
    )
    inside = (point[..., None] >= first) & (point[..., None] <= last)
    group = jnp.max(inside * numbers, axis=-1)
    # Carried on from the latest byte that told, or from BOS, which tells of none.
    told = jnp.where((point >= 0) | (ids >= NUM_BYTES), jnp.arange(ids.shape[1]), -1)
    told = jax.lax.cummax(told, axis=1)
    carried = jnp.take_along_axis(group, jnp.maximum(told, 0), axis=1)
    return jnp.where(told >= 0, carried, latest.group[:, None])


class Predictor(nnx.Module):
    """Ids int [B, T] and their encoder activations [B, T, d] -> chances of a start [B, T], float32,
    and the predictor of each byte, int [B, T]; byte-causal."""

    def __init__(self, config: LearnedHatConfig, rngs):
        size, kind = config.encoder.hidden_size, config.boundaries
        self.kind = kind
        if kind.predictor == "cosine":
            self.q = Linear(rngs, size, size, ("embed", "heads"))
            self.k = Linear(rngs, size, size, ("embed", "heads"))
        else:
            count = 1 + len(kind.scripts)
            self.inner = Linear(rngs, size, count * kind.mlp_size, ("embed", "mlp"), bias=True)
            draw = jax.random.normal(rngs.params(), (count, kind.mlp_size)) * kind.mlp_size**-0.5
            self.outer = nnx.Param(draw, logical=(None, None))

    def __call__(self, ids, x: jax.Array, latest: Latest) -> tuple[jax.Array, jax.Array]:
        groups = groups_of(ids, tuple(name for name, _ in self.kind.scripts), latest)
        return self.chances(x, groups, latest), groups

    def chances(self, x: jax.Array, groups: jax.Array, latest: Latest) -> jax.Array:
        if self.kind.predictor == "cosine":
            q, k = self.q(x), self.k(after(latest.x, x))
            q, k = (y.astype(jnp.float32) for y in (q, k))
            dots = jnp.sum(q * k, axis=-1)
            lengths = jnp.sum(q * q, axis=-1) * jnp.sum(k * k, axis=-1)
            return (1 - dots * jax.lax.rsqrt(lengths + 1e-12)) / 2
        inner = jax.nn.gelu(self.inner(x)).astype(jnp.float32)
        inner = inner.reshape(*x.shape[:2], -1, self.kind.mlp_size)
        scores = jnp.einsum("btsm,sm->bts", inner, self.outer[...].astype(jnp.float32))
        return jax.nn.sigmoid(jnp.take_along_axis(scores, groups[..., None], axis=2)[..., 0])


class LearnedHat(Hat):
    def __init__(self, config: LearnedHatConfig, rngs):
        super().__init__(config, rngs)
        self.boundaries = Predictor(config, rngs)

    def __call__(self, batch: Batch) -> jax.Array:
        return self.draw_and_write(batch)[0]

    def draw_and_write(self, batch: Batch) -> tuple[jax.Array, Drawn]:
        """Logits float32 [B, T, ids], and the words."""
        ids, position = batch["bytes"], batch["position"]
        x = self.encoder(ids, batch["segment"], position)
        chance, groups = self.boundaries(ids, x, nothing_read(len(ids), x.shape[-1], x.dtype))
        drawn = draw(batch, chance, groups, self.config.boundaries.max_word_bytes)
        batch = drawn.batch
        words = self.connector(x, position, batch["word"], batch["word_position"])
        words = self.backbone(words, batch["word_segment"], batch["word_position"])
        return self.write(batch, x, smoothed(words, drawn.keep)), drawn


class Starts(NamedTuple):
    """Where words start among ids int [B, T]. starts: bool [B, T]; may: bool [B, T], whether the
    predictor decides there; keep: float32 [B, T], at a start: how much of its own output is in the
    guide of the word before."""

    starts: jax.Array
    may: jax.Array
    keep: jax.Array


def find_starts(ids, before, real, chance, index, begin, longest: int) -> Starts:
    """The rule by which bytes start words.

    before: int [B], the id before the first, EOT for none. real: bool [B, T]. chance: float32
    [B, T]. index: int [B, T], which rises by 1; begin: int [B], that of the open word's first byte,
    or of the next byte. longest: bytes of a word.
    """
    special = ids >= NUM_BYTES  # BOS and EOT are words by themselves
    forced = special | (after(before, ids) >= NUM_BYTES)
    may = real & ~forced & ((ids & 0xC0) != 0x80)  # never inside a character
    starts = real & (forced | (may & (chance > 0.5)))
    since = index - jax.lax.cummax(jnp.where(starts, index, begin[:, None]), axis=1)
    cut = real & ~starts & (since % longest == 0) & (since > 0)
    return Starts(starts | cut, may, jnp.where(may & ~cut, chance, 1.0))


def draw(batch: Batch, chance: jax.Array, groups: jax.Array, longest: int) -> Drawn:
    """The words of rows whose bytes start one with `chance` float32 [B, T]."""
    ids, segment, position = batch["bytes"], batch["segment"], batch["position"]
    rows, num_words = batch["word_segment"].shape
    real, index = segment > 0, jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    latest, begin = nothing_read(rows, 0, chance.dtype), jnp.zeros(rows, jnp.int32)
    starts, may, keep = find_starts(ids, latest.id, real, chance, index, begin, longest)
    number = jnp.cumsum(starts, axis=1) - 1
    fits = real & (number < num_words)
    word = jnp.where(fits, number, num_words)

    # What starts say of their words, written to the words' places; of what is dropped, the first
    # start alone: it ends the last word.
    row = jnp.arange(rows)[:, None]
    place = jnp.where(starts, number, num_words + 1)

    def told(values, fill):
        blank = jnp.full((rows, num_words + 1), fill, values.dtype)
        return blank.at[row, place].set(values, mode="drop")

    opening = jax.lax.cummax(jnp.where(position == 0, number, 0), axis=1)  # the document's first
    word_segment = told(segment, 0)[:, :num_words]
    word_position = told(number - opening, 0)[:, :num_words]
    complete = jnp.minimum(jnp.where(ids >= NUM_BYTES, number, number - 1), num_words - 1)
    own = jnp.take_along_axis(word_segment, jnp.maximum(complete, 0), axis=1) == segment
    guide = jnp.where(real & own & (complete >= 0), complete, -1)
    keep = told(keep, 1.0)[:, 1:]  # of a word with the start after it
    words = dict(word=word, guide=guide, word_segment=word_segment, word_position=word_position)
    dropped = jnp.sum(starts & (number >= num_words), dtype=jnp.float32)
    return Drawn(starts, may, chance, groups, {**batch, **words}, keep, dropped)


def smoothed(words: jax.Array, keep: jax.Array) -> jax.Array:
    """Outputs [B, N, D], each with a share 1 - keep of the smoothed one before it."""

    def both(left, right):
        return left[0] * right[0], right[0] * left[1] + right[1]

    share = keep[..., None]
    _, mixed = jax.lax.associative_scan(
        both, (1 - share, share * words.astype(jnp.float32)), axis=1
    )
    return mixed.astype(words.dtype)


class LearnedHatModel(HatModel):
    parts = ("encoder", "boundaries", "connector", "backbone", "decoder", "head")
    any_splitter = True

    def __init__(self, config: LearnedHatConfig):
        LanguageModel.__init__(self, config, LearnedHat)

    def loss(self, params: Params, batch: Batch) -> Sums:
        return self.training_loss(params, batch)[1]

    def training_loss(self, params: Params, batch: Batch):
        logits, drawn = self.module(params).draw_and_write(batch)
        targets = self.targets(batch)
        nats, correct = cross_entropy(logits, targets)
        sums = sums_of(nats, correct, targets, jnp.sum(drawn.batch["word_segment"] > 0))
        kind = self.config.boundaries
        extra = supervision(batch, drawn) if kind.learn == "splitter" else ratio_loss(drawn, kind)
        count = jnp.sum(drawn.starts, dtype=jnp.float32)
        ratios = {
            "boundary_loss": (extra * sums.targets, sums.targets),
            "dropped_words": (drawn.dropped, count),
        }
        return sums.nats + kind.weight * extra * sums.targets, sums, ratios


def ratio_loss(drawn: Drawn, kind: BoundaryConfig) -> jax.Array:
    """Of every predictor, weighed by its bytes: least, 1, where the share of starts F and the mean
    chance G are both 1 / bytes_per_word (H-Net, equation 10)."""
    real = drawn.batch["segment"] > 0
    total = jnp.float32(0)
    for group, ratio in enumerate((kind.bytes_per_word, *(ratio for _, ratio in kind.scripts))):
        mine = real & (drawn.groups == group) & (drawn.batch["bytes"] < NUM_BYTES)
        count = jnp.sum(mine, dtype=jnp.float32)
        shares = [
            jnp.sum(jnp.where(mine, x, 0.0)) / jnp.maximum(count, 1)
            for x in (drawn.starts, jnp.where(drawn.may, drawn.chance, 0.0))
        ]
        chosen, mean = jax.lax.stop_gradient(shares[0]), shares[1]
        loss = (ratio - 1) * chosen * mean + (1 - chosen) * (1 - mean)
        total = total + count * loss * ratio / (ratio - 1)
    return total / jnp.maximum(jnp.sum(real & (drawn.batch["bytes"] < NUM_BYTES)), 1)


def supervision(batch: Batch, drawn: Drawn) -> jax.Array:
    """Mean cross-entropy in nats of the splitter's starts, where the predictor decides."""
    word = batch["word"]
    wanted = word != jnp.pad(word, [(0, 0), (1, 0)], constant_values=-1)[:, :-1]
    chance = jnp.clip(drawn.chance, 1e-6, 1 - 1e-6)
    nats = -jnp.where(wanted, jnp.log(chance), jnp.log1p(-chance))
    count = jnp.sum(drawn.may, dtype=jnp.float32)
    return jnp.sum(jnp.where(drawn.may, nats, 0.0)) / jnp.maximum(count, 1)
