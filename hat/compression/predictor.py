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
from hat.inference.llama_rows import take_apart
from hat.inference.memory import Memory, buffer_step, empty_memory, run_layers
from hat.inference.parts import Parts
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
    """What B rows have read, to be put back in any order: keys and values [B, L, G, S, K], layers,
    heads, slots and head size, and positions [B]."""

    keys: np.ndarray
    values: np.ndarray
    positions: np.ndarray


class LlamaPredictor:
    """A flat byte-level Llama, such as M1.

    context: bytes after BOS that the model has been trained to read. A row that has read so many
    begins anew by itself, with the byte that it is pushed.
    """

    windowed = True

    def __init__(self, model: LlamaModel, params: Params, rows: int, context: int):
        check_m1(model.config)
        self.rows = rows
        self.model_hash = hash_model(model, params)
        self._context = context
        self._net = _Net(model)
        self._params = self._net.parts.split(params)
        stack, dtype = model.config.stack, jnp.dtype(model.config.dtype)
        shape = (rows, stack.kv_heads, context + 1, stack.head_size)
        self._memory = tuple(empty_memory(*shape, dtype) for _ in range(stack.num_layers))
        self._positions = np.zeros(rows, np.int32)
        self._first = _first_slots(self._memory)
        probabilities = self._step(np.full(rows, BOS, np.int32), np.ones(rows, bool))
        # Slot 0 of every row now holds BOS: what a row that begins anew is given.
        self._first = _first_slots(self._memory)
        self.root = weights_of(probabilities)[0]

    def begin(self) -> np.ndarray:
        self._positions[:] = 0  # BOS stays in the first slot of every row
        return np.tile(self.root, (self.rows, 1))

    def push(self, symbols: np.ndarray, restart: np.ndarray | None = None) -> np.ndarray:
        again = self._positions >= self._context
        again = again if restart is None else again | restart
        self._positions = np.where(again, 1, self._positions + 1).astype(np.int32)
        return weights_of(self._step(np.asarray(symbols, np.int32), again))

    def save(self, length: int) -> Snapshot:
        """All rows, of which none has read more than `length` bytes since it began."""
        slots = min(self._context, length) + 1
        layers = [[np.asarray(x[:, :, :slots]) for x in memory] for memory in self._memory]
        keys, values = (np.stack(its, axis=1) for its in zip(*layers))
        return Snapshot(keys, values, self._positions.copy())

    def load(self, rows: Snapshot) -> None:
        """At most B rows, which become the first of this predictor."""
        count, slots = len(rows.positions), rows.keys.shape[3]

        # Put in by the host: with a shape for every count, XLA would compile for each.
        def filled(held, saved):
            array = np.zeros(held.shape, held.dtype)
            array[:count, :, :slots] = saved
            return jnp.asarray(array)

        self._memory = tuple(
            Memory(filled(memory.keys, rows.keys[:, i]), filled(memory.values, rows.values[:, i]))
            for i, memory in enumerate(self._memory)
        )
        self._positions = np.zeros(self.rows, np.int32)
        self._positions[:count] = rows.positions

    def _step(self, ids: np.ndarray, restart: np.ndarray) -> np.ndarray:
        """float32 [B, 256]; the memory moves on."""
        self._memory, probabilities = _step(
            self._net, self._params, self._memory, self._first, ids, self._positions, restart
        )
        return np.asarray(probabilities)


class _Net:
    """A model taken apart; holds no arrays."""

    def __init__(self, model: LlamaModel):
        self.stack = model.config.stack
        self.parts = Parts(model, take_apart)


def _first_slots(memory: tuple[Memory, ...]) -> tuple[Memory, ...]:
    """[B, G, K] of every layer; copies, since a step gives its memory away."""
    return jax.tree.map(lambda x: jnp.array(x[:, :, 0]), memory)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _step(net: _Net, params, memory, first, ids, positions, restart):
    """One byte a row. first: keys and values of BOS, [B, G, K] of every layer, which rows that
    restart find in their slot 0."""

    def put(held, bos):
        again = restart[:, None, None]
        return held.at[:, :, 0].set(jnp.where(again, bos, held[:, :, 0]))

    memory, stack = jax.tree.map(put, memory, first), net.stack
    embedding = net.parts.module(params, "embedding")
    x, memory = run_layers(
        net.parts.module(params, "backbone"), embedding(ids[:, None]), memory, positions[:, None],
        stack,
        buffer_step(jnp.arange(len(ids)), positions, stack.window, stack.logit_softcap),
    )  # fmt: skip
    logits = net.parts.module(params, "head")(x, embedding.table[...])[:, 0, :NUM_BYTES]
    return memory, jax.nn.softmax(logits)


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
