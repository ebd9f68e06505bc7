"""Small configs, documents and a splitter for the model tests."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hat.models.hat import ConnectorConfig, HatConfig, HatModel
from hat.models.hat_2025 import Hat2025Config
from hat.models.hat_learned import BoundaryConfig, LearnedHatConfig
from hat.models.layers import RopeScaling, StackConfig
from tests.models.reference import Document

STACK = StackConfig(hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24, window=7)

# Plain: as released (one window, no QK-norm). The norms' epsilons are large and differ, so that
# taking one for another shows.
PLAIN = HatConfig(
    encoder=dataclasses.replace(STACK, norm_eps=1e-2),
    connector=ConnectorConfig(hidden_size=24, num_heads=4),
    backbone=StackConfig(24, 2, 4, 40, num_kv_heads=2, rope_theta=500.0, norm_eps=1e-3),
    decoder=dataclasses.replace(STACK, num_layers=3, norm_eps=1e-1),
    dtype="float32",
)

# Everything at once, every part different from every other; nothing divides the row's length.
SCALING = RopeScaling(factor=4.0, original_max_positions=24)
EVERYTHING = HatConfig(
    encoder=StackConfig(
        16, 2, 4, 24, num_kv_heads=1, head_dim=6, window=5, rope_theta=50.0, rope_scaling=SCALING,
        qk_norm=True, logit_softcap=1.5, qkv_bias=True,
    ),
    connector=ConnectorConfig(hidden_size=12, num_heads=3, qk_norm=True),
    backbone=StackConfig(
        24, 3, 6, 40, num_kv_heads=3, window=4, rope_theta=200.0,
        rope_scaling=dataclasses.replace(SCALING, original_max_positions=60), qk_norm=True,
        logit_softcap=2.0,
    ),
    decoder=StackConfig(
        16, 1, 2, 20, window=9, rope_theta=20.0, qk_norm=True, logit_softcap=1.0, qkv_bias=True,
    ),
    dtype="float32",
)  # fmt: skip

# No window, and one longer than the row.
WIDE = dataclasses.replace(
    PLAIN,
    encoder=dataclasses.replace(PLAIN.encoder, window=None),
    decoder=dataclasses.replace(PLAIN.decoder, window=1000),
)


def random_params(model, seed: int = 0):
    """Parameters of which none is at a special value: norms are not 1, biases not 0."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        mean, std = (1.0, 0.3) if "scale" in str(path[-1]) else (0.0, 0.25)
        return jnp.asarray(rng.normal(mean, std, leaf.shape), jnp.float32)

    return jax.tree.map_with_path(draw, model.abstract_params())


def random_document(rng: np.random.Generator, length: int, *, closed: bool = True) -> Document:
    """Any bytes, words of 1 to 30 bytes, any `known` that no splitter could call a lie."""
    starts = np.zeros(length, bool)
    t = 0
    while t < length:
        starts[t] = True
        t += int(rng.choice([1, 2, 3, 5, 30], p=[0.3, 0.2, 0.2, 0.2, 0.1]))
    known = np.zeros(length, np.int32)
    for t in range(length):
        closes = t + 1 == length or starts[t + 1]
        most = starts[: t + 1].sum() - (0 if closes and rng.random() < 0.5 else 1)
        least = known[t - 1] if t else 0
        known[t] = max(least, most - rng.integers(0, 3))
    return Document(rng.integers(0, 256, length, np.uint8).tobytes(), starts, known, closed)


def toy_split(data: bytes) -> Document:
    """A byte-causal rule in which every kind of word end occurs.

    A newline ends its word at once; a space starts a word, known when it is read; a byte from
    0xC0 starts a word if the byte after it is even (or missing), known only then.
    """
    starts, revealed = np.zeros(len(data), bool), []
    for t, byte in enumerate(data):
        if t == 0:
            starts[t] = True
        elif data[t - 1] == 0x0A:
            starts[t] = True
        elif byte == 0x20:
            starts[t] = True
            revealed.append(t)
        elif byte >= 0xC0 and (t + 1 == len(data) or data[t + 1] % 2 == 0):
            starts[t] = True
            revealed.append(t + 1)
        if byte == 0x0A:
            revealed.append(t)
    known = [sum(r <= t for r in revealed) for t in range(len(data))]
    return Document(data, starts, np.array(known, np.int32))


HAT_2025 = Hat2025Config(
    encoder=StackConfig(16, 2, 4, 24, num_kv_heads=2, head_dim=6, qk_norm=True, rope_theta=50.0),
    backbone=EVERYTHING.backbone,
    decoder=StackConfig(16, 2, 2, 20, norm_eps=1e-2, qkv_bias=True),
    word_bytes=30,
    dtype="float32",
)

# Words that the model draws, from one predictor or from one for each script.
BOUNDARIES = {
    "cosine": BoundaryConfig(bytes_per_word=3.0, max_word_bytes=9),
    "mlp": BoundaryConfig(
        "mlp", scripts=(("han", 6.0), ("thai", 8.0)), mlp_size=5, max_word_bytes=9
    ),
}
LEARNED = {
    name: LearnedHatConfig(**vars(PLAIN), boundaries=boundaries)
    for name, boundaries in BOUNDARIES.items()
}

CONFIGS = {"plain": PLAIN, "everything": EVERYTHING, "wide": WIDE} | LEARNED
B, T, N = 4, 48, 32  # the one shape of most tests: what is compiled once serves them all


def words_of(name: str) -> int:
    """Words of a row: so many that a model which draws its own drops none."""
    return T if name in LEARNED else N


class Compiled(NamedTuple):
    config: HatConfig
    model: HatModel
    params: dict
    logits: Callable  # (params, batch) -> float32 [B, T, ids]
    nats: Callable  # (params, batch) -> float32 [B, T]
    loss: Callable  # (params, batch) -> Sums


def compiled(name: str, guide: str = "earliest") -> Compiled:
    """A config of CONFIGS with random parameters, its functions compiled as one."""
    return _compiled(name, guide)


@functools.cache
def _compiled(name: str, guide: str) -> Compiled:
    config = dataclasses.replace(CONFIGS[name], guide=guide)
    model = config.build()

    def everything(params, batch):
        return model.logits(params, batch), model.nats(params, batch)[0], model.loss(params, batch)

    run = jit(everything)

    def part(i):
        return lambda params, batch: jax.tree.map(np.asarray, run(params, batch)[i])

    return Compiled(config, model, random_params(model), part(0), part(1), part(2))


def compiled_gradient(name: str, guide: str = "earliest", **changes):
    """A config, its model, random parameters, and (params, batch) -> (logits, gradient of the nats
    per target) compiled; gradient batches have GT bytes and GN words."""
    return _compiled_gradient(name, guide, **changes)


@functools.cache
def _compiled_gradient(name: str, guide: str, **changes):
    config = dataclasses.replace(CONFIGS[name], guide=guide, **changes)
    model = config.build()

    def run(params, batch):
        def scalar(params):
            sums = model.loss(params, batch)
            return sums.nats / jnp.maximum(sums.targets, 1), model.logits(params, batch)

        slopes, logits = jax.grad(scalar, has_aux=True)(params)
        return logits, slopes

    return config, model, random_params(model), jit(run)


GT, GN = 24, 20


def jit(function):
    """`jax.jit` that compiles several times faster: these programs run a few times each.

    The two options are XLA's own for the CPU; where a version drops one, drop it here.
    """
    options = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
    return jax.jit(function, compiler_options=options)
