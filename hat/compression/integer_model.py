"""A flat byte-level Llama in whole numbers: the same weights on every machine, in every batch.

Matrices are int8 with a scale for every output; what is multiplied by them are numbers of 16 bits,
shifted row by row to fit. Sums of products of such numbers are whole numbers below 2^53: float64
holds them exactly, in any order. All the rest is int64: roots, divisions that round down, shifts, and tables for powers of two, the sigmoid
and the rotations, which are made by decimal arithmetic of fixed precision.

A number x stands for x / 2^16 where nothing else is said.
"""

from __future__ import annotations

import functools
import hashlib
from decimal import Decimal, localcontext
from math import isqrt
from typing import NamedTuple

import jax
import numba
import numpy as np

from hat.compression.predictor import check_m1
from hat.compression.probabilities import NUM_BYTES, WEIGHT_BITS
from hat.errors import UserError
from hat.models.llama import LlamaModel
from hat.models.model import Params
from hat.text.ids import BOS

POINT = 16  # bits after the point
INPUT_BITS = 15  # of what a matrix is multiplied by, and a sign
HEAD_POINT = 10  # after the point of queries, keys and values
SCALE_BITS = 24  # after the point of a matrix's scales
POWER_BITS = 12  # of an exponent's fraction, in the table of powers of two
SIGMOID_RANGE, SIGMOID_BITS = 16, 10  # the table goes to 16, in steps of 2^-10
_DIGITS = 40


class Matrix(NamedTuple):
    """values: float64 [in, out], whole numbers from -127 to 127; scales: int64 [out]."""

    values: np.ndarray
    scales: np.ndarray


class Tables(NamedTuple):
    """powers: int64 [2^12], 2^(30 - i / 2^12); sigmoid: int64 [2^14 + 1], of i / 2^10."""

    powers: np.ndarray
    sigmoid: np.ndarray


class IntegerPredictor:
    """See `hat.compression.predictor.Predictor`. context: bytes after BOS that a row reads before
    it begins anew.

    UserError: a model with biases, a soft-cap or stretched rotations.
    """

    windowed = True

    def __init__(self, model: LlamaModel, params: Params, rows: int, context: int):
        check_m1(model.config)
        stack = model.config.stack
        if stack.qkv_bias or stack.logit_softcap is not None or stack.rope_scaling is not None:
            raise UserError("--portable knows no biases, soft-caps and scaled rotations: leave it "
                            "out, or train a model without")
        self.rows = rows
        self._stack, self._context = stack, context
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        blocks = params["backbone"]
        self._layers = [
            _quantize(jax.tree.map(lambda leaf, i=i: leaf[i], blocks))
            for i in range(stack.num_layers)
        ]
        self._embedding = _fixed(params["embedding"]["table"])
        tied = model.config.tie_embeddings
        kernel = params["embedding"]["table"].T if tied else params["head"]["projection"]["kernel"]
        self._head = _matrix(kernel[:, :NUM_BYTES])
        self._norm = _fixed(params["head"]["norm"]["scale"])
        self._eps = round(stack.norm_eps * 2 ** (2 * POINT))
        self._tables = tables()
        self._rotations = rotations(stack.head_size, repr(stack.rope_theta), context + 1)
        self.model_hash = self._hash()
        shape = (stack.num_layers, rows, context + 1, stack.kv_heads, stack.head_size)
        self._keys, self._values = np.zeros(shape), np.zeros(shape)
        self._positions = np.zeros(rows, np.int64)
        self.root = self._step(np.full(rows, BOS))[0]

    def begin(self) -> np.ndarray:
        self._positions[:] = 0  # BOS stays in the first slot of every row
        return np.tile(self.root, (self.rows, 1))

    def push(self, symbols: np.ndarray, restart: np.ndarray | None = None) -> np.ndarray:
        again = self._positions >= self._context
        again = again if restart is None else again | restart
        self._positions = np.where(again, 1, self._positions + 1)
        return self._step(np.asarray(symbols, np.int64))

    def _hash(self) -> str:
        digest = hashlib.sha256(repr((self._stack, self._context, self._eps)).encode())
        parts = (self._layers, self._embedding, self._head, self._norm, self._tables,
                 self._rotations)  # fmt: skip
        for leaf in jax.tree.leaves(parts):
            digest.update(np.ascontiguousarray(leaf).astype("<i8").tobytes())
        return digest.hexdigest()

    def _step(self, ids: np.ndarray) -> np.ndarray:
        """One id a row, int64 [B] -> weights int64 [B, 256]."""
        x = self._embedding[ids]
        for number, layer in enumerate(self._layers):
            x = x + self._attend(number, layer, _rms_norm(x, layer["attention_norm"], self._eps))
            y = _rms_norm(x, layer["mlp_norm"], self._eps)
            gate, up = _multiply(y, layer["gate"]), _multiply(y, layer["up"])
            x = x + _multiply(_rounded(_silu(gate, self._tables.sigmoid) * up, POINT), layer["down"])
        logits = _multiply(_rms_norm(x, self._norm, self._eps), self._head)
        return _powers(logits, self._tables.powers, WEIGHT_BITS)

    def _attend(self, number: int, layer: dict, x: np.ndarray) -> np.ndarray:
        """x int64 [B, d], normed -> int64 [B, d]."""
        stack, rows = self._stack, np.arange(self.rows)
        heads, groups, size = stack.num_heads, stack.kv_heads, stack.head_size
        q = _multiply(x, layer["q"]).reshape(-1, heads, size)
        k = _multiply(x, layer["k"]).reshape(-1, groups, size)
        v = _multiply(x, layer["v"]).reshape(-1, groups, size)
        if stack.qk_norm:
            q = _rms_norm(q, layer["q_norm"], self._eps)
            k = _rms_norm(k, layer["k_norm"], self._eps)
        cos, sin = (table[self._positions][:, None, :] for table in self._rotations)
        q, k = _to_head(_rotate(q, cos, sin)), _to_head(_rotate(k, cos, sin))
        self._keys[number, rows, self._positions] = k
        self._values[number, rows, self._positions] = _to_head(v)
        used = int(self._positions.max()) + 1
        keys = self._keys[number, :, :used].transpose(0, 2, 3, 1)  # [B, G, K, S]
        values = self._values[number, :, :used].transpose(0, 2, 1, 3)  # [B, G, S, K]
        q = q.reshape(-1, groups, heads // groups, size).astype(np.float64)
        scores = (q @ keys).astype(np.int64)  # 20 bits after the point
        scores = _rounded(scores * isqrt((1 << 2 * POINT) // size), 2 * HEAD_POINT)
        slots, latest = np.arange(used), self._positions[:, None]
        visible = slots <= latest
        if stack.window is not None:
            visible &= slots > latest - stack.window
        shares = _powers(scores, self._tables.powers, 20, visible[:, None, None, :])
        total = shares.sum(axis=-1, keepdims=True)
        mixed = (shares.astype(np.float64) @ values).astype(np.int64) << (POINT - HEAD_POINT)
        return _multiply((mixed // total).reshape(self.rows, -1), layer["o"])


# --- arithmetic -----------------------------------------------------------------------------------


def _rounded(x: np.ndarray, bits) -> np.ndarray:
    """x / 2^bits to the nearest whole number, halves up."""
    bits = np.asarray(bits, np.int64)
    return (x + ((1 << bits) >> 1)) >> bits


def _multiply(x: np.ndarray, matrix: Matrix) -> np.ndarray:
    """int64 [B, in] @ [in, out] -> int64 [B, out]. Each row is first shifted to 15 bits."""
    most = np.abs(x).max(axis=-1, keepdims=True)
    shift = np.maximum(np.frexp(most.astype(np.float64))[1] - INPUT_BITS, 0).astype(np.int64)
    sums = np.zeros((len(x), matrix.values.shape[1]))
    _add_products(_rounded(x, shift).astype(np.float64), matrix.values, sums)
    sums = sums.astype(np.int64)
    return _rounded(sums * matrix.scales, SCALE_BITS) << shift


@numba.njit(cache=True)
def _add_products(x, matrix, sums):
    """sums += x @ matrix, four rows at a time. On small matrices it is quicker than a library whose
    threads wait for each other."""
    rows, inner = x.shape
    width = matrix.shape[1]
    for begin in range(0, rows - rows % 4, 4):
        for i in range(inner):
            a, b, c, d = x[begin, i], x[begin + 1, i], x[begin + 2, i], x[begin + 3, i]
            for j in range(width):
                w = matrix[i, j]
                sums[begin, j] += a * w
                sums[begin + 1, j] += b * w
                sums[begin + 2, j] += c * w
                sums[begin + 3, j] += d * w
    for row in range(rows - rows % 4, rows):
        for i in range(inner):
            for j in range(width):
                sums[row, j] += x[row, i] * matrix[i, j]


def _rms_norm(x: np.ndarray, scale: np.ndarray, eps: int) -> np.ndarray:
    mean = (x * x).sum(axis=-1, keepdims=True) // x.shape[-1] + eps
    return _rounded((x << POINT) // np.maximum(_root(mean), 1) * scale, POINT)


def _root(x: np.ndarray) -> np.ndarray:
    """The whole part of the square root of x < 2^53."""
    root = np.sqrt(x.astype(np.float64)).astype(np.int64)  # at most one off
    root -= root * root > x
    return root + ((root + 1) * (root + 1) <= x)


def _rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    a, b = np.split(x, 2, axis=-1)
    return _rounded(np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1), POINT)


def _to_head(x: np.ndarray) -> np.ndarray:
    most = (1 << INPUT_BITS) - 1
    return np.clip(_rounded(x, POINT - HEAD_POINT), -most, most)


def _silu(x: np.ndarray, sigmoid: np.ndarray) -> np.ndarray:
    at = np.minimum(_rounded(np.abs(x), POINT - SIGMOID_BITS), len(sigmoid) - 1)
    share = np.where(x >= 0, sigmoid[at], (1 << POINT) - sigmoid[at])
    return _rounded(x * share, POINT)


def _powers(x: np.ndarray, powers: np.ndarray, bits: int, visible=True) -> np.ndarray:
    """exp(x - the greatest visible x) * 2^bits along the last axis; 0 where not visible."""
    lowest = -(1 << 40)
    x = np.where(visible, x, lowest)
    below = x.max(axis=-1, keepdims=True) - x
    # In powers of two: times log2(e), which is 94548 / 2^16; at most 2^8 of them.
    below = np.minimum(below, 1 << (POINT + 8)) * _LOG2_E >> (2 * POINT - POWER_BITS)
    found = powers[below & ((1 << POWER_BITS) - 1)] >> (below >> POWER_BITS).clip(0, 62)
    return np.where(visible, found >> (30 - bits), 0)


_LOG2_E = 94548


# --- parameters and tables ------------------------------------------------------------------------


def _fixed(x: np.ndarray) -> np.ndarray:
    return np.rint(x * (1 << POINT)).astype(np.int64)


def _matrix(kernel: np.ndarray) -> Matrix:
    """float64 [in, out] -> int8 with scales. Division and rounding are the same everywhere."""
    scales = np.maximum(np.abs(kernel).max(axis=0), 2.0**-20) / 127
    values = np.ascontiguousarray(np.rint(kernel / scales))
    return Matrix(values, np.rint(scales * (1 << SCALE_BITS)).astype(np.int64))


def _quantize(block: dict) -> dict:
    attention, mlp = block["attention"], block["mlp"]
    found = {name: _matrix(attention[name]["kernel"]) for name in "qkvo"}
    found |= {name: _matrix(mlp[name]["kernel"]) for name in ("gate", "up", "down")}
    found |= {name: _fixed(block[name]["scale"]) for name in ("attention_norm", "mlp_norm")}
    for name in ("q_norm", "k_norm"):
        if name in attention:
            found[name] = _fixed(attention[name]["scale"])
    return found


@functools.cache
def tables() -> Tables:
    with localcontext() as context:
        context.prec = _DIGITS
        step = Decimal(2) ** (Decimal(-1) / (1 << POWER_BITS))
        powers, value = [], Decimal(1 << 30)
        for _ in range(1 << POWER_BITS):
            powers.append(int(value.to_integral_value()))
            value *= step
        ratio, falling, sigmoid = (Decimal(-1) / (1 << SIGMOID_BITS)).exp(), Decimal(1), []
        for _ in range((SIGMOID_RANGE << SIGMOID_BITS) + 1):
            sigmoid.append(int((Decimal(1 << POINT) / (1 + falling)).to_integral_value()))
            falling *= ratio
    return Tables(np.array(powers, np.int64), np.array(sigmoid, np.int64))


@functools.cache
def rotations(size: int, theta: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin, int64 [count, size / 2], of every position and frequency."""
    cos, sin = np.zeros((2, count, size // 2), np.int64)
    with localcontext() as context:
        context.prec = _DIGITS
        for pair in range(size // 2):
            angle = Decimal(theta) ** (Decimal(-2 * pair) / size)
            turn = _cos_sin(angle)
            c, s = Decimal(1), Decimal(0)
            for position in range(count):
                cos[position, pair] = int((c * (1 << POINT)).to_integral_value())
                sin[position, pair] = int((s * (1 << POINT)).to_integral_value())
                c, s = c * turn[0] - s * turn[1], s * turn[0] + c * turn[1]
    return cos, sin


def _cos_sin(angle: Decimal) -> tuple[Decimal, Decimal]:
    """Of an angle of at most 1, by their series."""
    sums, term = [Decimal(0), Decimal(0)], Decimal(1)
    for power in range(40):
        sums[power % 2] += term if power % 4 < 2 else -term
        term = term * angle / (power + 1)
    return sums[0], sums[1]
