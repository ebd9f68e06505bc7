"""The runs that another one begins with, or rests on."""

from __future__ import annotations

import os

from hat import config as configs
from hat.errors import UserError
from hat.models.model import Params
from hat.training.checkpoints import Checkpoints, read_params
from hat.training.experiment import Experiment
from hat.training.progress import warn


def read_init(experiment: Experiment, abstract_params: Params) -> Params:
    """The newest parameters of the run in `experiment.init`, placed as these are.

    UserError: there is none, or its parameters have other names or shapes. What else differs
    between the two models is told.
    """
    try:
        params, meta = read_params(experiment.init, abstract_params)
    except UserError as error:
        raise UserError(f"init: {error}") from None
    model = configs.to_dict(experiment.model)
    for field in configs.differences(meta["experiment"]["model"], model, ("init", "config")):
        warn(f"another model than that of init: model.{field}")
    return params


def latest_step(folder: str | os.PathLike) -> int | None:
    """Of the newest complete checkpoint of the run in `folder`: for `Objective.origin`, since a run
    that another rests on may be trained on."""
    checkpoints = Checkpoints(folder, read_only=True)
    try:
        return checkpoints.latest_step()
    finally:
        checkpoints.close()
