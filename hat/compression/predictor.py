"""Models of bytes as coders use them: rows in lock-step, a byte a row and push.

An encoder and its decoder must see the same numbers to the last bit. So both push through the same
compiled step of one shape, whatever the number of texts, and never through a pass over whole rows;
what other rows hold has no influence on a row.
"""

from __future__ import annotations

import functools
import hashlib
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from hat.compression.probabilities import NUM_BYTES, weights_of
from hat.errors import UserError
from hat.inference.caches import Cache, Step, compute_params, run_cached_stack, stack_cache
from hat.models.llama import LlamaConfig, LlamaModel
from hat.models.model import Params
from hat.text.ids import BOS


PROBE_STEPS = 12


class Predictor(Protocol):
    """rows: B. root: weights int64 [256] of the first byte of a text. model_hash: of what decides
    the weights, but for the arithmetic of the machine. windowed: whether rows may begin anew each
    at its own time (`restart`), at no cost."""

    rows: int
    root: np.ndarray
    model_hash: str
    windowed: bool

    def begin(self) -> np.ndarray:
        """Every row at the beginning of a text: weights int64 [B, 256] of its first byte."""
        ...

    def push(self, symbols: np.ndarray, restart: np.ndarray | None = None) -> np.ndarray:
        """One byte a row, uint8 [B] -> weights int64 [B, 256] of the next. restart: bool [B], rows
        whose byte is the first of a new text."""
        ...


class Snapshot(NamedTuple):
    """What B rows have read, to be put back in any order: arrays [B, ...]."""

    keys: np.ndarray
    values: np.ndarray
    positions: np.ndarray


class LlamaPredictor:
    """A flat byte-level Llama, such as M1.

    context: bytes after BOS that the model has been trained to read. Where its window is as long or
    it has none, a row that has read so many begins anew by itself, with the byte that it is pushed.
    """

    windowed = True

    def __init__(self, model: LlamaModel, params: Params, rows: int, context: int):
        check_m1(model.config)
        self.rows = rows
        self.model_hash = hash_model(model, params)
        self._context = context
        self._model, self._params = model, compute_params(model, params)
        stack = model.config.stack
        # A model that has always seen BOS in its window must go on seeing it.
        self._ring = stack.window is not None and stack.window <= context
        self._size = stack.window or context + 1
        self._cache = stack_cache(stack, rows, self._size, jnp.dtype(model.config.dtype))
        self._positions = np.zeros(rows, np.int32)
        ids = np.full(rows, BOS, np.int32)
        everywhere = np.ones(rows, bool)
        first = jnp.zeros_like(self._cache.keys[:, :, 0])
        self._first = (first, first)
        probabilities = self._step(ids, everywhere)
        # Slot 0 of every row now holds BOS: what a row that begins anew is given.
        self._first = (self._cache.keys[:, :, 0], self._cache.values[:, :, 0])
        self.root = weights_of(probabilities)[0]

    def begin(self) -> np.ndarray:
        self._positions[:] = 0
        keys, values = (x.at[:, :, 0].set(first) for x, first in zip(self._cache, self._first))
        self._cache = Cache(keys, values)
        return np.tile(self.root, (self.rows, 1))

    def push(self, symbols: np.ndarray, restart: np.ndarray | None = None) -> np.ndarray:
        restart = np.zeros(self.rows, bool) if restart is None else restart
        if not self._ring:
            restart = restart | (self._positions >= self._context)
        self._positions = np.where(restart, 1, self._positions + 1).astype(np.int32)
        return weights_of(self._step(np.asarray(symbols, np.int32), restart))

    def save(self, length: int) -> Snapshot:
        """All rows, of which none has read more than `length` bytes since it began."""
        slots = min(self._size, length + 1)
        keys, values = (np.asarray(jnp.moveaxis(x[:, :, :slots], 1, 0)) for x in self._cache)
        return Snapshot(keys, values, self._positions.copy())

    def load(self, rows: Snapshot) -> None:
        """At most B rows, which become the first of this predictor."""
        count, slots = len(rows.positions), rows.keys.shape[2]
        # Put in by the host: with a shape for every count, XLA would compile for each.
        filled = [np.zeros(x.shape, x.dtype) for x in self._cache]
        for array, saved in zip(filled, (rows.keys, rows.values)):
            array[:, :count, :slots] = np.moveaxis(saved, 0, 1)
        self._cache = Cache(*map(jnp.asarray, filled))
        self._positions = np.zeros(self.rows, np.int32)
        self._positions[:count] = rows.positions

    def _step(self, ids: np.ndarray, restart: np.ndarray) -> np.ndarray:
        """float32 [B, 256]; the cache moves on."""
        self._cache, probabilities = _step(
            self._model, self._params, self._cache, self._first, ids, self._positions, restart
        )
        return np.asarray(probabilities)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _step(model, params, cache: Cache, first, ids, positions, restart):
    """One byte a row. first: keys and values of BOS, [L, B, G, K] each, which rows that restart
    find in their slot 0."""
    module = model.module(params)
    again = restart[None, :, None, None]
    keys, values = (
        x.at[:, :, 0].set(jnp.where(again, bos, x[:, :, 0])) for x, bos in zip(cache, first)
    )
    x, cache = run_cached_stack(
        lambda block, x, rope, attention, _: block(x, rope, attention),
        module.backbone,
        module.embedding(ids[:, None]),
        Cache(keys, values),
        Step(positions, jnp.ones(ids.shape, bool)),
        model.config.stack,
    )
    logits = module.head(x, module.embedding.table[...])[:, 0, :NUM_BYTES]
    return cache, jax.nn.softmax(logits)


def fingerprint(predictor: Predictor, portable: bool) -> bytes:
    """8 bytes: what the predictor computes here for a text of bytes of every kind. The weights of
    an integer model are the same everywhere; others also name the libraries and the device."""
    digest = hashlib.sha256()
    if not portable:
        device = jax.devices()[0]
        digest.update(f"{jax.__version__} {device.platform} {device.device_kind}".encode())
    weights = predictor.begin()
    for step in range(PROBE_STEPS):
        digest.update(np.ascontiguousarray(weights[0], "<i8").tobytes())
        symbols = (np.arange(predictor.rows) * 7 + step * 37 + 32) % NUM_BYTES
        weights = predictor.push(symbols.astype(np.uint8))
    return digest.digest()[:8]


def check_m1(config, path: object = "this model") -> None:
    """UserError unless the config is that of a flat byte-level Llama."""
    if not isinstance(config, LlamaConfig) or config.num_tokens != NUM_BYTES:
        raise UserError(
            f"{path} is no flat byte-level Llama, and windows need one: train it with hat "
            "equal-info train-m1"
        )


def hash_model(model, params: Params, *names: str) -> str:
    """SHA-256, hex, of a model's config, of every parameter, and of what else has a name."""
    digest = hashlib.sha256(repr((model.config, *names)).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
