"""Training, from an experiment to a finished run. Read `train` from top to bottom."""

from __future__ import annotations

import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import jax
import numpy as np

from hat import __version__
from hat import config as configs
from hat.data.corpus import Corpus
from hat.data.loader import Loader
from hat.data.prepare import prepare_cached
from hat.errors import UserError
from hat.models.model import LanguageModel, Params, Sums
from hat.training.checkpoints import Checkpoints
from hat.training.experiment import Experiment
from hat.training.optimizer import learning_rate
from hat.training.position import Clock, Position
from hat.training.program import Program
from hat.training.progress import Stages, warn
from hat.training.report import Report
from hat.training.run_folder import open_run
from hat.training.step import StepMetrics, TrainState

# Continues the configured prompts with the model as it stands, for a person to read.
Sampler = Callable[[Experiment, LanguageModel, Params, Corpus], list[str]]


def train(experiment: Experiment, out_dir: str | Path, sampler: Sampler | None = None) -> dict:
    """Trains, or goes on training, the run in `out_dir`; returns its result, ready for JSON.

    Everything that a run leaves is in `out_dir` (see hat.training.run_folder). UserError: bad
    data, another run's folder, devices that do not fit, a full disk, a loss that is never finite.
    """
    config, folder = experiment.training, Path(out_dir)
    changed = open_run(folder, experiment)
    corpus = prepare_corpus(experiment)
    loader = Loader(
        corpus, config.batch_size, config.seed, "train", jax.process_index(), jax.process_count()
    )
    program = Program(experiment, global_shapes(loader, config.batch_size))
    if corpus.tokenizer and jax.process_index() == 0:
        corpus.tokenizer.save(folder)  # so that the folder is all that a reader of the run needs

    with ExitStack() as stack:
        checkpoints = stack.enter_context(closing(Checkpoints(folder, config.checkpoint)))
        position, state = start(experiment, program, corpus, checkpoints)
        report = stack.enter_context(Report(experiment, folder, position))
        for line in changed:
            report.say(f"changed since the run began: {line}")
        report.say(
            f"compiling for {jax.device_count()} {jax.devices()[0].platform} device(s), then "
            f"training from step {position.step}"
        )
        program.compile()
        run = Run(experiment, program, corpus, checkpoints, report, position, state, sampler)

        stop = stack.enter_context(stop_on_sigterm())
        batches = stack.enter_context(closing(loader.iterate(position.step)))
        while not run.position.finished(config) and not stop.is_set():
            run.step(next(batches), loader.wait_seconds)
            if run.due(config.evaluate_every_steps):
                run.evaluate("validation" if corpus.num_rows("validation") else "heldout")
            if run.due(config.sample_every_steps):
                run.sample()
            run.save()

        run.save(force=True)
        if stop.is_set():
            report.say(f"stopped at step {run.position.step}, saved; the same command resumes")
            return report.stopped(run.position)
        return report.finish(run.position, run.evaluate("heldout"), run.sample())


class Run:
    """A run under way: its state, where it stands, and what is done with them."""

    def __init__(
        self,
        experiment: Experiment,
        program: Program,
        corpus: Corpus,
        checkpoints: Checkpoints,
        report: Report,
        position: Position,
        state: TrainState,
        sampler: Sampler | None,
    ):
        self.position = position
        self._experiment, self._program, self._corpus = experiment, program, corpus
        self._checkpoints, self._report, self._sampler = checkpoints, report, sampler
        self._state = state
        self._clock = Clock(position.seconds)
        self._flying: tuple[int, float, StepMetrics] | None = None  # launched, not yet read

    def step(self, batch: dict[str, np.ndarray], waited: float) -> None:
        """Launches one step, then reads what the step before it has measured.

        So the device always has its next step waiting, and never more than two are under way.
        """
        config = self._experiment.training
        rate = learning_rate(config.schedule, self.position.progress(config))
        rate *= config.optimizer.learning_rate
        self._state, metrics = self._program.step(self._state, self._program.place(batch), rate)
        before, self._flying = self._flying, (self.position.step + 1, rate, metrics)
        self._land(before, waited)
        self.position = self.position.launched(self._clock.read())

    def due(self, every_steps: int | None) -> bool:
        return every_steps is not None and self.position.step % every_steps == 0

    def evaluate(self, split: str) -> Sums | None:
        """The sums of a split, reported; None if it is empty."""
        self._land_all()
        if not self._corpus.num_rows(split):
            return None
        with self._clock.paused():
            batches = self._corpus.batches(split, self._experiment.training.batch_size)
            sums = self._program.evaluate(self._state.params, batches)
        self._report.evaluation(self.position, split, sums)
        return sums

    def sample(self) -> list[str]:
        """Texts that the model writes now, reported."""
        self._land_all()
        if self._sampler is None:
            return []
        with self._clock.paused():
            texts = self._sampler(
                self._experiment, self._program.model, self._state.params, self._corpus
            )
        self._report.samples(self.position, texts)
        return texts

    def save(self, *, force: bool = False) -> None:
        """Saves if a checkpoint is due, or if `force`, and then waits until it is on disk."""
        if force:
            self._land_all()
        with self._clock.paused():
            meta = dataclasses.asdict(self.position) | {
                "experiment": configs.to_dict(self._experiment),
                "corpus": self._corpus.info.fingerprint,
                "version": __version__,
            }
            self._checkpoints.save(self.position.step, self._state, meta, force=force)
            if force:
                self._checkpoints.wait()

    def _land_all(self) -> None:
        last, self._flying = self._flying, None
        self._land(last, waited=None)

    def _land(self, flight: tuple[int, float, StepMetrics] | None, waited: float | None) -> None:
        """Counts a launched step and reports it. UserError: too many in a row not finite."""
        if flight is None:
            return
        step, rate, metrics = flight
        sums, grad_norm, finite = jax.tree.map(float, jax.device_get(metrics))
        self.position = self.position.landed(sums.bytes, bool(finite))
        self._report.step(step, self.position, sums, rate, grad_norm, bool(finite), waited)
        config = self._experiment.training
        if self.position.skipped_in_a_row >= config.max_nonfinite_steps:
            kept = self._checkpoints.latest_step()
            raise UserError(
                f"{self.position.skipped_in_a_row} steps in a row, up to step {step}, had no finite "
                f"loss or gradient; the newest checkpoint is of step {kept}; lower "
                f"training.optimizer.learning_rate ({config.optimizer.learning_rate}) and go on"
            )


def prepare_corpus(experiment: Experiment) -> Corpus:
    """The rows of the experiment's data, prepared if they are not there yet, and fit for its model."""
    with Stages("B") as progress:
        corpus = prepare_cached(experiment.data, progress=progress, warn=warn)
    if corpus.info.num_ids > experiment.model.num_ids:
        raise UserError(
            f"the corpus has ids up to {corpus.info.num_ids}, the model's embedding "
            f"{experiment.model.num_ids} rows; set model.num_tokens to the tokenizer's size"
        )
    return corpus


def global_shapes(loader: Loader, batch_size: int) -> dict[str, tuple[int, ...]]:
    """The shapes [B, ...] of the arrays of a global batch."""
    return {name: (batch_size, *rows.shape[1:]) for name, rows in loader.batch(0).items()}


def start(
    experiment: Experiment, program: Program, corpus: Corpus, checkpoints: Checkpoints
) -> tuple[Position, TrainState]:
    """Where to begin: at the newest checkpoint, or at step 0 with fresh parameters."""

    def differing(meta: dict) -> list[str]:
        """What makes it another run's checkpoint: its model, or the rows that it has read."""
        fields = configs.differences(
            meta["experiment"]["model"], configs.to_dict(experiment.model), ("checkpoint", "config")
        )
        same = meta["corpus"] == corpus.info.fingerprint
        return fields if same else [*fields, "the text or how it is cut into rows"]

    found = checkpoints.restore(program.abstract_state, differing)
    if found is None:
        return Position(), program.init()
    state, meta = found
    return Position(**{field.name: meta[field.name] for field in dataclasses.fields(Position)}), state


@contextmanager
def stop_on_sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets instead of ending the process at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # only the main thread may handle signals
        return
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)
