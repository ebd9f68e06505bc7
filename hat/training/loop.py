"""Training, from an experiment to a finished run. Read `train` from top to bottom."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import jax
import numpy as np

from hat import __version__
from hat import config as configs
from hat.data.loader import Loader
from hat.data.mixture import Mixture, prepare_mixture
from hat.errors import UserError
from hat.models.model import Batch, LanguageModel, Params
from hat.text.splitters import keep_splitter
from hat.training.checkpoints import Checkpoints
from hat.training.distributed import ending_at_once, on_first, stop_requests, together
from hat.training.experiment import Experiment
from hat.training.init import read_init
from hat.training.objectives import Measures, Openers, make_objective
from hat.training.optimizer import learning_rate
from hat.training.position import Clock, Position
from hat.training.program import Program
from hat.training.progress import Stages, warn
from hat.training.report import Report
from hat.training.run_folder import open_run
from hat.training.step import StepMetrics, TrainState
from hat.training.watchdog import Watchdog

# Continues the configured prompts with the model as it stands, for a person to read.
Sampler = Callable[[Experiment, LanguageModel, Params, Mixture], list[str]]


def train(
    experiment: Experiment,
    out_dir: str | Path,
    sampler: Sampler | None = None,
    openers: Openers = Openers(),
) -> dict:
    """Trains, or goes on training, the run in `out_dir`; returns its result, ready for JSON.

    openers: see hat.training.objectives.make_objective.

    Everything that a run leaves is in `out_dir` (see hat.training.run_folder). Every process of a
    run calls it, after hat.training.distributed.join. UserError: bad data, another run's folder or
    one that is in use, devices that do not fit, a full disk, a loss that is never finite.
    """
    config, folder = experiment.training, Path(out_dir)
    if config.seconds is not None and jax.process_count() > 1:
        raise UserError(
            f"training.seconds={config.seconds:g}: the clocks of {jax.process_count()} processes "
            "differ; set training.steps, and training.seconds=none"
        )

    with ExitStack() as stack:
        changed = on_first(lambda: stack.enter_context(open_run(folder, experiment)), elsewhere=[])
        corpus = together(lambda: prepare_corpus(experiment))
        objective = make_objective(experiment, openers)
        loader = Loader(
            corpus, config.batch_size, config.seed, "train", jax.process_index(),
            jax.process_count(), objective.annotate,
        )  # fmt: skip
        program = Program(experiment, loader.shapes, objective=objective)
        if corpus.tokenizer and jax.process_index() == 0:
            corpus.tokenizer.save(folder)  # so that the folder is all a reader of the run needs
        elif jax.process_index() == 0:
            keep_splitter(experiment.data.splitter, folder)

        checkpoints = stack.enter_context(closing(Checkpoints(folder, config.checkpoint)))
        position, state = start(experiment, program, corpus, checkpoints)
        watchdog = stack.enter_context(closing(Watchdog(config.stall_seconds, folder)))
        report = stack.enter_context(Report(experiment, folder, position, program.model))
        for line in changed:
            report.say(f"changed since the run began: {line}")
        for line in corpus.describe():
            report.say(line)
        report.say(
            f"compiling for {jax.device_count()} {jax.devices()[0].platform} device(s), then "
            f"training from step {position.step}"
        )
        program.compile()

        def ready(batch: dict[str, np.ndarray]) -> tuple[Batch, float]:
            return program.place(batch), report.batch_flops(batch)

        run = Run(
            experiment, program, corpus, checkpoints, report, watchdog, position, state, sampler
        )

        stop = stack.enter_context(stop_requests(checkpoints.reached_preemption))
        batches = stack.enter_context(closing(loader.iterate(position.step, ready)))
        stack.enter_context(ending_at_once())
        watchdog.beat(position.step)
        while not run.position.finished(config) and not stop(run.position.step):
            run.step(*next(batches), loader.wait_seconds)
            if run.due(config.evaluate_every_steps):
                run.evaluate("validation" if corpus.num_rows("validation") else "heldout")
            if run.due(config.sample_every_steps):
                run.sample()
            run.save()

        run.save(force=True)
        if not run.position.finished(config):
            report.say(f"stopped at step {run.position.step}, saved; the same command resumes")
            return report.stopped(run.position)
        return report.finish(run.position, run.evaluate("heldout"), run.sample())


class Run:
    """A run under way: its state, where it stands, and what is done with them."""

    def __init__(
        self,
        experiment: Experiment,
        program: Program,
        corpus: Mixture,
        checkpoints: Checkpoints,
        report: Report,
        watchdog: Watchdog,
        position: Position,
        state: TrainState,
        sampler: Sampler | None,
    ):
        self.position = position
        self._experiment, self._program, self._corpus = experiment, program, corpus
        self._checkpoints, self._report, self._watchdog = checkpoints, report, watchdog
        self._sampler = sampler
        self._state = state
        self._clock = Clock(position.seconds)
        # Launched, not yet read: step, learning rate, model FLOPs, metrics.
        self._flying: tuple[int, float, float, StepMetrics] | None = None

    def step(self, batch: Batch, flops: float, waited: float) -> None:
        """Launches one step on a batch that lies on the devices, then reads what the one before it
        has measured.

        So the device always has its next step waiting, and never more than two are under way.
        """
        config = self._experiment.training
        self._watchdog.beat(self.position.step + 1)
        rate = learning_rate(config.schedule, self.position.progress(config))
        rate *= config.optimizer.learning_rate
        self._state, metrics = self._program.step(self._state, batch, rate, self.position.step)
        before, self._flying = self._flying, (self.position.step + 1, rate, flops, metrics)
        self._land(before, waited)
        self.position = self.position.launched(self._clock.read())

    def due(self, every_steps: int | None) -> bool:
        return every_steps is not None and self.position.step % every_steps == 0

    def evaluate(self, split: str) -> dict[str, Measures]:
        """The measures of a split by source, reported; empty if it is."""
        self._land_all()
        size = self._experiment.training.batch_size
        with self._aside():
            measures = {
                name: self._program.evaluate(self._state.params, corpus.batches(split, size))
                for name, corpus in self._corpus.evaluated(split).items()
            }
        if measures:
            self._report.evaluation(self.position, split, measures)
        return measures

    def sample(self) -> list[str]:
        """Texts that the model writes now, reported."""
        self._land_all()
        if self._sampler is None:
            return []
        program = self._program
        with self._aside():
            texts = self._sampler(
                self._experiment, program.model, program.whole(self._state.params), self._corpus
            )
        self._report.samples(self.position, texts)
        return texts

    def save(self, *, force: bool = False) -> None:
        """Saves if a checkpoint is due, or if `force`, and then waits until it is on disk."""
        if force:
            self._land_all()
        with self._aside():
            meta = dataclasses.asdict(self.position) | {
                "experiment": configs.to_dict(self._experiment),
                "corpus": self._corpus.fingerprint,
                "origin": self._program.objective.origin,
                "version": __version__,
            }
            self._checkpoints.save(
                self.position.step, lambda: self._program.saved(self._state), meta, force=force
            )
            if force:
                self._checkpoints.wait()

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """For work that is no step: neither the clock of training nor the watchdog counts it."""
        with self._clock.paused(), self._watchdog.paused():
            yield

    def _land_all(self) -> None:
        last, self._flying = self._flying, None
        self._land(last, waited=None)

    def _land(
        self, flight: tuple[int, float, float, StepMetrics] | None, waited: float | None
    ) -> None:
        """Counts a launched step and reports it. UserError: too many in a row not finite."""
        if flight is None:
            return
        step, rate, flops, metrics = flight
        sums, grad_norm, finite, ratios = jax.tree.map(float, jax.device_get(metrics))
        self.position = self.position.landed(sums.bytes, bool(finite))
        self._report.step(
            step, self.position, sums, flops, rate, grad_norm, bool(finite), waited, ratios
        )
        config = self._experiment.training
        if self.position.skipped_in_a_row >= config.max_nonfinite_steps:
            kept = self._checkpoints.latest_step()
            raise UserError(
                f"{self.position.skipped_in_a_row} steps in a row, up to step {step}, had no finite "
                f"loss or gradient; the newest checkpoint is of step {kept}; lower "
                f"training.optimizer.learning_rate ({config.optimizer.learning_rate}) and go on"
            )


def prepare_corpus(experiment: Experiment) -> Mixture:
    """The rows of the experiment's data, prepared if they are not there, and fit for its model."""
    with Stages("B") as progress:
        corpus = prepare_mixture(experiment.data, progress=progress, warn=warn)
    if corpus.num_ids > experiment.model.num_ids:
        raise UserError(
            f"the corpus has ids up to {corpus.num_ids}, the model's embedding "
            f"{experiment.model.num_ids} rows; set model.num_tokens to the tokenizer's size"
        )
    return corpus


def start(
    experiment: Experiment, program: Program, corpus: Mixture, checkpoints: Checkpoints
) -> tuple[Position, TrainState]:
    """Where to begin: at the newest checkpoint, or at step 0 with fresh parameters."""

    def differing(meta: dict) -> list[str]:
        """What makes it another run's checkpoint: its model, or the rows that it has read."""
        fields = configs.differences(
            meta["experiment"]["model"], configs.to_dict(experiment.model), ("checkpoint", "config")
        )
        if meta["corpus"] != corpus.fingerprint:
            fields.append("the text or how it is cut into rows")
        old, new = meta.get("origin", {}), program.objective.origin
        return fields + configs.differences(old, new, ("checkpoint", "now"))

    partial = experiment.training.lora.rank is not None  # the model's own are made anew
    found = checkpoints.restore(program.abstract_state, differing, partial=partial)
    if found is None and experiment.init is not None:
        return Position(), start_from(experiment, program)
    if found is None:
        return Position(), program.init()
    state, meta = found
    return Position(**{field.name: meta[field.name] for field in dataclasses.fields(Position)}), state


def start_from(experiment: Experiment, program: Program) -> TrainState:
    """A fresh state that begins with the run in `experiment.init`."""
    state = program.init()
    if experiment.training.lora.rank is not None:
        program.frozen  # the weights of that run: that they can be read shows before compilation
        return state
    return state._replace(params=read_init(experiment, program.abstract_state.params))
