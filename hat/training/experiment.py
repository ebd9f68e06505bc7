"""One experiment: a model, its data, how it is trained. What a config file returns."""

from __future__ import annotations

import dataclasses

from hat.data.config import DataConfig
from hat.errors import UserError
from hat.models.hat import ConnectorConfig, HatConfig
from hat.models.layers import RopeScaling, StackConfig
from hat.models.llama import LlamaConfig
from hat.training.config import (
    CheckpointConfig,
    MeshConfig,
    OptimizerConfig,
    PartConfig,
    SampleConfig,
    ScheduleConfig,
    TrainingConfig,
)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that decides a run's result, but for the versions of its libraries."""

    name: str
    model: HatConfig | LlamaConfig
    data: DataConfig
    training: TrainingConfig

    def __post_init__(self):
        is_hat = isinstance(self.model, HatConfig)
        if is_hat and self.data.tokenizer is not None:
            raise UserError(
                f"data.tokenizer is {self.data.tokenizer!r}, but a HAT reads bytes; set it to none"
            )
        if not is_hat and self.data.tokenizer is None:
            raise UserError("data.tokenizer is not set, and a Llama needs one: 'bytes' or 'bpe:N'")


EXPERIMENT_CLASSES = (
    Experiment,
    HatConfig,
    ConnectorConfig,
    LlamaConfig,
    StackConfig,
    RopeScaling,
    DataConfig,
    TrainingConfig,
    OptimizerConfig,
    PartConfig,
    ScheduleConfig,
    MeshConfig,
    CheckpointConfig,
    SampleConfig,
)
