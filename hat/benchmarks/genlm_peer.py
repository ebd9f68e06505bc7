"""The genlm-bytes package (arXiv 2412.03719) over our models: a peer to compare with.

It asks its model for the next-token distribution after one history at a time, the histories of one
byte together. Here it gets them from the same evaluator as our own sessions have, keys and values
of shared beginnings included, which is more than its own backends offer.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import numpy as np

from hat.byte_exact.canonical import DEAD
from hat.byte_exact.model import END
from hat.byte_exact.pool import Node
from hat.byte_exact.tokenized import TokenizedModel

_END_STRING = b"\xff\xfe\xff%d"  # no text that is compared spells an end so


class _Ids(NamedTuple):
    bos_token_id: int


class PoolLM:
    """What genlm-bytes asks of a model: `byte_vocab`, `tokenizer.bos_token_id`,
    `next_token_logprobs`."""

    def __init__(self, model: TokenizedModel):
        from genlm.backend.tokenization import Token

        self._model = model.with_law(model.law)  # with a memory of its own
        vocabulary = model.vocabulary
        self.tokenizer = _Ids(vocabulary.tokenizer.bos)
        ends = set(vocabulary.ends.tolist())
        self.end_strings = [_END_STRING % token for token in sorted(ends)]
        self.byte_vocab = [
            Token(token, _END_STRING % token if token in ends else text)
            for token, text in enumerate(vocabulary.spellings)
        ]
        root, _ = self._model.session().states[0]
        self._nodes: dict[tuple[int, ...], Node] = {(vocabulary.tokenizer.bos,): root}
        self._rows: dict[Node, np.ndarray] = {}
        self._waiting: list[Node] = []
        self._done: asyncio.Event | None = None

    async def next_token_logprobs(self, context: list[int]):
        """A tensor [ids]; what is asked in one turn of the loop is evaluated in one call."""
        import torch

        node = self._node(tuple(context))
        if node not in self._rows:
            self._waiting.append(node)
            if self._done is None:
                self._done = done = asyncio.Event()
                await asyncio.sleep(0)
                waiting, self._waiting, self._done = self._waiting, [], None
                self._model.pool.read(waiting, self._rows)
                done.set()
            else:
                await self._done.wait()
        return torch.from_numpy(np.array(self._rows[node]))

    def _node(self, context: tuple[int, ...]) -> Node:
        if context not in self._nodes:
            parent = self._node(context[:-1])
            self._nodes[context] = Node(self._model.pool, context[-1], parent, DEAD)
        return self._nodes[context]


async def rows(model: TokenizedModel, text: bytes, beam: int) -> np.ndarray:
    """float64 [T + 1, 257]: log-probabilities after every prefix, as it renormalises them; fewer
    rows where its beam has no cover left."""
    state = await _initial(PoolLM(model), beam)
    found = []
    for t in range(len(text) + 1):
        if not len(state):
            break
        found.append(_symbols(await state.logp_next()))
        if t < len(text):
            state = await (state.prune() << text[t])
    await state.cleanup()
    return np.stack(found)


async def sample(model: TokenizedModel, prompt: bytes, count: int, beam: int, seed: int) -> bytes:
    """Bytes after a prompt; they may end earlier."""
    random = np.random.default_rng(seed)
    state = await (await _initial(PoolLM(model), beam)).prefill(prompt)
    text = bytearray()
    while len(text) < count:
        p = np.exp(_symbols(await state.logp_next()))
        symbol = int(random.choice(len(p), p=p / p.sum()))
        if symbol == END:
            break
        text.append(symbol)
        state = await (state.prune() << symbol)
    await state.cleanup()
    return bytes(text)


async def _initial(lm: PoolLM, beam: int):
    from genlm.bytes import BeamParams, ByteBeamState

    params = BeamParams(K=beam, eos_byte_strings=lm.end_strings)
    return await ByteBeamState.initial(lm, params)


def _symbols(found) -> np.ndarray:
    ps = np.asarray(found.ps, np.float64)
    return np.append(ps[:256], ps[-1])  # the last is its end of text
