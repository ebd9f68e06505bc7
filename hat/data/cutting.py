"""How documents become units to pack: by a splitter or by a tokenizer, long texts in parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hat.data.config import DataConfig
from hat.errors import UserError
from hat.text import ids as byte_ids
from hat.text.chat import ASSISTANT, Message, header, join_turns
from hat.text.rows import Specials, Units, word_units
from hat.text.tokenizers import ByteTokenizer, Tokenizer, load_tokenizer

if TYPE_CHECKING:  # the splitters load their compiled loops, which rows of tokens do without
    from hat.text.splitters import Splitter

PART_BYTES = 1 << 24  # a longer document is split and packed in parts, so that memory is bounded


@dataclasses.dataclass(frozen=True)
class Cutter:
    """A splitter, or a tokenizer (None until a BPE is trained)."""

    name: str  # of the splitter or of the tokenizer
    splitter: Splitter | None = None
    tokenizer: Tokenizer | None = None
    train_size: int | None = None  # vocabulary of a BPE that is trained on the training split

    def cut(self, data: bytes, ends: bool, name: str) -> Units:
        """The units of a part of the document `name`; `ends`: it is the last part."""
        if self.splitter is None:
            return Units(self.tokenizer.encode(data), ends=ends, name=name)
        view = np.frombuffer(data, np.uint8)
        return word_units(view, self.splitter.split(view), ends=ends, name=name)

    def cut_conversation(self, messages: Sequence[Message], name: str) -> Units:
        """The units of the conversation `name`, whose last message is an answer."""
        turns = [self._turn(message, name) for message in messages]
        return join_turns(turns, self.specials.eot, name)

    def _turn(self, message: Message, name: str) -> Units:
        opening = header(message.role)
        if self.splitter is None:
            first, rest = self.tokenizer.encode(opening), self.tokenizer.encode(message.content)
            units, before = Units(np.concatenate([first, rest])), len(first)
        else:
            units, before = self.cut(opening + message.content, True, name), len(opening)
        answers = (np.arange(len(units.ids)) >= before) & (message.role == ASSISTANT)
        return dataclasses.replace(units, answers=answers)

    def count_bytes(self, ids: np.ndarray) -> int:
        """How many bytes the ids int32[n] spell, specials none."""
        if self.splitter is not None:
            return int(np.count_nonzero(ids < byte_ids.NUM_BYTES))
        return int(self.tokenizer.byte_lengths[ids].sum())

    @property
    def specials(self) -> Specials:
        if self.splitter is not None:
            return Specials(byte_ids.BOS, byte_ids.EOT, byte_ids.PAD)
        return Specials(self.tokenizer.bos, self.tokenizer.eot, self.tokenizer.pad)

    @property
    def num_ids(self) -> int:
        """Rows that an embedding of these ids needs."""
        return byte_ids.NUM_IDS if self.splitter is not None else self.tokenizer.num_ids


def make_cutter(config: DataConfig) -> Cutter:
    """UserError where the splitter is not known, or the tokenizer cannot be read or cannot end a
    turn."""
    if config.tokenizer is None:
        from hat.text.splitters import make_splitter

        splitter = make_splitter(config.splitter)
        return Cutter(splitter.name, splitter=splitter)
    if config.tokenizer.startswith("bpe:"):
        return Cutter(config.tokenizer, train_size=int(config.tokenizer.removeprefix("bpe:")))
    tokenizer = ByteTokenizer() if config.tokenizer == "bytes" else load_tokenizer(config.tokenizer)
    if config.format != "text" and tokenizer.bos == tokenizer.eot:
        raise UserError(
            f"data.tokenizer {config.tokenizer} opens and ends texts with one id, so the end of a "
            "turn would open a text: add a BOS token to it, or use another"
        )
    return Cutter(tokenizer.name, tokenizer=tokenizer)


def parts(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """A document in parts of at most PART_BYTES, cut after a newline where there is one and else
    between characters; and whether a part is the last."""
    start = 0
    while len(data) - start > PART_BYTES:
        stop = data.rfind(b"\n", start, start + PART_BYTES) + 1
        if stop <= start:
            stop = start + PART_BYTES
            while stop > start + PART_BYTES - 3 and data[stop] & 0xC0 == 0x80:
                stop -= 1
        yield data[start:stop], False
        start = stop
    yield data[start:], True
