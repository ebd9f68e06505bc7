"""Runs of `hat train` and `hat convert` as models of bytes."""

from __future__ import annotations

from pathlib import Path

from hat.byte_exact.hat_model import HatByteModel
from hat.byte_exact.laws import Law
from hat.byte_exact.model import ByteModel
from hat.byte_exact.tokenized import BEAM, TokenizedModel
from hat.errors import UserError
from hat.inference.run import Run, load_run
from hat.inference.scoring import room_for_words
from hat.models.hat import HatModel
from hat.models.hat_2025 import Hat2025Model


def load_byte_model(path: Path, law: Law = "canonical", beam: int | None = BEAM) -> ByteModel:
    """A subword (or flat byte-level) Llama under a law, or a HAT, which needs none."""
    return byte_model(load_run(path), law, beam)


def byte_model(run: Run, law: Law = "canonical", beam: int | None = BEAM) -> ByteModel:
    data = run.experiment.data
    if isinstance(run.model, HatModel):
        words = room_for_words(run.model, data.row_length, data.row_words)
        return HatByteModel(run.model, run.params, run.splitter, data.row_length, words)
    if isinstance(run.model, Hat2025Model):
        raise UserError(
            f"{run.experiment.name} is a HAT of 2025, which writes the ends of words beside bytes: "
            "what byte follows is not known byte by byte; give another model"
        )
    return TokenizedModel(
        run.model, run.params, run.tokenizer, law, beam=beam, context=data.row_length
    )


def load_tokenized(path: Path, law: Law = "canonical", beam: int | None = BEAM) -> TokenizedModel:
    """UserError where the run at `path` is a HAT: laws are about tokens."""
    model = load_byte_model(path, law, beam)
    if not isinstance(model, TokenizedModel):
        raise UserError(f"{path} is a HAT: it has no tokens, and no law to choose")
    return model
