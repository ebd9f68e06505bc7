"""A model on a mesh: its sharded state and its compiled functions."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from hat.models.model import Batch, Params, Sums
from hat.training.experiment import Experiment
from hat.training.optimizer import make_optimizer
from hat.training.sharding import (
    batch_sharding,
    check_rows,
    make_mesh,
    param_shardings,
    state_shardings,
)
from hat.training.step import StepMetrics, TrainState, init_state, train_step


class Program:
    """What a run computes, compiled before the first step for the shapes of one batch.

    model, mesh, and state_shardings are public; so are the functions below. UserError: devices
    or rows that do not divide.
    """

    def __init__(self, experiment: Experiment, batch_shapes: dict[str, tuple[int, ...]]):
        """batch_shapes: of the int32 arrays of a global batch, [B, ...]."""
        config = experiment.training
        self.model = experiment.model.build()
        self.mesh = make_mesh(config.mesh)
        check_rows(self.mesh, config.batch_size, config.accumulation_steps)
        axes, abstract_params = self.model.logical_axes(), self.model.abstract_params()
        optimizer = make_optimizer(config.optimizer, axes)

        def init(key):
            return init_state(self.model, optimizer, key)

        def step(state, batch, rate):
            return train_step(
                self.model, optimizer, config.optimizer, config.accumulation_steps,
                state, batch, rate,
            )  # fmt: skip

        self._key = jax.random.key(config.seed)
        abstract = jax.eval_shape(init, self._key)
        params_shardings = param_shardings(self.mesh, axes, abstract_params)
        self.state_shardings = state_shardings(
            self.mesh, abstract, abstract_params, params_shardings
        )
        self.batch_sharding = batch_sharding(self.mesh)
        self.abstract_state = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            abstract,
            self.state_shardings,
        )
        self.abstract_batch = {
            name: jax.ShapeDtypeStruct(shape, np.int32, sharding=self.batch_sharding)
            for name, shape in batch_shapes.items()
        }
        self._replicated = NamedSharding(self.mesh, PartitionSpec())
        rate = jax.ShapeDtypeStruct((), np.float32, sharding=self._replicated)
        self._init = jax.jit(init, out_shardings=self.state_shardings)
        self._step = jax.jit(
            step, out_shardings=(self.state_shardings, self._replicated), donate_argnums=0
        ).lower(self.abstract_state, self.abstract_batch, rate)
        self._loss = jax.jit(self.model.loss, out_shardings=self._replicated)

    def compile(self) -> None:
        """Compiles the step, so that no second of training goes into it."""
        self._compiled_step = self._step.compile()

    def init(self) -> TrainState:
        """A fresh state, every array created where it lives."""
        return self._init(self._key)

    def place(self, batch: dict[str, np.ndarray]) -> Batch:
        """This process's rows of a global batch, onto the devices."""
        return {
            name: jax.make_array_from_process_local_data(self.batch_sharding, rows)
            for name, rows in batch.items()
        }

    def step(self, state: TrainState, batch: Batch, rate: float) -> tuple[TrainState, StepMetrics]:
        """`train_step` at a learning rate. The state given is consumed."""
        return self._compiled_step(state, batch, jax.device_put(np.float32(rate), self._replicated))

    def evaluate(self, params: Params, batches) -> Sums:
        """Totals over global batches (an iterable of host arrays), as Python floats."""
        totals = np.zeros(len(Sums._fields))  # float64, so that a large split loses no bytes
        for batch in batches:
            mine = {
                name: np.split(rows, jax.process_count())[jax.process_index()]
                for name, rows in batch.items()
            }
            totals += np.array(jax.device_get(self._loss(params, self.place(mine))))
        return Sums(*totals.tolist())
