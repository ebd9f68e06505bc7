"""Scores: every byte and every end of text charged once, whatever the rows look like."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hat.data.config import DataConfig
from hat.errors import UserError
from hat.inference.run import Run
from hat.inference.scoring import bits_per_byte, score_documents
from hat.text.splitters import Causality, make_splitter
from hat.training.config import TrainingConfig
from hat.training.experiment import Experiment
from tests.inference.helpers import (
    ByteTokens,
    SmallSplitter,
    built,
    hat_batch,
    hat_config,
    llama_config,
    token_batch,
    whole_nats,
)

TOLERANCE = 1e-4  # fp32 sums in another order
DOCUMENTS = [
    b"a few words here, and\nsome more",
    b"x",
    "世界 hello".encode() + b"\xff\xc0",
    b"",
    b"The third of them is somewhat longer than the rest.\n\n",
]
ROW = dict(row_length=64, row_words=24, batch_size=3)


def test_a_documents_score_is_that_of_the_document_alone():
    model, params = built(hat_config())
    scores = score_documents(model, params, SmallSplitter(), DOCUMENTS, **ROW)
    alone = whole_nats(model, params, hat_batch(DOCUMENTS, SmallSplitter(), 64))
    for document, score, nats in zip(DOCUMENTS, scores, alone):
        assert score.nats.shape == (len(document) + 1,)
        np.testing.assert_allclose(
            score.nats, nats[: len(document) + 1], rtol=0, atol=TOLERANCE
        )
    assert [score.words for score in scores[:2]] == [7, 1]


def test_tokens_are_scored_alike():
    model, params = built(llama_config())
    scores = score_documents(model, params, ByteTokens(), DOCUMENTS, **ROW)
    alone = whole_nats(model, params, token_batch(DOCUMENTS, 64))
    for document, score, nats in zip(DOCUMENTS, scores, alone):
        assert score.words == len(document)
        np.testing.assert_allclose(
            score.nats, nats[: len(document) + 1], rtol=0, atol=TOLERANCE
        )


def cut_points(text: bytes, starts: np.ndarray, length: int, words: int) -> list[int]:
    """Where a document must be cut: each piece as many words as fit (BOS beside them, and EOT
    beside the last), which a slow search finds by trying."""
    bounds = [int(start) for start in np.flatnonzero(starts)] + [len(text)]
    cuts = [0]
    while True:
        here = bounds.index(cuts[-1])
        fits = [
            last
            for last in range(here + 1, len(bounds))
            for ends in [bounds[last] == len(text)]
            if bounds[last] - cuts[-1] + 1 + ends <= length and last - here + 1 + ends <= words
        ]
        cuts.append(bounds[fits[-1]])
        if cuts[-1] == len(text):
            return cuts


def test_a_long_document_is_charged_piece_by_piece():
    model, params = built(hat_config())
    text = b"many words make a document that no single row of sixty-four ids can hold\n" * 4
    text += "字".encode() * 60
    score = score_documents(model, params, SmallSplitter(), [text], **ROW)[0]
    assert len(score.nats) == len(text) + 1 and np.all(score.nats > 0)
    cuts = cut_points(text, SmallSplitter().split(np.frombuffer(text, np.uint8)).starts, 64, 24)
    assert len(cuts) > 5
    pieces = [text[a:b] for a, b in zip(cuts, cuts[1:])]
    alone = np.asarray(whole_nats(model, params, hat_batch(pieces, SmallSplitter(), 66)))
    # Every piece opens with BOS; the end of text is charged after the last alone.
    expected = [row[: len(piece)] for row, piece in zip(alone, pieces)]
    expected.append(alone[len(pieces) - 1, len(pieces[-1]) :][:1])
    np.testing.assert_allclose(
        score.nats, np.concatenate(expected), rtol=0, atol=TOLERANCE
    )


def run_of(model_config, **data) -> Run:
    model, params = built(model_config)
    experiment = Experiment(
        "test", model_config, DataConfig(row_length=64, row_words=24, **data),
        TrainingConfig(steps=1, batch_size=1),
    )
    hat = model_config == hat_config()
    return Run(
        experiment, model, params, SmallSplitter() if hat else None, None if hat else ByteTokens()
    )


def test_bits_per_byte_of_files(tmp_path):
    paths = [tmp_path / f"{i}.txt" for i in range(2)]
    for path, text in zip(paths, (DOCUMENTS[0], DOCUMENTS[4])):
        path.write_bytes(text)
    for config, data in ((hat_config(), {}), (llama_config(), {"tokenizer": "bytes"})):
        run = run_of(config, **data)
        result = bits_per_byte(run, paths, batch_size=3)
        documents = [DOCUMENTS[0], DOCUMENTS[4]]
        scores = score_documents(run.model, run.params, run.rule, documents, **ROW)
        for path, file, score in zip(paths, result["files"], scores):
            assert file["path"] == str(path) and file["bytes"] == path.stat().st_size
            assert file["nats"] == pytest.approx(float(score.nats.sum()), rel=1e-5)
            assert file["bits_per_byte"] == file["nats"] / math.log(2) / file["bytes"]
            assert file["bytes_per_word"] == file["bytes"] / score.words
        for field in ("nats", "bytes", "words"):
            assert result[field] == pytest.approx(sum(file[field] for file in result["files"]))
        assert result["bits_per_byte"] == result["nats"] / math.log(2) / result["bytes"]


def test_files_that_cannot_be_scored(tmp_path):
    run = run_of(hat_config())
    with pytest.raises(UserError, match="missing.txt"):
        bits_per_byte(run, [tmp_path / "missing.txt"])
    with pytest.raises(UserError, match="directory"):
        bits_per_byte(run, [tmp_path])
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UserError, match="empty.txt is empty"):
        bits_per_byte(run, [tmp_path / "empty.txt"])
    with pytest.raises(UserError, match="no file"):
        bits_per_byte(run, [])


def test_rules_and_words_that_cannot_be_scored():
    model, params = built(hat_config())
    with pytest.raises(UserError, match="long.txt.*does not fit"):
        score_documents(
            model, params, SmallSplitter(), [b"x" * 200], names=["long.txt"], **ROW
        )
    looking_ahead = SmallSplitter()
    looking_ahead.causality = Causality("sequence")
    with pytest.raises(UserError, match="byte-causal"):
        score_documents(model, params, looking_ahead, DOCUMENTS, **ROW)


def test_boundaries_that_look_ahead_are_charged():
    """The nats of the bytes, the words given, and what it costs to tell the words."""
    model, params = built(hat_config())
    splitter = make_splitter("words+merges=4")
    documents = [b"one of the two and one of the three\n" * 2, b"", b"x of the"]
    row = dict(row_length=128, row_words=64, batch_size=1)
    alone = np.asarray(whole_nats(model, params, hat_batch(documents, splitter, 128)))
    for document, score, nats in zip(
        documents, score_documents(model, params, splitter, documents, **row), alone
    ):
        told = splitter.boundary_nats(np.frombuffer(document, np.uint8))
        expected = nats[: len(document) + 1] + np.append(told, 0)
        np.testing.assert_allclose(score.nats, expected, rtol=0, atol=TOLERANCE)
        assert bool(told.any()) == (len(document) > 1)


def test_no_documents():
    model, params = built(hat_config())
    assert score_documents(model, params, SmallSplitter(), [], **ROW) == []
