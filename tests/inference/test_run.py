"""A run's folder, loaded for generation and scoring."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from hat import config as configs
from hat.errors import UserError
from hat.inference.generation import generate
from hat.inference.run import load_run
from hat.text.tokenizers import train_bpe
from tests.inference.helpers import hat_config, llama_config, write_run


def assert_same(params, expected):
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_a_hat_run(tmp_path):
    params = write_run(tmp_path, hat_config(), splitter="words:64")
    run = load_run(tmp_path)
    assert_same(run.params, params)
    assert run.experiment.model == run.model.config == hat_config()
    assert run.tokenizer is None and run.rule is run.splitter
    assert run.splitter.max_word_bytes == 64
    results = generate(run, [b"one ", b""], num_bytes=5, samples=2, temperature=1.0, top_k=50)
    assert [result.prompt for result in results] == [b"one ", b"one ", b"", b""]


def test_a_run_of_bytes(tmp_path):
    params = write_run(tmp_path, llama_config(), tokenizer="bytes")
    run = load_run(str(tmp_path))
    assert_same(run.params, params)
    assert run.splitter is None and run.rule.encode(b"ab").tolist() == [97, 98]


def test_a_run_with_a_tokenizer_of_its_own(tmp_path):
    tokenizer = train_bpe([b"some words, some more words, and words again"] * 4, 270)
    write_run(tmp_path, llama_config(num_tokens=270), tokenizer="bpe:270")
    with pytest.raises(UserError, match="tokenizer"):
        load_run(tmp_path)
    tokenizer.save(tmp_path)
    run = load_run(tmp_path)
    text = "some words \N{SNOWMAN}".encode() + b"\xff"
    assert run.rule.encode(text).tolist() == tokenizer.encode(text).tolist()


def test_folders_that_hold_no_run(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match="config.json"):
        load_run(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        load_run(tmp_path)


def test_no_checkpoint_yet(tmp_path):
    write_run(tmp_path, hat_config())
    (tmp_path / "checkpoints").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="no checkpoint"):
        load_run(tmp_path)
    assert not (tmp_path / "checkpoints").exists()  # loading writes nothing


def test_a_checkpoint_of_another_model(tmp_path):
    write_run(tmp_path, hat_config())
    wider = dataclasses.replace(hat_config().backbone, intermediate_size=80)
    experiment = dataclasses.replace(
        load_run(tmp_path).experiment, model=hat_config(backbone=wider)
    )
    (tmp_path / "config.json").write_text(json.dumps(configs.to_dict(experiment)))
    with pytest.raises(UserError, match="mlp"):
        load_run(tmp_path)
