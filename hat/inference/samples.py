"""Texts for a person to read while a model trains: what `hat.training.loop.train` calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hat.inference.generation import generate_with
from hat.inference.sampling import Sampling
from hat.models.hypernetwork import RowPredictorConfig
from hat.models.model import LanguageModel, Params
from hat.text.chat import Message
from hat.text.splitters import BYTE_CAUSAL, make_splitter

if TYPE_CHECKING:
    from hat.data.mixture import Mixture
    from hat.training.experiment import Experiment


def sample_texts(
    experiment: Experiment, model: LanguageModel, params: Params, corpus: Mixture
) -> list[str]:
    """The configured prompts (`training.samples`), each with its continuation, or, where a model
    learns from conversations, its answer; bytes that are no UTF-8 are shown as U+FFFD. The random
    numbers are the same every time, so that what changes between two calls is the model. None
    where words look ahead."""
    if isinstance(experiment.model, RowPredictorConfig):  # it writes rows, not texts
        return []
    config = experiment.training.samples
    rule = corpus.tokenizer or make_splitter(experiment.data.splitter)
    looks_ahead = corpus.tokenizer is None and rule.causality != BYTE_CAUSAL
    if looks_ahead and not model.any_splitter:
        return []
    texts = [prompt.encode() for prompt in config.prompts]
    chats = experiment.data.format != "text"
    results = generate_with(
        model,
        params,
        rule,
        [[Message("user", text)] for text in texts] if chats else texts,
        num_bytes=config.max_bytes,
        sampling=Sampling(config.temperature, top_p=config.top_p, seed=experiment.training.seed),
    )
    between = b"\n> " if chats else b""
    return [
        (text + between + result.text).decode("utf-8", "replace")
        for text, result in zip(texts, results)
    ]
