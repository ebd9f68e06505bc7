"""Token by token through a subword (or flat byte-level) Llama, with a cache."""

from __future__ import annotations

import functools
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from hat.inference.caches import Cache, Step, compute_params, grow, run_cached_stack, stack_cache
from hat.models.llama import LlamaModel
from hat.models.model import Params


class Tokenizer(Protocol):
    """What a session needs of `hat.text.tokenizers`."""

    bos: int
    eot: int
    pad: int
    byte_lengths: np.ndarray  # int32 [ids]: bytes that each id spells

    def encode(self, text: bytes) -> np.ndarray: ...

    def token_bytes(self, id: int) -> bytes: ...


class LlamaSession:
    """Rows in lock-step, one token per row and push. Holds device arrays; not for two threads.

    capacity: slots of the cache to begin with, where the stack has no window; they double as
    documents grow.
    """

    def __init__(
        self,
        model: LlamaModel,
        params: Params,
        tokenizer: Tokenizer,
        batch_size: int,
        *,
        capacity: int = 256,
    ):
        self.batch_size = batch_size
        self.bos, self.eot, self.pad = tokenizer.bos, tokenizer.eot, tokenizer.pad
        self._model = model
        self._params = compute_params(model, params)
        self._tokenizer = tokenizer
        self._positions = np.full(batch_size, -1, np.int32)
        stack = model.config.stack
        self._cache = stack_cache(stack, batch_size, capacity, jnp.dtype(model.config.dtype))

    def encode(self, text: bytes) -> list[int]:
        """The ids of a text, without BOS and EOT."""
        return [int(id) for id in self._tokenizer.encode(text)]

    def spell(self, id: int) -> bytes:
        """The bytes of one id."""
        return self._tokenizer.token_bytes(id)

    def push(self, ids: np.ndarray) -> jax.Array:
        """ids int [B] -> float32 logits [B, ids] of the id that follows in each row.

        BOS starts a new document in its row, which is the first thing a row must see; EOT ends a
        turn; a row with PAD does nothing, and its logits mean nothing. ValueError for another id.
        """
        ids = np.asarray(ids, np.int32)
        self._check(ids)
        active = ids != self.pad
        self._positions = np.where(ids == self.bos, 0, self._positions + active)
        if self._model.config.stack.window is None:
            self._cache = grow(self._cache, int(self._positions.max()) + 1)
        step = Step(self._positions, active)
        self._cache, logits = _step(self._model, self._params, self._cache, ids, step)
        return logits

    def _check(self, ids: np.ndarray) -> None:
        if ids.shape != (self.batch_size,):
            raise ValueError(f"ids of shape {ids.shape}; this session has {self.batch_size} rows")
        for id, position in zip(ids, self._positions):
            token = 0 <= id < self._model.config.num_tokens or id == self.eot
            if not (token or id in (self.bos, self.pad)):
                raise ValueError(f"id {id} cannot be read: push a token, BOS={self.bos}, "
                                 f"EOT={self.eot} or PAD={self.pad}")
            if token and id != self.bos and position < 0:
                raise ValueError("a row's first id must be BOS")


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _step(model, params, cache: Cache, ids, step: Step) -> tuple[Cache, jax.Array]:
    module = model.module(params)
    x, cache = run_cached_stack(
        lambda block, x, rope, attention, _: block(x, rope, attention),
        module.backbone,
        module.embedding(ids[:, None]),
        cache,
        step,
        model.config.stack,
    )
    return cache, module.head(x, module.embedding.table[...])[:, 0]
