"""Texts id by id, with the logits of the next id in the caller's hands."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hat.inference.kinds import rows_of
from hat.models.model import LanguageModel, Params
from hat.text.splitters import Splitter
from hat.text.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class Reader:
    """B texts of one length that a model has read. Nothing of them changes: `push` gives others, so
    that a text can be continued in many ways.

    logits: float32 [B, ids], of the id that follows.
    """

    logits: jax.Array
    _kind: Any
    _params: Any
    _state: Any
    _clock: int

    def push(self, *ids: int) -> Reader:
        """The texts with an id more each: bytes of a HAT, tokens of a Llama; no special ids."""
        used = int(np.max(self._kind.slots(self._state)))
        state = self._kind.with_room(self._state, used + self._kind.slots_per_step)
        ids = np.array(ids, np.int32)
        state, logits = _push(self._kind, self._params, state, np.int32(self._clock), ids)
        return dataclasses.replace(self, logits=logits, _state=state, _clock=self._clock + 1)


def open_reader(
    model: LanguageModel, params: Params, rule: Splitter | Tokenizer, bos: int, rows: int = 1
) -> Reader:
    """Empty texts: BOS alone. rule: the splitter of a HAT, the tokenizer of a Llama."""
    kind = rows_of(model)
    prepared = kind.prepare(params, rule)
    prompt = kind.read(rule, np.array([bos], np.int32))
    state, logits, _ = kind.read_chunk(prepared, kind.empty(prepared, 1), prompt, 0, 1)
    state = jax.tree.map(lambda x: jnp.repeat(x, rows, axis=0), kind.at_end(state, prompt))
    return Reader(jnp.repeat(logits, rows, axis=0), kind, prepared, state, 0)


@functools.partial(jax.jit, static_argnums=0)
def _push(kind, params, state, clock, ids):
    return kind.step(params, state, clock, ids, np.ones(len(ids), bool), len(ids))
