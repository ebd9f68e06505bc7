"""The objective with a teacher: its terms on a real batch, what learns from them, stages, resume."""

from __future__ import annotations

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hat.config import from_dict, override, to_dict
from hat.data.loader import Loader
from hat.errors import UserError
from hat.inference.run import load_run
from hat.training import loop
from hat.training.config import MeshConfig, PartConfig
from hat.training.converted_run import write_run
from hat.training.distill_config import (
    ByteCrossEntropy,
    ByteProbabilities,
    ChunkLikelihood,
    DistillConfig,
    NextBytes,
    WordEmbeddings,
)
from hat.training.experiment import EXPERIMENT_CLASSES
from hat.training.metrics import read_metrics
from hat.training.objectives import Openers, make_objective
from hat.training.program import Program
from hat.training.sharding import batch_sharding, make_mesh, param_shardings
from tests.models.toy import jit, random_params
from tests.training import tiny

TERMS = (
    ByteCrossEntropy(weight=0.5),
    NextBytes(),
    ByteProbabilities(),
    ChunkLikelihood(),
    ChunkLikelihood(spans="tokens", temperature=2.0),
    WordEmbeddings(),
    WordEmbeddings(layers=1),
)
DEVICES = jax.devices()
WHITE = [*b" \t\n\v\f\r"]


class Uniform:
    """A teacher that knows nothing."""

    def logprobs_of(self, texts):
        return [np.full((len(text) + 1, 257), -np.log(257), np.float32) for text in texts]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a text and, in teacher/, the run of a Llama as wide as the HAT's backbone."""
    folder = tmp_path_factory.mktemp("distillation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAT_CACHE", str(folder / "cache"))
        patch.setattr(jax, "devices", lambda *a: DEVICES[:1])  # compiles faster than for eight
        llama = tiny.llama(
            folder, "model.stack.hidden_size=32", "model.stack.num_layers=1",
            "data.heldout_fraction=0.2",
        )  # fmt: skip
        (folder / "teacher").mkdir()
        write_run(folder / "teacher", llama, random_params(llama.model.build()))
        loop.prepare_corpus(llama).tokenizer.save(folder / "teacher")
        yield folder


def student(home, *terms, parts=(), changes=()):
    small = ("model.backbone.num_layers=1", "training.batch_size=2")
    experiment = tiny.experiment(home, *small, *changes)
    training = dataclasses.replace(
        experiment.training,
        objective=DistillConfig(str(home / "teacher"), tuple(terms), bytes_per_token=1.25),
        optimizer=dataclasses.replace(experiment.training.optimizer, parts=parts),
    )
    return dataclasses.replace(experiment, training=training)


@pytest.fixture(scope="module")
def terms(home):
    """All terms on one batch: the batch, both models with parameters, the ratios, and by name of a
    term the gradient that it alone gives, as jitted functions' results."""
    experiment = student(home, *TERMS)
    objective = make_objective(experiment, Openers(lambda folder: Uniform()))
    loader = Loader(loop.prepare_corpus(experiment), 2, 0, annotate=objective.annotate)
    batch = {name: jnp.asarray(rows) for name, rows in loader.batch(0).items()}
    teacher = load_run(home / "teacher")
    model = experiment.model.build()
    params = random_params(model, 1)

    def run(params, batch, frozen):
        return objective.loss(0, frozen)(model, params, batch)

    total, (sums, ratios) = jax.device_get(jit(run)(params, batch, teacher.params))
    return experiment, jax.device_get(batch), teacher, model, params, total, sums, ratios


def log_softmax(x):
    x = np.asarray(x, np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.fixture(scope="module")
def distributions(terms):
    """Natural log-probabilities of the next byte [B, T, 257] and the next token [B, M, ids]."""
    _, batch, teacher, model, params, *_ = terms
    logits = jit(model.logits)(params, batch)
    names = ("tokens", "segment", "position")
    rows = {name: batch[f"teacher_{name}"] for name in names}
    columns = np.r_[:256, 257]
    return (
        log_softmax(logits)[..., columns],
        log_softmax(jit(teacher.model.logits)(teacher.params, rows)),
    )


def token_spans(batch, tokenizer, words: bool):
    """Per row, the spans of every document as (ids of the row, tokens, whether it is closed)."""
    for r in range(len(batch["bytes"])):
        owner, tokens = batch["token"][r], batch["teacher_tokens"][r]
        for number in range(1, batch["segment"][r].max() + 1):
            inside = np.flatnonzero(batch["teacher_segment"][r] == number)[1:]
            runs = []
            for m in inside:
                first = tokenizer.token_bytes(int(tokens[m]))[:1]
                white = first in [bytes([w]) for w in WHITE] or tokens[m] == tokenizer.eot
                if not words or white or not runs:
                    runs.append([])
                runs[-1].append(m)
            for at, run in enumerate(runs):
                ids = np.flatnonzero(np.isin(owner, run))
                is_end = tokens[run[0]] == tokenizer.eot
                end = ids[-1] + 1
                more = end < len(owner) and batch["segment"][r][end] == number
                closes = more and batch["bytes"][r][end] in [*WHITE, 257]
                whole = at + 1 < len(runs) or closes  # else cut off by the end of the row
                if not words or is_end or (whole and closes):
                    yield r, ids, run, words and not is_end


@pytest.mark.parametrize(
    ("name", "words", "temperature"),
    [("chunk_likelihood/words", True, 5.0), ("chunk_likelihood/tokens", False, 2.0)],
)
def test_chunks_are_the_equation_span_by_span(terms, distributions, name, words, temperature):
    _, batch, teacher, *_, ratios = terms
    byte, token = distributions
    closers = [teacher.tokenizer.token_bytes(i)[:1] in [bytes([w]) for w in WHITE]
               for i in range(token.shape[-1])]
    closers[teacher.tokenizer.eot] = True
    total, count = 0.0, 0
    for r, ids, run, closed in token_spans(batch, teacher.tokenizer, words):
        spelled = np.minimum(batch["bytes"][r][ids], 256)  # the end of the text is column 256
        p = sum(token[r, m - 1, batch["teacher_tokens"][r][m]] for m in run)
        q = sum(byte[r, t - 1, c] for t, c in zip(ids, spelled))
        if closed:
            p += np.log(np.exp(token[r, run[-1]][closers]).sum())
            q += np.log(np.exp(byte[r, ids[-1]][[*WHITE, 256]]).sum())
        p, q = np.exp(p / temperature), np.exp(q / temperature)
        total += p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        count += 1
    assert count > 10 and ratios[name][1] == count
    assert ratios[name][0] == pytest.approx(total, rel=1e-4)  # float32 logits of both models


def test_next_bytes_are_tokens_added_up(terms, distributions):
    _, batch, teacher, *_, ratios = terms
    byte, token = distributions
    spell = [teacher.tokenizer.token_bytes(i) for i in range(teacher.tokenizer.vocab_size)]
    total = count = 0
    for r, t in zip(*np.nonzero(batch["segment"])):
        if t + 1 == len(batch["bytes"][r]) or batch["position"][r, t + 1] == 0:
            continue
        m = batch["token"][r, t + 1]
        if batch["segment"][r, t + 1] == 0 or m >= batch["teacher_tokens"].shape[1]:
            continue
        own = batch["bytes"][r][batch["token"][r] == m]
        known = bytes(own[: t + 1 - np.flatnonzero(batch["token"][r] == m)[0]].astype(np.uint8)
                      ) if own[0] < 256 else b""
        target = np.zeros(257)
        for i, text in enumerate(spell):
            if text.startswith(known) and len(text) > len(known):
                target[text[len(known)]] += np.exp(token[r, m - 1, i])
        if not known:
            target[256] = np.exp(token[r, m - 1, teacher.tokenizer.eot])
        target /= target.sum()
        some = target > 0
        total += (target[some] * (np.log(target[some]) - byte[r, t][some])).sum()
        count += 1
    assert ratios["next_bytes"][1] == count == ratios["teacher_share"][0]
    assert ratios["next_bytes"][0] == pytest.approx(total, rel=1e-4)


def test_other_terms_and_the_sum(terms, distributions):
    experiment, batch, teacher, model, params, total, sums, ratios = terms
    byte, _ = distributions
    targets = model.targets(batch)
    exact = (-np.log(257) - byte.mean(-1))[np.asarray(targets.mask)].sum()
    assert ratios["byte_probabilities"][0] == pytest.approx(exact, rel=1e-4)
    assert ratios["byte_probabilities"][1] == sums.targets
    embedded = np.asarray(teacher.params["embedding"]["table"])[batch["teacher_tokens"]]
    words = np.asarray(model.module(params).read(batch)[1], np.float64)
    distance = count = 0
    for r, n in zip(*np.nonzero(batch["word_token"] < embedded.shape[1])):
        there = embedded[r, batch["word_token"][r, n]].astype(np.float64)
        distance += ((words[r, n] - there) ** 2).sum() / (there**2).sum()
        count += 1
    assert ratios["word_embeddings/0"][1] == count == ratios["word_embeddings/1"][1] > 5
    assert ratios["word_embeddings/0"][0] == pytest.approx(distance, rel=1e-4)
    parts = sum(float(ratio[0]) for name, ratio in ratios.items() if name != "teacher_share")
    assert total == pytest.approx(0.5 * float(sums.nats) + parts, rel=1e-5)
    mean = jax.device_get(jit(model.loss)(params, batch))
    np.testing.assert_allclose(sums, mean, rtol=1e-5)


def test_gradients_reach_what_a_term_is_of(terms, home):
    """The embedding terms end before decoder and head, the first of them before the backbone."""
    experiment, batch, teacher, model, params, *_ = terms
    for term, silent in (
        (WordEmbeddings(), {"backbone", "decoder", "head"}),
        (WordEmbeddings(layers=1), {"decoder", "head"}),
    ):
        objective = make_objective(student(home, term))

        def total(params, frozen, objective=objective):
            return objective.loss(0, frozen)(model, params, batch)[0]

        slopes = jit(jax.grad(total))(params, teacher.params)
        still = {name for name, part in slopes.items()
                 if all(not np.any(leaf) for leaf in jax.tree.leaves(part))}
        assert still == silent


# --- runs -----------------------------------------------------------------------------------------


def params_of(folder):
    return jax.tree.map(np.asarray, load_run(folder).params)


STAGES = (
    WordEmbeddings(until_step=3),
    NextBytes(),
    ChunkLikelihood(from_step=3),
    ByteCrossEntropy(from_step=3),
)
CHANGES = ("training.steps=6", "training.log_every_steps=1")


@pytest.fixture(scope="module")
def whole(home):
    frozen = (PartConfig("backbone", multiplier=0.1, freeze_until_step=5),)
    experiment = student(home, *STAGES, parts=frozen, changes=CHANGES)
    loop.train(experiment, home / "whole")
    return experiment


def test_stages_report_their_terms(home, whole):
    lines = [line for line in read_metrics(home / "whole" / "metrics.jsonl") if "loss" in line]
    first = {"next_bytes", "word_embeddings/0", "teacher_share"}
    second = {"next_bytes", "chunk_likelihood/words", "teacher_share"}
    for step, line in enumerate(lines, start=1):
        names = {name for name in line if name in first | second}
        assert names == (first if step <= 3 else second)
        assert 0.5 < line["teacher_share"] <= 1.0
    assert lines[-1]["next_bytes"] < lines[0]["next_bytes"]


def test_a_stage_resumes_in_its_middle(home, whole, monkeypatch):
    """Bit for bit; and until its step the backbone is what it was, while the rest moves."""
    with monkeypatch.context() as patch:
        patch.setattr(loop.Position, "finished", lambda self, config: self.step >= 4)
        loop.train(whole, home / "parts")
    stopped = params_of(home / "parts")
    loop.train(whole, home / "parts")
    ended = params_of(home / "parts")
    jax.tree.map(np.testing.assert_array_equal, ended, params_of(home / "whole"))
    plain = dataclasses.replace(whole.training, objective=None)
    fresh = Program(dataclasses.replace(whole, training=plain), []).init().params
    same = functools.partial(jax.tree.map, np.array_equal)
    assert all(jax.tree.leaves(same(fresh["backbone"], stopped["backbone"])))
    assert not any(jax.tree.leaves(same(fresh["connector"], stopped["connector"])))
    assert not any(jax.tree.leaves(same(stopped["backbone"], ended["backbone"])))


def test_eight_devices_agree_with_one(home, terms):
    """The same sums in another order, in float32; spans and words are of rows, wherever these
    lie. Eight rows: the batch four times over."""
    if len(DEVICES) < 8:
        pytest.skip("needs 8 virtual devices, set by tests/conftest.py")
    experiment, batch, teacher, model, params, *_, ratios = terms
    objective = make_objective(experiment, Openers(lambda folder: Uniform()))
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2), DEVICES[:8])
    batch = jax.device_put(
        {name: np.tile(rows, (4, 1) + (1,) * (rows.ndim - 2)) for name, rows in batch.items()},
        batch_sharding(mesh),
    )
    params, frozen = (
        jax.device_put(tree, param_shardings(mesh, of.logical_axes(), of.abstract_params()))
        for tree, of in ((params, model), (teacher.params, teacher.model))
    )

    def run(params, batch, frozen):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return objective.loss(0, frozen)(model, params, batch)[1][1]

    found = jax.device_get(jit(run)(params, batch, frozen))
    jax.tree.map(
        lambda many, one: np.testing.assert_allclose(many, 4 * one, rtol=1e-4), found, ratios
    )


# --- what is refused ------------------------------------------------------------------------------


def test_configs_survive_storage_and_set(home):
    experiment = student(home, *TERMS)
    stored = json.loads(json.dumps(to_dict(experiment)))
    assert from_dict(stored, EXPERIMENT_CLASSES) == experiment
    changed = override(experiment, ["training.objective.terms.3.temperature=2"])
    assert changed.training.objective.terms[3].temperature == 2.0
    assert override(experiment, ["training.objective=none"]).training.objective is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ByteCrossEntropy(weight=0), "weight 0"),
        (lambda: NextBytes(from_step=5, until_step=5), "from_step 5"),
        (lambda: ChunkLikelihood(spans="lines"), "use 'tokens' or 'words'"),
        (lambda: ChunkLikelihood(temperature=0.0), "temperature 0.0"),
        (lambda: WordEmbeddings(layers=-1), "layers -1"),
        (lambda: DistillConfig("x", (NextBytes(from_step=3),)), "none from step 0"),
        (lambda: DistillConfig("x", (NextBytes(until_step=3),)), "none from step 3"),
        (lambda: DistillConfig("x", bytes_per_token=0.5), "bytes_per_token 0.5"),
        (lambda: DistillConfig(""), "teacher is empty"),
    ],
)
def test_configs_are_checked(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_teachers_that_do_not_fit_are_refused(home):
    with pytest.raises(UserError, match="layers=2, but the backbone has 1 and the teacher 1"):
        make_objective(student(home, WordEmbeddings(layers=2)))
    wide = student(home, WordEmbeddings(), changes=("model.backbone.hidden_size=48",))
    with pytest.raises(UserError, match="width 48 with the teacher's of 32"):
        make_objective(wide)
    with pytest.raises(UserError, match="exact byte probabilities"):
        make_objective(student(home, ByteProbabilities()))
    missing = override(student(home, NextBytes()), ["training.objective.teacher=nowhere"])
    with pytest.raises(UserError, match="no run in nowhere"):
        make_objective(missing)
    with pytest.raises(UserError, match="distils into a HAT"):
        tiny.llama(home, "training.objective=none").__class__(
            **{**vars(tiny.llama(home)), "training": student(home, NextBytes()).training}
        )
