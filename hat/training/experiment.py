"""One experiment: a model, its data, how it is trained. What a config file returns."""

from __future__ import annotations

import dataclasses
import typing

from hat.data.config import BucketConfig, DataConfig, SourceConfig
from hat.errors import UserError
from hat.models.byte_hypernetwork import ByteHypernetworkConfig
from hat.models.hat import ConnectorConfig, HatConfig
from hat.models.hat_2025 import Hat2025Config
from hat.models.hat_learned import BoundaryConfig, LearnedHatConfig
from hat.models.hypernetwork import HypernetworkConfig, RowPredictorConfig
from hat.models.layers import RopeScaling, StackConfig
from hat.models.llama import LlamaConfig
from hat.training import distill_config
from hat.training.config import (
    CheckpointConfig,
    DynamicConfig,
    LoraConfig,
    MeshConfig,
    OptimizerConfig,
    PartConfig,
    PreferenceConfig,
    SampleConfig,
    ScheduleConfig,
    TrainingConfig,
)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that decides a run's result, but for the versions of its libraries.

    init: the folder of a run (trained, or converted by `hat convert`) whose parameters this one
    begins with; None: fresh ones. base: the run of the subword Llama whose tokens are merged; it
    gives its model and its tokenizer (hat.dynamic_tokenization.base).
    """

    name: str
    model: (
        HatConfig | LearnedHatConfig | Hat2025Config | LlamaConfig | HypernetworkConfig
        | ByteHypernetworkConfig
    )
    data: DataConfig
    training: TrainingConfig
    init: str | None = None
    base: str | None = None

    def __post_init__(self):
        is_hat = not isinstance(self.model, (LlamaConfig, RowPredictorConfig))
        if is_hat and self.data.tokenizer is not None:
            raise UserError(
                f"data.tokenizer is {self.data.tokenizer!r}, but a HAT reads bytes; set it to none"
            )
        if not is_hat and self.data.tokenizer is None:
            raise UserError("data.tokenizer is not set, and a Llama needs one: 'bytes' or 'bpe:N'")
        objective = self.training.objective
        plain = type(self.model) in (HatConfig, Hat2025Config)
        if isinstance(objective, distill_config.DistillConfig) and not plain:
            kind = f"a {type(self.model).__name__}" if is_hat else "a Llama"
            raise UserError(f"training.objective distils into a HAT, and the model is {kind}")
        merges = isinstance(objective, DynamicConfig)
        if isinstance(self.model, RowPredictorConfig) and not merges:
            raise UserError("a hypernetwork is trained by training.objective=DynamicConfig alone")
        if merges and is_hat:
            raise UserError("training.objective merges tokens, and a HAT has none; use a Llama")
        if self.base is not None and not merges:
            raise UserError(
                f"base is {self.base!r}, and only training.objective=DynamicConfig merges tokens of one"
            )
        prefers = isinstance(objective, PreferenceConfig)
        if prefers != (self.data.format == "preference"):
            raise UserError(
                f"data.format is {self.data.format!r} and training.objective "
                f"{type(objective).__name__}: pairs of answers need 'preference' and "
                "PreferenceConfig, and other data neither"
            )
        if prefers and self.init is None:
            raise UserError("init is not set, and a preference needs the run that it departs from")
        if self.data.buckets and self.data.row_length != self.data.buckets[-1].length:
            raise UserError(
                f"data.row_length is {self.data.row_length}, but the last of data.buckets has "
                f"length {self.data.buckets[-1].length}; make them equal"
            )


EXPERIMENT_CLASSES = (
    Experiment,
    HatConfig,
    Hat2025Config,
    LearnedHatConfig,
    BoundaryConfig,
    ConnectorConfig,
    LlamaConfig,
    HypernetworkConfig,
    ByteHypernetworkConfig,
    StackConfig,
    RopeScaling,
    DataConfig,
    SourceConfig,
    BucketConfig,
    TrainingConfig,
    OptimizerConfig,
    PartConfig,
    ScheduleConfig,
    MeshConfig,
    CheckpointConfig,
    SampleConfig,
    PreferenceConfig,
    DynamicConfig,
    LoraConfig,
    distill_config.DistillConfig,
    *typing.get_args(distill_config.AnyTerm),
)
