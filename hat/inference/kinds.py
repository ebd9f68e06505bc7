"""Which rows in memory a model has."""

from __future__ import annotations

from hat.inference.hat_2025_rows import Hat2025Rows, hat_2025_rows
from hat.inference.hat_learned_rows import hat_learned_rows
from hat.inference.hat_rows import HatRows, hat_rows
from hat.inference.llama_rows import LlamaRows, llama_rows
from hat.models.hat import HatModel
from hat.models.hat_2025 import Hat2025Model
from hat.models.hat_learned import LearnedHatModel
from hat.models.model import LanguageModel


def rows_of(model: LanguageModel, rings: bool = True) -> HatRows | Hat2025Rows | LlamaRows:
    """rings: of `llama_rows`. UserError: a model that nothing can be generated with."""
    if isinstance(model, LearnedHatModel):
        return hat_learned_rows(model)
    if isinstance(model, HatModel):
        return hat_rows(model)
    return hat_2025_rows(model) if isinstance(model, Hat2025Model) else llama_rows(model, rings)
