"""What training minimises: small functions of (model, params, batch).

An objective may change at given steps, may need arrays beside the rows of the corpus, and
parameters that are not trained (a teacher's). What it has to say of all that is an `Objective`.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import numpy as np

from hat.errors import UserError
from hat.models.model import Batch, LanguageModel, Params, Sums
from hat.training.config import DynamicConfig, PreferenceConfig

if TYPE_CHECKING:
    from hat.training.experiment import Experiment

HostBatch = dict[str, np.ndarray]
# Further numbers to report, float32 []: by name a total and what to divide it by.
Ratios = dict[str, tuple[jax.Array, jax.Array]]
Measures = tuple[Sums, Ratios]
Loss = Callable[[LanguageModel, Params, Batch], tuple[jax.Array, Measures]]


def language_modelling(
    model: LanguageModel, params: Params, batch: Batch
) -> tuple[jax.Array, Measures]:
    """The next-id cross-entropy, and what else the model asks for: its total in nats (float32
    scalar), and the sums to report.

    A total, not a mean: the step divides once, by the count over all microbatches and devices, so
    that every byte weighs the same however the rows are filled.
    """
    total, sums, ratios = model.training_loss(params, batch)
    return total, (sums, ratios)


def add_measures(measures: Sequence[Measures]) -> Measures:
    """Those of all together, of one at least; a ratio over those that have it."""
    sums = Sums(*map(sum, zip(*(part for part, _ in measures))))
    ratios: Ratios = {}
    for _, found in measures:
        for name, (above, below) in found.items():
            before = ratios.get(name, (0.0, 0.0))
            ratios[name] = before[0] + above, before[1] + below
    return sums, ratios


class Trained(Protocol):
    """What a state holds parameters of: a LanguageModel, or what is trained in its place."""

    def init(self, key: jax.Array) -> Params: ...

    def abstract_params(self) -> Params: ...

    def logical_axes(self) -> Params: ...


class Objective:
    """Next-id cross-entropy, at every step; the base of objectives that ask for more.

    starts: the steps at which its stages begin, rising, the first 0; each stage is a program of
    its own. divisor: the ratio whose lower number divides the total; None: the number of targets
    does. frozen: parameters that it needs and does not train, as ShapeDtypeStructs; and
    frozen_axes, their logical axes; frozen_is_init: whether they are those of the model in
    `Experiment.init`, as the forward pass uses them, and nothing else. origin: where they are
    from, kept in every checkpoint, which none with another goes on from; JSON.
    """

    starts: Sequence[int] = (0,)
    divisor: str | None = None
    frozen: Params = {}
    frozen_axes: dict[str, Any] = {}
    frozen_is_init: bool = False
    origin: dict[str, Any] = {}

    def stage(self, step: int) -> int:
        """The number of the stage at a step."""
        return bisect.bisect_right(self.starts, step) - 1

    def annotate(self, batch: HostBatch, number: int) -> HostBatch:
        """A batch of rows of the corpus, int32 [B, ...], with what the objective needs besides: a
        pure function of each row and of the number of the batch, int32 too."""
        return batch

    def annotate_held_out(self, batch: HostBatch) -> HostBatch:
        """The same of a batch that is measured, and not learned from."""
        return batch

    def read_frozen(self, shardings: Params) -> Params:
        """The parameters of `frozen`, placed."""
        return {}

    def trained(self, model: LanguageModel) -> Trained:
        """What is trained of a model: all of it."""
        return model

    def whole(self, params: Params, frozen: Params) -> Params:
        """The parameters of the model, of those that are trained and the frozen ones."""
        return params

    def loss(self, stage: int, frozen: Params) -> Loss:
        """What is minimised in a stage, as a total over a batch of annotated rows."""
        return language_modelling

    def measure(
        self, model: LanguageModel, params: Params, batch: Batch, frozen: Params
    ) -> Measures:
        """What an evaluation reports of a batch of rows, as `annotate_held_out` leaves them."""
        _, sums, ratios = model.training_loss(params, batch)
        return sums, ratios


class ByteTeacher(Protocol):
    """Exact probabilities of the next byte under a model of tokens.

    Computed as training goes on (hat.commands.byte_teachers), or looked up
    (hat.training.stored_probabilities).
    """

    def logprobs_of(self, texts: Sequence[bytes]) -> Sequence[np.ndarray]:
        """float [T + 1, 257] for every text of T bytes: for each of its prefixes, from the empty
        one, natural log-probabilities of the 256 bytes and of the end of the text after it. Rows
        sum to 1."""


ByteTeacherOpener = Callable[[str], ByteTeacher]  # from the folder of a run


class Openers(NamedTuple):
    """What objectives are made of that training itself knows nothing of. byte_teacher: for the term
    ByteProbabilities where none are stored. dynamic: the objective of a DynamicConfig."""

    byte_teacher: ByteTeacherOpener | None = None
    dynamic: Callable[[Experiment], Objective] | None = None


def make_objective(experiment: Experiment, openers: Openers = Openers()) -> Objective:
    """The objective of an experiment. UserError: a teacher that is not there or does not fit."""
    objective = _make_objective(experiment, openers)
    if experiment.training.lora.rank is None:
        return objective
    from hat.training.low_rank import LowRank

    return LowRank(experiment, objective)


def _make_objective(experiment: Experiment, openers: Openers) -> Objective:
    if experiment.training.objective is None:
        return Objective()
    if isinstance(experiment.training.objective, PreferenceConfig):
        from hat.training.preference import Preference

        return Preference(experiment)
    if isinstance(experiment.training.objective, DynamicConfig):
        if openers.dynamic is None:
            raise UserError("this command cannot merge tokens; use hat train")
        return openers.dynamic(experiment)
    from hat.training.distillation import Distillation

    return Distillation.open(experiment, openers.byte_teacher)
