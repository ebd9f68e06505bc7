"""A model on a mesh: its sharded state and its compiled functions."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from hat.models.model import Batch, Params
from hat.training.experiment import Experiment
from hat.training.objectives import Measures, Objective, add_measures
from hat.training.optimizer import make_optimizer
from hat.training.sharding import (
    AnyMesh,
    batch_sharding,
    check_rows,
    make_mesh,
    param_shardings,
    state_shardings,
    with_shardings,
)
from hat.training.step import StepMetrics, TrainState, init_state, train_step


class Program:
    """What a run computes, compiled before the first step for the shapes of its batches.

    model, objective, mesh, state_shardings and traced_steps (by row length and stage of the
    objective) are public; so are the functions below. UserError: devices or rows that do not divide.
    """

    def __init__(
        self,
        experiment: Experiment,
        batch_shapes: Sequence[dict[str, tuple[int, ...]]],
        mesh: AnyMesh | None = None,
        objective: Objective = Objective(),
    ):
        """batch_shapes: of the int32 arrays of a global batch, [B, ...], as `objective` annotates
        it: one for every length of rows, and the number of rows a multiple of
        `training.batch_size`. mesh: None for one over all devices; any other serves to lower or
        compile `traced_steps` for devices that are not there, since nothing is allocated before
        `init`. objective: of the experiment (hat.training.objectives.make_objective)."""
        config = experiment.training
        self.objective = objective
        self.model = experiment.model.build()
        self.mesh = make_mesh(config.mesh) if mesh is None else mesh
        check_rows(self.mesh, config.batch_size, config.accumulation_steps)
        trained = objective.trained(self.model)
        axes, abstract_params = trained.logical_axes(), trained.abstract_params()
        optimizer = make_optimizer(config.optimizer, axes)

        def init(key):
            return init_state(trained, optimizer, key)

        # Inside its mesh, so that the model chooses and places the kernels of its platform.
        mesh = self.mesh.abstract_mesh

        def step(stage, state, batch, rate, frozen):
            with jax.sharding.use_abstract_mesh(mesh):
                return train_step(
                    self.model, optimizer, config.optimizer, config.accumulation_steps,
                    state, batch, rate, objective.loss(stage, frozen), objective.divisor,
                )  # fmt: skip

        def measure(params, batch, frozen):
            with jax.sharding.use_abstract_mesh(mesh):
                return objective.measure(self.model, params, batch, frozen)

        self._key = jax.random.key(config.seed)
        abstract = jax.eval_shape(init, self._key)
        params_shardings = param_shardings(self.mesh, axes, abstract_params)
        self.state_shardings = state_shardings(
            self.mesh, abstract, abstract_params, params_shardings
        )
        self.batch_sharding = batch_sharding(self.mesh)
        self.abstract_state = with_shardings(abstract, self.state_shardings)
        self.abstract_batches = [
            {
                name: jax.ShapeDtypeStruct(shape, np.int32, sharding=self.batch_sharding)
                for name, shape in shapes.items()
            }
            for shapes in batch_shapes
        ]
        self._replicated = NamedSharding(self.mesh, PartitionSpec())
        rate = jax.ShapeDtypeStruct((), np.float32, sharding=self._replicated)
        self._init = jax.jit(init, out_shardings=self.state_shardings)
        self._frozen_shardings = param_shardings(
            self.mesh, objective.frozen_axes, objective.frozen
        )
        frozen = with_shardings(objective.frozen, self._frozen_shardings)
        jitted = jax.jit(
            step,
            static_argnums=0,
            donate_argnums=1,
            out_shardings=(self.state_shardings, self._replicated),
        )
        self.traced_steps = {
            (_row_length(batch), stage): jitted.trace(
                stage, self.abstract_state, batch, rate, frozen
            )
            for batch in self.abstract_batches
            for stage in range(len(objective.starts))
        }
        self._measure = jax.jit(measure, out_shardings=self._replicated)

    def compile(self) -> None:
        """Compiles the steps, so that no second of training goes into it."""
        self._compiled_steps = {
            key: step.lower().compile() for key, step in self.traced_steps.items()
        }

    def init(self) -> TrainState:
        """A fresh state, every array created where it lives."""
        return self._init(self._key)

    def place(self, batch: dict[str, np.ndarray]) -> Batch:
        """This process's rows of a global batch, onto the devices."""
        return {
            name: jax.make_array_from_process_local_data(self.batch_sharding, rows)
            for name, rows in batch.items()
        }

    @functools.cached_property
    def frozen(self) -> Params:
        """The parameters that the objective does not train, read once and placed."""
        return self.objective.read_frozen(self._frozen_shardings)

    def whole(self, params: Params) -> Params:
        """The parameters of the model, of those that a state trains."""
        return self.objective.whole(params, self.frozen)

    def saved(self, state: TrainState) -> TrainState:
        """What a checkpoint holds of a state: the parameters of the model, which are what readers
        of a run look for, and those that are trained, where they are others."""
        return state._replace(params=self.whole(state.params) | state.params)

    def step(
        self, state: TrainState, batch: Batch, rate: float, number: int = 0
    ) -> tuple[TrainState, StepMetrics]:
        """`train_step` at a learning rate; number: of the step, from 0, which decides the stage of
        the objective. The state given is consumed."""
        step = self._compiled_steps[_row_length(batch), self.objective.stage(number)]
        # The rate goes in as a host number: device_put would compare it across processes, and wait.
        return step(state, batch, np.float32(rate), self.frozen)

    def evaluate(self, params: Params, batches) -> Measures:
        """Totals over global batches (an iterable of host arrays, one at least), as Python floats:
        in double precision, so that a large split loses no bytes."""
        found = []
        for batch in batches:
            batch = self.objective.annotate_held_out(batch)
            mine = {
                name: np.split(rows, jax.process_count())[jax.process_index()]
                for name, rows in batch.items()
            }
            measures = self._measure(params, self.place(mine), self.frozen)
            found.append(jax.tree.map(float, jax.device_get(measures)))
        return add_measures(found)


def _row_length(batch) -> int:
    """T of the arrays of a batch."""
    return batch["segment"].shape[1]
