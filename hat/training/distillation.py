"""A HAT trained beside a subword Llama: the objective whose terms hat.training.distill_config names.

The teacher reads the same documents in its own tokens (hat.text.alignment), inside the jitted
step, with parameters that are an argument of the step and sharded like any others. A stage runs
only what its terms need.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hat import config as configs
from hat.errors import UserError
from hat.models.hat import NUM_BYTES, HatModel
from hat.models.hat_2025 import Hat2025Config, Hat2025Model, place_in_word, word_begins
from hat.models.llama import LlamaConfig, LlamaModel
from hat.models.model import (
    Batch,
    Params,
    Targets,
    cross_entropy,
    next_ids,
    sums_of,
)
from hat.text.alignment import WHITE_SPACE, TokenView, document_bytes, segment_bounds
from hat.text.splitters import make_splitter
from hat.text.token_words import TokenWords
from hat.text.tokenizers import ByteTokenizer, Tokenizer, load_tokenizer
from hat.training import distill_losses as losses
from hat.training.converted_run import read_params
from hat.training.distill_config import (
    AnyTerm,
    ByteCrossEntropy,
    ByteProbabilities,
    ChunkLikelihood,
    DistillConfig,
    NextBytes,
    WordEmbeddings,
)
from hat.training.experiment import Experiment
from hat.training.objectives import (
    ByteTeacher,
    ByteTeacherOpener,
    HostBatch,
    Loss,
    Measures,
    Objective,
    language_modelling,
)
from hat.training.run_folder import read_experiment
from hat.training.stored_probabilities import StoredProbabilities
from hat.training.students import Student, at_depths, run_student

BLOCK_LOGITS = 1 << 22  # of the teacher at a time, in every row
NUM_OUTCOMES = losses.NUM_OUTCOMES


class Teacher(NamedTuple):
    """What the teacher makes of a batch. states: [B, M, D] after so many layers. Of its tokens:
    nats [B, M] of the next one, 0 where there is none, and closing [B, M], the log-probability that
    white space or the end of the text is next. last: [B, M, D], what its head scores."""

    states: dict[int, jax.Array]
    nats: jax.Array
    closing: jax.Array
    last: jax.Array


class Distillation(Objective):
    """The objective of a `DistillConfig`.

    teacher: its model; tokenizer: that spelled its training text; folder: of its run, for its
    parameters. byte_teacher: for the term ByteProbabilities.
    """

    def __init__(
        self,
        config: DistillConfig,
        teacher: LlamaModel,
        tokenizer: Tokenizer,
        folder: Path | None = None,
        byte_teacher: ByteTeacher | None = None,
    ):
        self._config, self._teacher, self._folder = config, teacher, folder
        self._byte_teacher = byte_teacher
        self._view = TokenView(tokenizer, teacher.config.eot, config.bytes_per_token)
        first = [tokenizer.token_bytes(token)[:1] for token in range(teacher.config.num_ids)]
        white = [b != b"" and b in WHITE_SPACE for b in first]
        white[teacher.config.eot] = True
        self._closers = np.array(white)
        self._vocabulary = self._view.vocabulary.continuations
        self.starts = config.starts
        self.frozen = teacher.abstract_params()
        self.frozen_axes = teacher.logical_axes()

    @classmethod
    def open(
        cls, experiment: Experiment, byte_teacher: ByteTeacherOpener | None = None
    ) -> Distillation:
        """Of an experiment. UserError: no such teacher, one that is no Llama, or another width
        where states are compared."""
        config = experiment.training.objective
        folder = Path(config.teacher)
        run = read_experiment(folder)
        if not isinstance(run.model, LlamaConfig):
            raise UserError(f"teacher {folder} is a HAT; give the run of a subword Llama")
        student, stack = experiment.model.backbone, run.model.stack
        for term in config.terms:
            if not isinstance(term, WordEmbeddings):
                continue
            if student.hidden_size != stack.hidden_size:
                raise UserError(
                    f"WordEmbeddings compares states of width {student.hidden_size} with the "
                    f"teacher's of {stack.hidden_size}; make model.backbone.hidden_size equal"
                )
            if term.layers > min(student.num_layers, stack.num_layers):
                raise UserError(
                    f"WordEmbeddings: layers={term.layers}, but the backbone has "
                    f"{student.num_layers} and the teacher {stack.num_layers}"
                )
        flat = run.data.tokenizer == "bytes"
        tokenizer = ByteTokenizer() if flat else load_tokenizer(folder)
        if tokenizer.vocab_size > run.model.num_ids:
            raise UserError(
                f"{folder}: its tokenizer has {tokenizer.vocab_size} tokens and its embedding "
                f"{run.model.num_ids} rows; put its own tokenizer there"
            )
        if isinstance(experiment.model, Hat2025Config):
            _check_spelling(config, experiment.data.splitter, tokenizer)
        exact = _open_byte_teacher(config, byte_teacher, origin_of(run, tokenizer))
        return cls(config, run.model.build(), tokenizer, folder, exact)

    def read_frozen(self, shardings: Params) -> Params:
        return read_params(self._folder, self._teacher, shardings)

    def annotate(self, batch: HostBatch, number: int) -> HostBatch:
        batch = batch | self._view(batch)
        if self._byte_teacher is None:
            return batch
        # Of what follows every id, float32; zeros at padding.
        out = np.zeros((*batch["bytes"].shape, NUM_OUTCOMES), np.float32)
        found = list(row_texts(batch))
        logprobs = self._byte_teacher.logprobs_of([text for _, _, text in found])
        for (row, begin, text), its in zip(found, logprobs, strict=True):
            out[row, begin : begin + len(text) + 1] = its
        return batch | {"byte_logprobs": out.view(np.int32)}  # batches are int32

    def loss(self, stage: int, frozen: Params) -> Loss:
        terms = self._config.active(self.starts[stage])
        if all(isinstance(term, ByteCrossEntropy) for term in terms):
            weight = sum(term.weight for term in terms)
            return functools.partial(_scaled, language_modelling, weight)
        return functools.partial(self._distillation, terms, frozen)

    def _distillation(
        self,
        terms: tuple[AnyTerm, ...],
        frozen: Params,
        model: HatModel | Hat2025Model,
        params: Params,
        batch: Batch,
    ) -> tuple[jax.Array, Measures]:
        depths = {term.layers for term in terms if isinstance(term, WordEmbeddings)}
        teacher = self._run_teacher(frozen, batch, depths)
        student = run_student(model, params, batch, depths)
        targets = model.targets(batch)
        sums = sums_of(student.nats, student.correct, targets, model.words(batch))
        taught = targets.mask & (losses.following(batch["token"]) < teacher.nats.shape[1])
        ratios = {"teacher_share": (jnp.sum(taught, dtype=jnp.float32), sums.targets)}

        total = jnp.zeros(())
        for term in terms:
            if isinstance(term, ByteCrossEntropy):
                total += term.weight * sums.nats
                continue
            if isinstance(term, WordEmbeddings):
                name = f"word_embeddings/{term.layers}"
                mine, there = student.states[term.layers], teacher.states[term.layers]
                part = losses.word_distance(mine, there, batch["word_token"])
            elif isinstance(term, ChunkLikelihood):
                name = f"chunk_likelihood/{term.spans}"
                part = self._chunks(term, teacher, student, batch)
            elif isinstance(term, NextBytes):
                name = "next_bytes"
                part = self._next_bytes(frozen, teacher.last, student, taught, batch)
            else:
                name = "byte_probabilities"
                exact = jax.lax.bitcast_convert_type(batch["byte_logprobs"], jnp.float32)
                part = losses.byte_kl(jnp.exp(exact), student.logprobs, targets.mask)
            total += term.weight * part[0]
            ratios[name] = part
        return total, (sums, ratios)

    # --- the teacher ------------------------------------------------------------------------------

    def _run_teacher(self, frozen: Params, batch: Batch, depths: Iterable[int]) -> Teacher:
        names = ("tokens", "segment", "position")
        rows = {name: batch[f"teacher_{name}"] for name in names}
        module = self._teacher.module(frozen)
        states, last = at_depths(
            lambda x, part: module.run_backbone(x, rows, part),
            module.embedding(rows["tokens"]),
            depths,
            self._teacher.config.stack.num_layers,
        )
        ids, mask = next_ids(rows["tokens"], rows["segment"])

        def score(last, ids, mask):
            logits = module.head(last, module.embedding.table[...])
            logprobs = jax.nn.log_softmax(logits)
            nats, _ = cross_entropy(logits, Targets(ids, mask, mask))
            closers = jnp.where(self._closers, logprobs, -jnp.inf)
            return nats, jax.nn.logsumexp(closers, axis=-1)

        nats, closing = losses.in_blocks(score, self._block, last, ids, mask)
        return Teacher(states, nats, closing, last)

    @property
    def _block(self) -> int:
        """Positions whose logits of the teacher are held at a time."""
        return max(16, BLOCK_LOGITS // self._teacher.config.num_ids)

    def _chunks(
        self, term: ChunkLikelihood, teacher: Teacher, student: Student, batch: Batch
    ) -> losses.Total:
        rooms = teacher.nats.shape[1]
        names = ("span", "closed", "token_span", "token_closed")
        span, closed, token_span, token_closed = (batch[name] for name in names)
        if term.spans == "tokens":
            # A span a token, and nothing that closes it; BOS, which nobody predicts, is none.
            inside = batch["teacher_position"] > 0
            number = jnp.broadcast_to(jnp.arange(rooms), inside.shape)
            token_span, token_closed = jnp.where(inside, number, rooms), 0 * token_closed
            span = jnp.where(batch["position"] > 0, batch["token"], rooms)
            closed = 0 * closed
        white = student.logprobs[..., [*WHITE_SPACE, NUM_OUTCOMES - 1]]
        closing = jax.nn.logsumexp(white, axis=-1)
        mine, there = losses.span_logprobs(student.nats, closing, span, closed, rooms)
        taught, _ = losses.span_logprobs(
            teacher.nats, teacher.closing, token_span, token_closed, rooms
        )
        return losses.chunk_likelihood(taught, mine, there, term.temperature)

    def _next_bytes(
        self, frozen: Params, last: jax.Array, student: Student, taught: jax.Array, batch: Batch
    ) -> losses.Total:
        """As the term says; taught: bool [B, T], whether the teacher predicts what comes next."""
        after = losses.following
        count = jnp.sum(taught, dtype=jnp.float32)
        depth, token = batch["depth"], batch["token"]
        if student.opening is None:
            ranges = after(batch["low"]), after(batch["high"])
            target = self._outcomes(frozen, last, after(token), after(depth), *ranges)
            kl, _ = losses.byte_kl(target[..., :NUM_OUTCOMES], student.logprobs, taught)
            return kl, count
        # Inside a word: what goes on from its bytes so far, or its end. Where a row begins in the
        # middle of a text, the teacher may cut its first tokens otherwise.
        word, words = batch["word"], batch["word_segment"]
        inside = taught & (batch["bytes"] < NUM_BYTES) & (place_in_word(word) == depth)
        ranges = batch["own_low"], batch["own_high"]
        target = self._outcomes(frozen, last, token, depth + 1, *ranges)
        within, _ = losses.byte_kl(target, student.logprobs, inside)
        # What opens a word is predicted at the byte before it.
        first = jnp.minimum(word_begins(word, words.shape[1]), word.shape[1] - 1)
        before = jnp.maximum(first - 1, 0)
        opens = (words > 0) & (first > 0) & jnp.take_along_axis(taught, before, axis=1)
        opens &= jnp.take_along_axis(depth, first, axis=1) == 0
        token, none = jnp.take_along_axis(token, first, axis=1), jnp.zeros_like(first)
        every = jnp.full_like(first, len(self._vocabulary.order))
        target = self._outcomes(frozen, last, token, none, none, every)[..., :NUM_OUTCOMES]
        opening, _ = losses.byte_kl(target, student.opening, opens)
        return within + opening, count

    def _outcomes(
        self, frozen: Params, last: jax.Array, token: jax.Array, depth, low, high
    ) -> jax.Array:
        """Probabilities [B, P, 258] of what comes next in a token of the teacher, by its index int
        [B, P], of which `depth` bytes are known, among the sorted tokens from low to before high."""
        module = self._teacher.module(frozen)
        before = jnp.clip(token - 1, 0, last.shape[1] - 1)  # where it is predicted
        last = jnp.take_along_axis(last, before[..., None], axis=1)
        table = jnp.asarray(self._vocabulary.next_bytes, jnp.int32)

        def score(last, depth, low, high):
            logits = module.head(last, module.embedding.table[...])
            logits = logits[..., self._vocabulary.order]
            return losses.next_byte_probabilities(logits, depth, low, high, table)

        return losses.in_blocks(score, self._block, last, depth, low, high)


def row_texts(batch: HostBatch) -> Iterator[tuple[int, int, bytes]]:
    """Row, first id and text of every document, or piece of one, in a batch of HAT rows."""
    for row, (ids, segment) in enumerate(zip(batch["bytes"], batch["segment"])):
        for begin, end in segment_bounds(segment):
            yield row, begin, document_bytes(ids[begin:end])


def _check_spelling(config: DistillConfig, splitter: str, tokenizer: Tokenizer) -> None:
    """UserError: terms that a HAT cannot learn from that predicts where its words end."""
    for term in config.terms:
        if isinstance(term, (ChunkLikelihood, ByteProbabilities)):
            raise UserError(
                f"{type(term).__name__} is for a HAT of bytes alone, and this one predicts where its "
                "words end too; use NextBytes"
            )
    if not any(isinstance(term, NextBytes) for term in config.terms):
        return
    rule = make_splitter(splitter)
    if not isinstance(rule, TokenWords) or rule.tokenizer.name != tokenizer.name:
        raise UserError(
            f"NextBytes: the model predicts where its words end, which the teacher knows of its "
            f"own tokens alone, and data.splitter is {splitter!r}; set it to tokens:PATH with "
            "the teacher's tokenizer"
        )


def origin_of(teacher: Experiment, tokenizer: Tokenizer) -> dict[str, Any]:
    """What tells a teacher from another, kept beside stored probabilities; JSON."""
    return {"model": configs.to_dict(teacher.model), "tokenizer": tokenizer.name}


def _open_byte_teacher(
    config: DistillConfig, opener: ByteTeacherOpener | None, origin: dict[str, Any]
) -> ByteTeacher | None:
    """For the term ByteProbabilities; None: there is no such term."""
    stored = {term.stored for term in config.terms if isinstance(term, ByteProbabilities)}
    if not stored:
        return None
    if len(stored) > 1:
        raise UserError("terms: ByteProbabilities are stored in two places; give one")
    folder = stored.pop()
    if folder is not None:
        probabilities = StoredProbabilities(Path(folder))
        found = {name: probabilities.origin.get(name) for name in origin}
        if differing := configs.differences(found, origin, ("stored", "teacher")):
            raise UserError(f"{folder} is of another teacher: {'; '.join(differing[:4])}")
        return probabilities
    if opener is None:
        raise UserError(
            "ByteProbabilities needs exact byte probabilities of the teacher, which this "
            "command cannot give; store them with hat byte-exact store, or use NextBytes"
        )
    return opener(config.teacher)


def _scaled(loss: Loss, weight: float, model, params, batch) -> tuple[jax.Array, Measures]:
    total, measures = loss(model, params, batch)
    return weight * total, measures
