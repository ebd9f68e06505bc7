"""A HAT around a Llama whose words are its tokens: what its blocks read, and what it learns from."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hat.data.loader import Loader
from hat.errors import UserError
from hat.inference.run import load_run
from hat.training import loop
from hat.training.converted_run import write_run
from hat.training.distill_config import (
    ByteCrossEntropy,
    ChunkLikelihood,
    DistillConfig,
    NextBytes,
    WordEmbeddings,
)
from hat.training.experiment import Experiment
from hat.training.objectives import make_objective
from hat.training.spellings import IDS, WORDS, _rows, fit_encoder, spelled_tokens
from tests.models.toy import jit, random_params
from tests.training import tiny

DEVICES = jax.devices()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """In teacher/, the run of a Llama."""
    folder = tmp_path_factory.mktemp("spellings")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAT_CACHE", str(folder / "cache"))
        patch.setattr(jax, "devices", lambda *a: DEVICES[:1])  # compiles faster than for eight
        llama = tiny.llama(folder, "model.stack.num_layers=1")
        (folder / "teacher").mkdir()
        write_run(folder / "teacher", llama, random_params(llama.model.build()))
        loop.prepare_corpus(llama).tokenizer.save(folder / "teacher")
        yield folder


def student(home, *terms, splitter=None) -> Experiment:
    hat = tiny.hat_2025(
        home, "data.row_length=96", "data.row_words=64", "training.batch_size=2",
        f"data.splitter={splitter or f'tokens:{home}/teacher'}",
    )  # fmt: skip
    stack = tiny.llama(home, "model.stack.num_layers=1").model.stack
    training = dataclasses.replace(
        hat.training, objective=DistillConfig(str(home / "teacher"), terms)
    )
    model = dataclasses.replace(hat.model, backbone=stack)
    return dataclasses.replace(hat, model=model, training=training)


@pytest.fixture(scope="module")
def batch(home):
    """Rows that begin documents, and rows that go on in them, beside the teacher's tokens."""
    experiment = student(home, NextBytes())
    annotate = make_objective(experiment).annotate
    loader = Loader(loop.prepare_corpus(experiment), 2, 0, annotate=annotate)
    both = [loader.batch(index) for index in range(2)]
    return {name: np.concatenate([rows[name] for rows in both]) for name in both[0]}


def test_the_blocks_read_what_the_llama_reads(home, batch):
    """Given the Llama's embeddings for its words, the backbone's states are the Llama's."""
    teacher, model = load_run(home / "teacher"), student(home, NextBytes()).model.build()
    params = dict(random_params(model))
    params["backbone"] = {"layers": teacher.params["backbone"]}
    there = batch["word_token"] < batch["teacher_tokens"].shape[1]
    owner = np.where(there, batch["word_token"], 0)
    table = np.asarray(teacher.params["embedding"]["table"])

    def ours(params):
        tokens = jnp.take_along_axis(jnp.asarray(batch["teacher_tokens"]), owner, axis=1)
        return model.module(params).backbone(
            jnp.asarray(table)[tokens], batch["word_segment"], batch["word_position"]
        )

    def theirs(params):
        module = teacher.model.module(params)
        names = ("tokens", "segment", "position")
        rows = {name: batch[f"teacher_{name}"] for name in names}
        return module.run_backbone(module.embedding(rows["tokens"]), rows, slice(0, 1))

    found, expected = jit(ours)(params), np.asarray(jit(theirs)(teacher.params))
    expected = np.take_along_axis(expected, owner[..., None], axis=1)
    assert there.sum() > 100
    # All words but the ends of texts, which nothing follows.
    assert (there | (batch["word_segment"] == 0)).mean() > 0.9
    np.testing.assert_allclose(np.asarray(found)[there], expected[there], rtol=1e-4, atol=1e-5)


def log_softmax(x):
    x = np.asarray(x, np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_next_bytes_are_tokens_read_byte_by_byte_with_their_ends(home, batch):
    """Against the definition: of the tokens that begin with a token's first bytes, what is next; and
    at the first byte of the next token, what any token begins with."""
    experiment = student(home, NextBytes())
    teacher, model = load_run(home / "teacher"), experiment.model.build()
    params = random_params(model, 1)
    loss = make_objective(experiment).loss(0, teacher.params)
    total, (sums, ratios) = jax.device_get(jit(lambda p, b: loss(model, p, b))(params, batch))
    inside, opening = map(log_softmax, jit(lambda p, b: model.module(p)(b))(params, batch))
    names = ("tokens", "segment", "position")
    rows = {name: batch[f"teacher_{name}"] for name in names}
    token = np.exp(log_softmax(jit(teacher.model.logits)(teacher.params, rows)))
    spell = [teacher.tokenizer.token_bytes(i) for i in range(teacher.tokenizer.vocab_size)]
    eot, wanted, count = teacher.tokenizer.eot, 0.0, 0

    def kl(target, logprobs):
        some = target > 0
        return (target[some] * (np.log(target[some]) - logprobs[some])).sum()

    for r, t in zip(*np.nonzero(batch["segment"])):
        last = t + 1 == len(batch["bytes"][r])
        if last or batch["segment"][r, t + 1] != batch["segment"][r, t]:
            continue
        m, after = batch["token"][r, t], batch["token"][r, t + 1]
        count += 1
        own = np.flatnonzero(batch["token"][r] == m)
        if batch["bytes"][r, t] < 256 and own[0] == np.flatnonzero(
            batch["word"][r] == batch["word"][r, t])[0]:  # fmt: skip
            known = bytes(batch["bytes"][r, own[0] : t + 1].astype(np.uint8))
            target = np.zeros(264)
            for i, text in enumerate(spell):
                if text.startswith(known) and i != eot:
                    rest = text[len(known) :]
                    target[rest[0] if rest else 259] += token[r, m - 1, i]
            wanted += kl(target / target.sum(), inside[r, t])
        if batch["word"][r, t + 1] != batch["word"][r, t] and after != m:
            target = np.zeros(264)
            for i, text in enumerate(spell):
                if text and i != eot:
                    target[text[0]] += token[r, after - 1, i]
            target[257] = token[r, after - 1, eot]
            wanted += kl(target / target.sum(), opening[r, batch["word"][r, t + 1]])
    assert ratios["next_bytes"][1] == count == sums.targets
    assert total == pytest.approx(wanted, rel=1e-4) == ratios["next_bytes"][0]
    mean = jax.device_get(jit(model.loss)(params, batch))
    np.testing.assert_allclose(sums, mean, rtol=1e-5)


def test_gradients_of_words_end_before_decoder_and_head(home, batch):
    experiment = student(home, WordEmbeddings(layers=1), ByteCrossEntropy(from_step=9))
    model = experiment.model.build()
    loss = make_objective(experiment).loss(0, load_run(home / "teacher").params)
    slopes = jit(jax.grad(lambda p: loss(model, p, batch)[0]))(random_params(model))
    still = {name for name, part in slopes.items()
             if all(not np.any(leaf) for leaf in jax.tree.leaves(part))}
    assert still == {"decoder", "head"}


def test_an_encoder_learns_to_spell(home):
    teacher, config = load_run(home / "teacher"), student(home, NextBytes()).model
    model, table = config.build(), teacher.params["embedding"]["table"]
    params = random_params(model)

    told = []

    def fit(steps):
        tell = lambda step, distance: told.append(step)  # noqa: E731
        return fit_encoder(config, params, teacher.tokenizer, table, steps, 0, tell)

    before, (encoder, after), (again, _) = fit(1)[1], fit(40), fit(40)
    assert after < 0.9 * before
    assert told == [1] + 2 * [*range(4, 41, 4)]
    jax.tree.map(np.testing.assert_array_equal, encoder, again)
    jax.tree.map(lambda leaf: leaf.block_until_ready(), params["encoder"])  # still there


def test_every_token_comes_before_any_comes_again(home):
    tokenizer = load_run(home / "teacher").tokenizer
    tokens = spelled_tokens(tokenizer, tokenizer.num_ids, 40)
    written = {i for i in range(tokenizer.vocab_size)
               if tokenizer.encode(tokenizer.token_bytes(i)).tolist() == [i]}
    assert sorted(token for token, _ in tokens) == sorted(written | {tokenizer.bos})
    assert len(tokens) > 280 and tokenizer.bos not in written
    assert len(spelled_tokens(tokenizer, tokenizer.num_ids, 1)) == 257  # the bytes, and BOS
    rows, seen = _rows(tokens, np.random.default_rng(0)), []
    while len(seen) < 2 * len(tokens):
        row = {name: values[0] for name, values in next(rows).items()}
        words = int(row["word_segment"].sum())
        assert row["word_token"].tolist() == [n if n < words else WORDS for n in range(WORDS)]
        for n in range(words):
            spelled = row["bytes"][row["word"] == n]
            text = bytes(spelled.astype(np.uint8)) if spelled[0] < 256 else b""
            assert text == tokenizer.token_bytes(int(row["token"][n]))
        assert (row["word"] == WORDS).sum() == IDS - sum(row["word"] < WORDS)
        seen += row["token"][:words].tolist()
    assert sorted(seen[: len(tokens)]) == sorted(token for token, _ in tokens)


def test_what_such_a_hat_cannot_learn_from(home):
    with pytest.raises(UserError, match="ChunkLikelihood is for a HAT of bytes alone"):
        make_objective(student(home, ChunkLikelihood()))
    with pytest.raises(UserError, match="data.splitter is 'words'; set it to tokens:PATH"):
        make_objective(student(home, NextBytes(), splitter="words"))
    make_objective(student(home, WordEmbeddings(), splitter="words"))  # at ends of tokens alone
    config = dataclasses.replace(student(home, NextBytes()).model, word_bytes=1)
    tokenizer, params = load_run(home / "teacher").tokenizer, random_params(config.build())
    with pytest.raises(UserError, match="no token has at most"):
        fit_encoder(config, params, tokenizer, np.zeros((0, 16)), 1, 0)
