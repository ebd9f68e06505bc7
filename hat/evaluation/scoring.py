"""One door to byte-level and subword models: how likely continuations are, and what comes next.

A continuation is scored as part of its text: the rule splits context + continuation as one, and
the nats of what lies behind the boundary are the continuation's. For a HAT, or a flat byte-level
model, that is exact. A token that holds bytes of both is counted as the continuation's, whole, and
reported. No end of text is charged. Texts go through `hat.inference.scoring`: packed into rows of
few lengths, so that few shapes are compiled.
"""

from __future__ import annotations

import bisect
import copy
import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hat.errors import UserError
from hat.evaluation.perturbations.segmentation import jittered_units
from hat.inference.generation import generate_with
from hat.inference.sampling import Sampling
from hat.inference.scoring import DocumentScore, make_rows, score_documents, score_pieces
from hat.models.llama import LlamaModel
from hat.models.model import LanguageModel, Params
from hat.text.rows import Row, cut_piece, word_bounds
from hat.text.splitters import Splitter
from hat.text.tokenizers import Tokenizer

if TYPE_CHECKING:
    from hat.inference.run import Run

SHORTEST_ROW = 256  # ids; rows are halved down to it for texts that are short
TEXTS_PER_ROW = 4  # so many texts should fit a row: what is left over at its end is then small


@dataclasses.dataclass(frozen=True)
class Score:
    """Of a continuation after its context.

    nats: negative log-likelihood. likeliest: whether each of its ids was the likeliest one, so that
    greedy generation would give it. positions: backbone steps (words of a HAT, tokens) of the whole
    text. truncated: whether the text was longer than the model's context and lost its beginning.
    straddled: whether a token holds bytes of both, and was charged to the continuation.
    """

    nats: float
    likeliest: bool
    positions: int
    truncated: bool
    straddled: bool


class Scorer:
    """A model with its rule: the splitter of a HAT, the tokenizer of a Llama.

    row_length, row_words: the model's context, ids and (of a HAT) words. batch_size: rows of
    row_length that go through the model at a time, and more of shorter ones.
    """

    def __init__(
        self,
        model: LanguageModel,
        params: Params,
        rule: Splitter | Tokenizer,
        *,
        row_length: int,
        row_words: int,
        batch_size: int = 8,
    ):
        self.model, self._params, self._rule = model, params, rule
        self._length, self._words, self._batch_size = row_length, row_words, batch_size
        self._jitter: tuple[str, float, int] | None = None
        shares = [1]
        while row_length // (2 * shares[-1]) >= SHORTEST_ROW:
            shares.append(2 * shares[-1])
        # Ascending; the longest is the model's context itself.
        self._buckets = [make_rows(model, rule, row_length // share, row_words // share)
                         for share in reversed(shares)]

    @classmethod
    def of_run(cls, run: Run, *, batch_size: int = 8) -> Scorer:
        """The scorer of a trained run, whose context is a row of its training."""
        data = run.experiment.data
        shape = dict(row_length=data.row_length, row_words=data.row_words)
        return cls(run.model, run.params, run.rule, **shape, batch_size=batch_size)

    @property
    def kind(self) -> str:
        """"hat", "bytes" (a flat byte-level Llama) or "subword"."""
        if not isinstance(self.model, LlamaModel):
            return "hat"
        return "bytes" if self._rule.byte_lengths.max() == 1 else "subword"

    def jittered(self, mode: str, rate: float, seed: int) -> Scorer:
        """The same model, whose `continuations` are read with other boundaries of words or tokens
        (`perturbations.segmentation`), in context and continuation. An item's numbers are of its
        context, so that its choices are cut alike there."""
        scorer = copy.copy(self)
        scorer._jitter = (mode, rate, seed)
        return scorer

    def continuations(self, pairs: Iterable[tuple[bytes, bytes]]) -> list[Score]:
        """The score of every (context, continuation); equal pairs are scored once.

        A text that is longer than the model's context loses words at its beginning, none that holds
        a byte of the continuation. UserError where these alone are too long.
        """
        pairs = list(pairs)
        pieces = {pair: self._cut(*pair) for pair in dict.fromkeys(pairs)}
        by_bucket: dict[int, list[tuple[bytes, bytes]]] = {}
        for pair, piece in pieces.items():
            by_bucket.setdefault(self._bucket(piece), []).append(pair)
        scores = {}
        for bucket, its_pairs in by_bucket.items():
            rows = self._buckets[bucket]
            batch_size = self._batch_size * (self._length // rows.length)
            its_pieces = [pieces[pair] for pair in its_pairs]
            found = score_pieces(
                self.model, self._params, rows, [piece.row for piece in its_pieces], batch_size
            )
            for pair, piece, (nats, likeliest) in zip(its_pairs, its_pieces, found):
                scores[pair] = Score(
                    float(nats[piece.begin :].sum(dtype=np.float64)),
                    bool(likeliest[piece.begin :].all()),
                    piece.positions,
                    piece.truncated,
                    piece.straddled,
                )
        return [scores[pair] for pair in pairs]

    def rolling(
        self, documents: Sequence[bytes], names: Sequence[str] | None = None
    ) -> list[DocumentScore]:
        """Every byte of every document charged once, and its end: `score_documents`. The last of
        a document's nats is that of its end."""
        return score_documents(
            self.model, self._params, self._rule, documents, row_length=self._length,
            row_words=self._words, batch_size=self._batch_size, names=names,
        )  # fmt: skip

    def complete(
        self, prompts: Sequence[bytes], num_bytes: int, stops: Sequence[bytes] = ()
    ) -> list[bytes]:
        """The likeliest bytes after every prompt, one id after the other: up to the end of text,
        one of `stops` (left out) or the id that brings them to num_bytes. A prompt too long for the
        model's context loses words at its beginning. UserError where num_bytes leaves no room."""
        shortened = [self._shorten(prompt, num_bytes) for prompt in prompts]
        results = generate_with(
            self.model, self._params, self._rule, shortened, num_bytes=num_bytes,
            sampling=Sampling(temperature=0.0),
        )  # fmt: skip
        return [_before(result.text, stops) for result in results]

    def _cut(self, context: bytes, continuation: bytes) -> _Piece:
        """What of the text goes into a row, from the last word that it can begin with."""
        if not continuation:
            raise ValueError("there is no continuation to score")
        rows = self._buckets[-1]
        if self._jitter is None:
            units = rows.units(context + continuation, ends=False)
        else:
            item_id = hashlib.blake2b(context, digest_size=16).hexdigest()
            units = jittered_units(self._rule, context + continuation, *self._jitter, item_id)
        ends, bounds = rows.byte_ends(units), word_bounds(units)
        size, words = len(units.ids), len(bounds) - 1
        charged = int(np.searchsorted(ends, len(context), "right"))
        first = max(0, bisect.bisect_left(bounds, size + 1 - rows.length), words + 1 - rows.words)
        if first > bisect.bisect_right(bounds, charged) - 1:
            raise UserError(
                f"the continuation {_shown(continuation)} of {len(continuation)} bytes does not "
                f"fit the model's context of {rows.length} ids; shorten it"
            )
        return _Piece(
            cut_piece(units, bounds, first, words, rows.specials),
            words=words - first + 1,
            begin=charged - bounds[first],
            positions=words,
            truncated=first > 0,
            straddled=(int(ends[charged - 1]) if charged else 0) < len(context),
        )

    def _bucket(self, piece: _Piece) -> int:
        """The shortest rows that hold TEXTS_PER_ROW such texts."""
        for index, rows in enumerate(self._buckets[:-1]):
            if (len(piece.row.ids) * TEXTS_PER_ROW <= rows.length
                    and piece.words * TEXTS_PER_ROW <= rows.words):
                return index
        return len(self._buckets) - 1

    def _shorten(self, prompt: bytes, num_bytes: int) -> bytes:
        """The end of a prompt that leaves room for num_bytes ids."""
        rows = self._buckets[-1]
        room = rows.length - 1 - num_bytes  # for ids beside BOS
        if room < 1:
            raise UserError(
                f"{num_bytes} bytes do not fit the model's context of {rows.length} ids; ask for "
                "fewer"
            )
        units = rows.units(prompt)
        if len(units.ids) <= room:
            return prompt
        bounds = word_bounds(units)
        first = bounds[bisect.bisect_left(bounds, len(units.ids) - room)]
        return prompt[int(rows.byte_ends(units)[first - 1]) :] if first else prompt


class _Piece(NamedTuple):
    """A text in a row. words: of the row, BOS included; begin: index of the continuation's first
    nats; the others as in Score."""

    row: Row
    words: int
    begin: int
    positions: int
    truncated: bool
    straddled: bool


def _before(text: bytes, stops: Sequence[bytes]) -> bytes:
    found = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(found)] if found else text


def _shown(data: bytes) -> str:
    text = data.decode("utf-8", "backslashreplace")
    return repr(text if len(text) <= 30 else f"{text[:26]} ...")
