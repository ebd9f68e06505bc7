"""A conversation with a model, turn by turn: every byte is read once."""

from __future__ import annotations

from hat.errors import UserError
from hat.inference.generation import Generation, Job, OnBytes, Session, run_jobs
from hat.inference.sampling import Sampling
from hat.text.chat import ASSISTANT, Message, prompt_ids


class Conversation:
    """messages: what was said so far. The caches of the session, which has one row, keep it."""

    def __init__(self, session: Session, system: bytes | None = None):
        """system: what the model is told first; None: nothing."""
        if session.batch_size != 1:
            raise ValueError(f"a session of {session.batch_size} rows; a conversation needs one")
        self.messages = [] if system is None else [Message("system", system)]
        self._session = session
        self._unread = [session.bos]
        self._new = list(self.messages)  # messages that the session has not read

    def answer(
        self,
        content: bytes,
        *,
        num_bytes: int,
        sampling: Sampling,
        on_byte: OnBytes | None = None,
    ) -> Generation:
        """What the model answers to a message of the user: at most num_bytes bytes, after which it
        is interrupted. The random numbers differ from turn to turn. UserError: no byte to draw."""
        if num_bytes < 1:
            raise UserError(f"num_bytes {num_bytes} must be at least 1")
        said = Message("user", content)
        self.messages.append(said)
        ids = prompt_ids([*self._new, said], self._session.encode, self._session.eot)
        job = Job(len(self.messages), 0, self._unread + ids)
        run_jobs(
            self._session, [job], num_bytes=num_bytes, sampling=sampling, on_byte=on_byte
        )
        # The last id that was drawn is still to be read, and an EOT if it is none.
        self._unread = ([] if job.stopped else [job.next_id]) + [self._session.eot]
        self._new = []
        self.messages.append(Message(ASSISTANT, bytes(job.text)))
        return job.result(self.messages[:-1])
