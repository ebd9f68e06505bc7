"""The samples of a training run."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

from hat.data.config import DataConfig
from hat.inference.samples import sample_texts
from hat.text.tokenizers import ByteTokenizer
from hat.training.config import SampleConfig, TrainingConfig
from hat.training.experiment import Experiment
from tests.inference.helpers import built, hat_config, llama_config


def test_every_prompt_is_continued_and_shown_as_text():
    samples = SampleConfig(prompts=("", "né "), max_bytes=6)
    training = TrainingConfig(steps=1, batch_size=1, samples=samples)
    for config, tokenizer in ((hat_config(), None), (llama_config(), ByteTokenizer())):
        data = DataConfig(tokenizer=None if tokenizer is None else "bytes")
        experiment = Experiment("test", config, data, training)
        model, params = built(config)
        corpus = SimpleNamespace(tokenizer=tokenizer)
        texts = sample_texts(experiment, model, params, corpus)
        assert len(texts) == 2 and texts[1].startswith("né ")
        assert texts == sample_texts(experiment, model, params, corpus)
        another = dataclasses.replace(training, seed=1)
        another = dataclasses.replace(experiment, training=another)
        assert texts != sample_texts(another, model, params, corpus)
