"""A HAT as a model of bytes: it is one already."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from hat.byte_exact.tree_attention import bucket
from hat.inference.stepping import Reader, open_reader
from hat.models.hat import HatModel
from hat.models.model import Params
from hat.text.ids import BOS, EOT, NUM_BYTES, PAD
from hat.text.rows import Packer, Specials, expand_words, word_units
from hat.text.splitters import Splitter

_COLUMNS = [*range(NUM_BYTES), EOT]  # the last is END


class HatByteModel:
    """row_length and row_words: those of its training. A text that does not fit is scored in
    pieces, each after BOS and its own beginning alone."""

    def __init__(
        self, model: HatModel, params: Params, splitter: Splitter, row_length: int, row_words: int
    ):
        self.name = f"hat {splitter.name}"
        self._model, self._params, self._splitter = model, params, splitter
        self._length, self._words = row_length, row_words

    def logprobs(self, text: bytes) -> np.ndarray:
        """float64 [T + 1, 257]; see `hat.byte_exact.model`."""
        data = np.frombuffer(text, np.uint8)
        packer = Packer(self._length, self._words, Specials(BOS, EOT, PAD))
        units = word_units(data, self._splitter.split(data), name="the text")
        rows = []
        for piece in packer.add(units) + packer.finish():
            size = len(piece.ids)
            length = min(self._length, max(64, bucket(size)))
            batch = expand_words(piece, length, min(self._words, length))
            batch = {name: values[None] for name, values in batch.items()}
            logprobs = np.asarray(_logprobs(self._model, self._params, batch))
            rows.append(logprobs[0, : size - 1].astype(np.float64))
        return np.concatenate(rows)

    def session(self) -> HatByteSession:
        return HatByteSession(open_reader(self._model, self._params, self._splitter, BOS))


class HatByteSession:
    """A text that grows byte by byte."""

    def __init__(self, reader: Reader):
        self._reader = reader

    def logprobs(self) -> np.ndarray:
        row = np.asarray(jax.nn.log_softmax(self._reader.logits))
        return row[0, _COLUMNS].astype(np.float64)

    def push(self, byte: int) -> None:
        self._reader = self._reader.push(byte)

    def fork(self) -> HatByteSession:
        return HatByteSession(self._reader)


@functools.partial(jax.jit, static_argnums=0)
def _logprobs(model: HatModel, params: Params, batch) -> jax.Array:
    """float32 [B, L, 257]."""
    logprobs = jax.nn.log_softmax(model.logits(params, batch))
    return logprobs[..., jnp.array(_COLUMNS)]
