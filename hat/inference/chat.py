"""A conversation with a model, turn by turn."""

from __future__ import annotations

from hat.errors import UserError
from hat.inference.engine import Engine
from hat.inference.requests import Request
from hat.inference.generation import Generation, OnBytes, read_ids
from hat.inference.sampling import Sampling
from hat.text.chat import ASSISTANT, Message


class Conversation:
    """messages: what was said so far. The engine keeps what it has read of them, so that a turn
    reads the last answer and the new message alone."""

    def __init__(self, engine: Engine, system: bytes | None = None):
        """system: what the model is told first; None: nothing."""
        self.messages = [] if system is None else [Message("system", system)]
        self._engine = engine

    def answer(
        self,
        content: bytes,
        *,
        num_bytes: int,
        sampling: Sampling,
        on_bytes: OnBytes | None = None,
    ) -> Generation:
        """What the model answers to a message of the user: at most num_bytes bytes, after which it
        is interrupted. The random numbers differ from turn to turn. UserError: no byte to draw."""
        if num_bytes < 1:
            raise UserError(f"num_bytes {num_bytes} must be at least 1")
        self.messages.append(Message("user", content))
        ids = read_ids(self._engine.tokenizer, self.messages)
        request = Request(ids, num_bytes, sampling, prompt=len(self.messages))
        tell = None if on_bytes is None else lambda piece: on_bytes(0, piece)
        made = self._engine.submit(request, tell)
        self._engine.run()
        self.messages.append(Message(ASSISTANT, bytes(made.text)))
        return Generation.of(self.messages[:-1], made)
