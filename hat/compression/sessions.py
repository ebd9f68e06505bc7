"""HATs, and tokenized models through exact byte probabilities, as predictors of whole chunks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from hat.byte_exact.run import byte_model
from hat.byte_exact.tokenized import TokenizedModel
from hat.compression.integer_model import IntegerPredictor
from hat.compression.predictor import LlamaPredictor, Predictor, check_m1, hash_model
from hat.compression.probabilities import NUM_BYTES, weights_of
from hat.errors import UserError
from hat.inference.run import Run, load_run
from hat.inference.stepping import open_reader
from hat.models.hat import HatModel
from hat.models.hat_2025 import Hat2025Model
from hat.text.ids import BOS


def load_predictor(path: Path, portable: bool) -> tuple[Callable[[int], Predictor], int]:
    """What makes predictors of a trained run, of so many rows; and the most rows that pay.

    portable: in whole numbers. UserError: no such run, a HAT whose guide or splitter looks ahead, a
    portable one that is no flat byte-level Llama.
    """
    run = load_run(path)
    context = run.experiment.data.row_length - 1
    if portable:
        check_m1(run.experiment.model, path)
        return lambda rows: IntegerPredictor(run.model, run.params, rows, context), 64
    if isinstance(run.model, HatModel):
        return lambda rows: HatPredictor(run, rows, context), 8
    if isinstance(run.model, Hat2025Model):
        raise UserError(
            f"{path} is a HAT of 2025, which writes the ends of words beside bytes: it makes no "
            "predictor of bytes; give another model"
        )
    if run.experiment.data.tokenizer == "bytes":
        return lambda rows: LlamaPredictor(run.model, run.params, rows, context), 64
    return lambda rows: TokenizedPredictor(run, rows, context), 1


class HatPredictor:
    """All rows begin anew once they have read `context` bytes, as a row of training is long."""

    windowed = False

    def __init__(self, run: Run, rows: int, context: int):
        self.rows = rows
        self.model_hash = hash_model(run.model, run.params, run.splitter.name)
        self._run, self._context = run, context
        self.root = self.begin()[0]

    def begin(self) -> np.ndarray:
        run = self._run
        self._reader = open_reader(run.model, run.params, run.splitter, BOS, self.rows)
        self._length = 0
        return self._weights()

    def push(self, symbols: np.ndarray, restart: np.ndarray | None = None) -> np.ndarray:
        if restart is not None and restart.any():
            raise UserError("a HAT cannot begin anew in one row alone: give a flat byte-level model")
        if self._length >= self._context:
            self.begin()
        self._length += 1
        self._reader = self._reader.push(*symbols.tolist())
        return self._weights()

    def _weights(self) -> np.ndarray:
        logits = np.asarray(self._reader.logits, np.float64)[:, :NUM_BYTES]
        return weights_of(_softmax(logits))


class TokenizedPredictor:
    """The canonical law of a tokenized model (hat.byte_exact.laws), one session a row; its rows
    begin anew together, once they have read `context` bytes."""

    windowed = False

    def __init__(self, run: Run, rows: int, context: int):
        model = byte_model(run)
        assert isinstance(model, TokenizedModel)
        self.rows = rows
        self.model_hash = hash_model(run.model, run.params, run.tokenizer.name, str(run.tokenizer.eot))
        self._model, self._context = model, context
        self.root = self.begin()[0]

    def begin(self) -> np.ndarray:
        # With caches of its own, so that it computes what every other beginning has computed.
        model = self._model.with_law(self._model.law, self._model.beam)
        self._sessions = [model.session() for _ in range(self.rows)]
        self._length = 0
        return self._weights()

    def push(self, symbols: np.ndarray, restart: np.ndarray | None = None) -> np.ndarray:
        if restart is not None and restart.any():
            raise UserError("a tokenized model cannot begin anew in one row: give a flat byte-level one")
        if self._length >= self._context:
            self.begin()
        self._length += 1
        for session, symbol in zip(self._sessions, symbols.tolist()):
            session.push(symbol)
        return self._weights()

    def _weights(self) -> np.ndarray:
        logs = np.stack([session.logprobs()[:NUM_BYTES] for session in self._sessions])
        return weights_of(_softmax(np.maximum(logs, -1e30)))


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)
