"""How many nats a model needs for given documents: teacher-forced, every byte charged once.

A document is cut into pieces and rows as a training corpus is (`hat.text.rows`), each piece
conditioned on BOS and its own beginning alone; the end of text is predicted and charged.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from hat.errors import UserError
from hat.models.hat_learned import LearnedHatModel
from hat.models.llama import LlamaModel
from hat.models.model import LanguageModel, Params
from hat.text.ids import BOS, EOT, PAD
from hat.text.rows import (
    Packer,
    Row,
    Specials,
    Units,
    empty_row,
    expand_tokens,
    expand_words,
    word_units,
)
from hat.text.splitters import BYTE_CAUSAL, Splitter
from hat.text.tokenizers import Tokenizer

if TYPE_CHECKING:  # a run is loaded from training's files; scoring itself needs none of them
    from hat.inference.run import Run


@dataclasses.dataclass(frozen=True)
class DocumentScore:
    """nats float32 [n + 1]: of every id of the document in order (bytes of a HAT, tokens of a
    Llama), then of its end. words: how many words, or tokens, the rule made of it."""

    nats: np.ndarray
    words: int


def bits_per_byte(run: Run, paths: Sequence[str | Path], *, batch_size: int = 8) -> dict[str, Any]:
    """Scores files, each of them one document, in rows as long as those of training.

    Returns nats, bytes, bits_per_byte, words and bytes_per_word of all together, and under
    "files" a list of the same with each path. Words are tokens for a Llama. UserError: a file
    that is missing, unreadable or empty; no file; a splitter that looks ahead and cannot say what
    its boundaries cost.
    """
    documents, scores = score_files(run, paths, batch_size=batch_size)
    files = [
        {"path": str(path), **summary(len(document), [score])}
        for path, document, score in zip(paths, documents, scores)
    ]
    return {"files": files, **summary(sum(map(len, documents)), scores)}


def score_files(
    run: Run, paths: Sequence[str | Path], *, batch_size: int = 8
) -> tuple[list[bytes], list[DocumentScore]]:
    """The bytes of files, each of them one document, and their scores, in rows as long as those of
    training. UserError as `bits_per_byte`."""
    if not paths:
        raise UserError("no file to score; give at least one")
    documents = [_read(Path(path)) for path in paths]
    scores = score_documents(
        run.model,
        run.params,
        run.rule,
        documents,
        row_length=run.experiment.data.row_length,
        row_words=run.experiment.data.row_words,
        batch_size=batch_size,
        names=[str(path) for path in paths],
    )
    return documents, scores


def score_documents(
    model: LanguageModel,
    params: Params,
    rule: Splitter | Tokenizer,
    documents: Sequence[bytes],
    *,
    row_length: int,
    row_words: int,
    batch_size: int = 8,
    names: Sequence[str] | None = None,
) -> list[DocumentScore]:
    """The score of every document; rule: the splitter of a HAT, the tokenizer of a Llama.

    Rows of row_length ids and, for a HAT, row_words words go through the model batch_size at a
    time; pieces are packed into them in the order of the documents. names: of the documents, for
    error messages. Where the boundaries of a splitter look ahead, what it costs to tell them is
    added to the bytes. UserError: a word longer than a row; a splitter that looks ahead and cannot
    say what its boundaries cost.
    """
    names = names or [f"document {i}" for i in range(len(documents))]
    tells = None if model.any_splitter else getattr(rule, "boundary_nats", None)
    rows = make_rows(model, rule, row_length, row_words, charged=tells is not None)
    cut = [rows.cut(document, name) for document, name in zip(documents, names)]
    pieces = [piece for _, its_pieces in cut for piece in its_pieces]
    scores = score_pieces(model, params, rows, pieces, batch_size)
    scored = [
        DocumentScore(np.concatenate([next(scores).nats for _ in its_pieces]), words)
        for words, its_pieces in cut
    ]
    for document, score in zip(documents if tells else [], scored):
        score.nats[:-1] += tells(np.frombuffer(document, np.uint8))
    return scored


class PieceScore(NamedTuple):
    """Of what a piece of n ids predicts. nats: float32 [n - 1]; likeliest: bool [n - 1], whether
    the id that follows was the likeliest."""

    nats: np.ndarray
    likeliest: np.ndarray


def score_pieces(
    model: LanguageModel, params: Params, rows: Rows, pieces: Sequence[Row], batch_size: int
) -> Iterator[PieceScore]:
    """The score of every piece, in order; pieces are packed into rows in that order, and rows go
    through the model batch_size at a time."""
    for batch in _batches(_pack_in_order(pieces, rows), batch_size, rows):
        yield from _piece_scores(model, params, batch, rows)


class WordRows:
    """Rows of a HAT: `length` ids in `words` words. charged: whoever asks for nats adds what the
    boundaries of the splitter cost."""

    specials = Specials(BOS, EOT, PAD)

    def __init__(self, splitter: Splitter, length: int, words: int, charged: bool = False):
        if splitter.causality != BYTE_CAUSAL and not charged:
            raise UserError(
                f"splitter {splitter.name} is not byte-causal (it is {splitter.causality.kind}): "
                "its word boundaries tell of bytes to come, so nats under it are no code length"
            )
        self._splitter, self.length, self.words = splitter, length, words
        self.empty = empty_row(has_words=True)

    def units(self, text: bytes, *, ends: bool = True, name: str = "document") -> Units:
        """The ids and words of a text; ends: whether the end of text follows."""
        data = np.frombuffer(text, np.uint8)
        return word_units(data, self._splitter.split(data), ends=ends, name=name)

    def byte_ends(self, units: Units) -> np.ndarray:
        """int64 [n]: how many bytes of the text are read with each id."""
        return np.arange(1, len(units.ids) + 1)

    def cut(self, document: bytes, name: str) -> tuple[int, list[Row]]:
        """The number of words of a document, and its pieces in order."""
        units = self.units(document, name=name)
        packer = Packer(self.length, self.words, self.specials)
        return int(units.starts.sum()), packer.add(units) + packer.finish()

    def expand(self, row: Row) -> dict[str, np.ndarray]:
        return expand_words(row, self.length, self.words)


class TokenRows:
    """Rows of a Llama: every token counts as a word, and rows have as many as they have ids."""

    def __init__(self, tokenizer: Tokenizer, length: int, words: int):
        self._tokenizer, self.length, self.words = tokenizer, length, length
        self.specials = Specials(tokenizer.bos, tokenizer.eot, tokenizer.pad)
        self.empty = empty_row(has_words=False)

    def units(self, text: bytes, *, ends: bool = True, name: str = "document") -> Units:
        """The ids of a text; ends: whether the end of text follows."""
        return Units(self._tokenizer.encode(text), ends=ends, name=name)

    def byte_ends(self, units: Units) -> np.ndarray:
        """int64 [n]: how many bytes of the text are read with each id."""
        return np.cumsum(self._tokenizer.byte_lengths[units.ids], dtype=np.int64)

    def cut(self, document: bytes, name: str) -> tuple[int, list[Row]]:
        """The number of tokens of a document, and its pieces in order."""
        units = self.units(document, name=name)
        packer = Packer(self.length, None, self.specials)
        return len(units.ids), packer.add(units) + packer.finish()

    def expand(self, row: Row) -> dict[str, np.ndarray]:
        lengths = self._tokenizer.byte_lengths
        return expand_tokens(row, self.length, lengths, self._tokenizer.pad)


Rows = WordRows | TokenRows


def make_rows(
    model: LanguageModel,
    rule: Splitter | Tokenizer,
    length: int,
    words: int,
    charged: bool = False,
) -> Rows:
    """Rows as the model reads them; rule: the splitter of a HAT, the tokenizer of a Llama, whose
    rows ignore `words`. charged: as of WordRows. UserError: a splitter that looks ahead."""
    if isinstance(model, LlamaModel):
        return TokenRows(rule, length, words)
    words = room_for_words(model, length, words)
    return WordRows(rule, length, words, charged or model.any_splitter)


def room_for_words(model: LanguageModel, length: int, words: int) -> int:
    """Words of a row of `length` ids that had `words` in training: a model that draws its own
    drops none where a row has room for as many as it has ids."""
    return length if isinstance(model, LearnedHatModel) else words


def _pack_in_order(pieces: Sequence[Row], rows: Rows) -> Iterator[list[Row]]:
    """The pieces in order, as many to a row as fit both caps."""
    row: list[Row] = []
    free, free_words = rows.length, rows.words
    for piece in pieces:
        size = len(piece.ids)
        size_words = size if piece.starts is None else int(piece.starts.sum())
        if row and (size > free or size_words > free_words):
            yield row
            row, free, free_words = [], rows.length, rows.words
        row.append(piece)
        free, free_words = free - size, free_words - size_words
    if row:
        yield row


def _batches(packed: Iterator[list[Row]], batch_size: int, rows: Rows) -> Iterator[list[Row]]:
    """The pieces of each row joined; batch_size rows at a time, the last ones empty."""
    while batch := [_join(pieces) for pieces in itertools.islice(packed, batch_size)]:
        yield batch + [rows.empty] * (batch_size - len(batch))


def _join(pieces: list[Row]) -> Row:
    fields = zip(*((piece.ids, piece.lengths, piece.starts, piece.lags) for piece in pieces))
    return Row(*(None if field[0] is None else np.concatenate(field) for field in fields))


def _piece_scores(model, params, batch: list[Row], rows: Rows) -> Iterator[PieceScore]:
    """What every piece of every row predicts, piece by piece."""
    expanded = [rows.expand(row) for row in batch]
    arrays = {name: np.stack([row[name] for row in expanded]) for name in expanded[0]}
    for row, nats, likeliest in zip(batch, *map(np.asarray, _score(model, params, arrays))):
        for end, size in zip(np.cumsum(row.lengths), row.lengths):
            yield PieceScore(nats[end - size : end - 1], likeliest[end - size : end - 1])


@functools.partial(jax.jit, static_argnums=0)
def _score(model: LanguageModel, params: Params, batch) -> tuple[jax.Array, jax.Array]:
    return model.nats(params, batch)[:2]


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a readable file") from None
    if not data:
        raise UserError(f"{path} is empty: it has no bytes to score; give another file")
    return data


def summary(num_bytes: int, scores: Sequence[DocumentScore]) -> dict[str, Any]:
    """Nats, bytes, words and their ratios, of documents of so many bytes together."""
    nats = float(sum(score.nats.sum(dtype=np.float64) for score in scores))
    words = sum(score.words for score in scores)
    return {
        "nats": nats,
        "bytes": num_bytes,
        "bits_per_byte": nats / math.log(2) / num_bytes,
        "words": words,
        "bytes_per_word": num_bytes / words,
    }
