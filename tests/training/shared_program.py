"""Programs that the tests of one process share: most of a tiny run is tracing and compiling."""

from __future__ import annotations

import jax

from hat.training.objectives import Objective
from hat.training.program import Program


class SharedProgram(Program):
    """The Program of an experiment, made and compiled once for all runs of its model, optimizer,
    mesh, seed and shapes. One with an objective of its own, which may hold a teacher, is made
    anew."""

    _made: dict[str, SharedProgram] = {}

    def __new__(cls, experiment, batch_shapes, mesh=None, objective=Objective()):
        fresh = super().__new__(cls)
        if mesh is not None or type(objective) is not Objective:
            return fresh
        config = experiment.training
        key = repr((
            experiment.model, config.mesh, config.batch_size, config.accumulation_steps,
            config.optimizer, config.seed, batch_shapes, jax.devices(),
        ))  # fmt: skip
        return cls._made.setdefault(key, fresh)

    def __init__(self, *args, **kwargs):
        if not vars(self):
            super().__init__(*args, **kwargs)

    def compile(self) -> None:
        if "_compiled_steps" not in vars(self):
            super().compile()
