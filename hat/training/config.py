"""How a run is trained: the frozen configs of optimizer, schedule, mesh, checkpoints and loop.

Each class checks itself when it is built, so that a mistake in a config file or in `--set` is one
line before anything is allocated. Field names are those of the papers and of optax.
"""

from __future__ import annotations

import dataclasses
import math

from hat.errors import UserError
from hat.training.distill_config import DistillConfig


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _require_positive(config, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(
            value is None or (math.isfinite(value) and value > 0),
            f"{name}={value}: it must be greater than 0",
        )


def _require_fraction(config, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(0.0 <= value <= 1.0, f"{name}={value}: it is a fraction, from 0 to 1")


@dataclasses.dataclass(frozen=True)
class PartConfig:
    """How one named part of the model (a top-level key of its parameters) is trained.

    multiplier: factor on the learning rate of the part; 0 freezes it for the whole run and spends
      no memory on its moments.
    freeze_until_step: the part does not change before this many updates; then it starts as a
      fresh optimizer would, with moments and bias correction at zero.
    """

    name: str
    multiplier: float = 1.0
    freeze_until_step: int = 0

    def __post_init__(self) -> None:
        where = f"part {self.name!r}: "
        _require(
            math.isfinite(self.multiplier) and self.multiplier >= 0,
            f"{where}multiplier={self.multiplier}: it must be 0 (frozen) or greater",
        )
        _require(
            self.freeze_until_step >= 0,
            f"{where}freeze_until_step={self.freeze_until_step}: it must be 0 or greater",
        )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW for everything, or Muon for the hidden matrices and Adam for the rest.

    learning_rate: the peak; the schedule scales it.
    b1, b2, eps: Adam. moment_dtype: of Adam's first moment and of Muon's momentum.
    weight_decay: decoupled, times the learning rate (as in PyTorch), on hidden matrices alone.
    clip_norm: the gradients' global norm is brought down to it; None leaves them.
    adam_learning_rate: peak for what Muon does not take; None means `learning_rate`.
    muon_steps, muon_momentum, muon_nesterov: Newton-Schulz iterations and momentum.
    muon_rms: None scales the orthogonal update of an [in, out] matrix by sqrt(max(1, out / in));
      a number r by r * sqrt(max(in, out)), so that its RMS is r whatever the shape (0.2 is that
      of AdamW, arXiv 2502.16982 equation 4).
    parts: multipliers and freezing, by part.
    """

    name: str = "adamw"
    learning_rate: float = 3e-4
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float | None = 1.0
    moment_dtype: str = "float32"
    adam_learning_rate: float | None = None
    muon_steps: int = 5
    muon_momentum: float = 0.95
    muon_nesterov: bool = True
    muon_rms: float | None = None
    parts: tuple[PartConfig, ...] = ()

    def __post_init__(self) -> None:
        _require(
            self.name in ("adamw", "muon"), f"optimizer name={self.name!r}: use 'adamw' or 'muon'"
        )
        _require_positive(
            self, "learning_rate", "eps", "clip_norm", "adam_learning_rate", "muon_steps",
            "muon_rms",
        )  # fmt: skip
        for name in ("b1", "b2", "muon_momentum"):
            value = getattr(self, name)
            _require(0.0 <= value < 1.0, f"{name}={value}: it must be at least 0 and below 1")
        _require(
            math.isfinite(self.weight_decay) and self.weight_decay >= 0,
            f"weight_decay={self.weight_decay}: it must be 0 or greater",
        )
        _require(
            self.moment_dtype in ("float32", "bfloat16"),
            f"moment_dtype={self.moment_dtype!r}: use 'float32' or 'bfloat16'",
        )
        _require(
            self.name == "muon" or self.adam_learning_rate is None,
            "adam_learning_rate belongs to Muon; under name='adamw' set learning_rate",
        )
        names = [part.name for part in self.parts]
        _require(
            len(set(names)) == len(names), f"parts name one part twice: {', '.join(sorted(names))}"
        )


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over a run, as a fraction of its peak. All spans are fractions of the run,
    so that one schedule serves runs measured in steps and runs measured in seconds.

    name: "cosine" (warm-up, then a half cosine), "wsd" (warm-up, stable, decay), "constant"
      (warm-up, then the peak).
    final_fraction: of the peak, at the end of cosine and wsd.
    decay_fraction, decay_shape: the last span of wsd, "linear" or "sqrt" (one minus the square
      root of the decay's progress, arXiv 2405.18392).
    """

    name: str = "cosine"
    warmup_fraction: float = 0.01
    final_fraction: float = 0.1
    decay_fraction: float = 0.2
    decay_shape: str = "linear"

    def __post_init__(self) -> None:
        _require(
            self.name in ("cosine", "wsd", "constant"),
            f"schedule name={self.name!r}: use 'cosine', 'wsd' or 'constant'",
        )
        _require(
            self.decay_shape in ("linear", "sqrt"),
            f"decay_shape={self.decay_shape!r}: use 'linear' or 'sqrt'",
        )
        _require_fraction(self, "warmup_fraction", "final_fraction", "decay_fraction")
        _require(
            self.name != "wsd" or self.warmup_fraction + self.decay_fraction <= 1.0,
            "warmup_fraction + decay_fraction is more than the whole run; lower one",
        )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices along each axis of the mesh; one axis may be -1, all that are left.

    replica: whole copies of the parameters (data parallelism between slices or nodes).
    fsdp: parameters, gradients and moments are split along it, rows too (ZeRO-3).
    tensor: heads, MLP and vocabulary are split along it; rows are not.
    """

    replica: int = 1
    fsdp: int = -1
    tensor: int = 1

    def __post_init__(self) -> None:
        sizes = dataclasses.asdict(self)
        for name, size in sizes.items():
            _require(
                size == -1 or size >= 1,
                f"mesh {name}={size}: give a number of devices, or -1 for all that are left",
            )
        _require(
            list(sizes.values()).count(-1) <= 1,
            f"mesh {sizes}: only one axis can be -1; set the others",
        )


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written and which ones stay.

    every_seconds: a checkpoint this long after the one before, the first at once; only the newest
      `keep_recent` stay.
    every_steps: also at multiples of this step; these stay for ever. None: no such steps.
    """

    every_seconds: int = 900
    keep_recent: int = 2
    every_steps: int | None = None

    def __post_init__(self) -> None:
        _require_positive(self, "every_seconds", "keep_recent", "every_steps")


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """What is generated while training runs, to be read by a person."""

    prompts: tuple[str, ...] = ("",)
    max_bytes: int = 256
    temperature: float = 0.8
    top_p: float = 0.95

    def __post_init__(self) -> None:
        _require_positive(self, "max_bytes", "top_p")
        _require_fraction(self, "top_p")
        _require(
            math.isfinite(self.temperature) and self.temperature >= 0,
            f"temperature={self.temperature}: it must be 0 (greedy) or greater",
        )


@dataclasses.dataclass(frozen=True)
class PreferenceConfig:
    """Direct preference optimisation (hat.training.preference), from the run in `init`.

    beta: how strongly the model is held to where it began: the greater, the more.
    label_smoothing: the share of pairs that are taken to be labelled the wrong way round.
    """

    beta: float = 0.1
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        _require_positive(self, "beta")
        _require(
            0.0 <= self.label_smoothing < 0.5,
            f"label_smoothing={self.label_smoothing}: it must be at least 0 and below 0.5",
        )


MERGE_LAWS = ("uniform", "gaussian")
ROWS = ("mean", "last", "suffix")


@dataclasses.dataclass(frozen=True)
class DynamicConfig:
    """Tokens merged anew for every step (hat.dynamic_tokenization.objective), on top of those of the
    run in `Experiment.base`.

    boundary: of merging (hat.dynamic_tokenization.boundaries).
    most_merges: of a step; how many it takes is drawn anew for each, by their share of the reduction
      that all of them reach, not by their number: "uniform", or "gaussian" (mean 1/2, deviation
      1/6, clipped; arXiv 2411.18553, section 3.3).
    noise: the merges of a step are counted in `sample_rows` rows, drawn from the first `pool_rows`
      of the training text, and every count is multiplied by exp(noise * g), g standard normal.
    most_parts: base tokens of a merged one at most.
    hypernetwork: the run that predicts rows of merged tokens where the model itself is trained; None:
      they are made as `rows` says: "mean", "last" or "suffix" (hat.dynamic_tokenization.embeddings).
    """

    boundary: str = "word"
    most_merges: int = 512
    law: str = "gaussian"
    noise: float = 0.5
    pool_rows: int = 1024
    sample_rows: int = 64
    most_parts: int = 8
    hypernetwork: str | None = None
    rows: str = "mean"

    def __post_init__(self) -> None:
        _require_positive(self, "most_merges", "pool_rows", "sample_rows")
        _require(self.law in MERGE_LAWS, f"law={self.law!r}: use one of {', '.join(MERGE_LAWS)}")
        _require(self.rows in ROWS, f"rows={self.rows!r}: use one of {', '.join(ROWS)}")
        _require(self.most_parts >= 2, f"most_parts={self.most_parts}: a merge has 2 at least")
        _require(
            math.isfinite(self.noise) and self.noise >= 0,
            f"noise={self.noise}: it must be 0 (none) or greater",
        )


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adaptation of the run in `Experiment.init` (hat.training.low_rank).

    rank: of what is added to every matrix; None: there is none, all weights are trained.
    alpha: what is added is scaled by alpha / rank. At one alpha, models of different ranks take
      about the same learning rate (arXiv 2106.09685, section 4.1).
    matrices: the names of those that are changed, of attention and MLP.
    parts: of the model (top-level keys of its parameters) in which they are; None: in all.
    """

    rank: int | None = None
    alpha: float = 32.0
    matrices: tuple[str, ...] = ("q", "k", "v", "o", "gate", "up", "down")
    parts: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _require(
            self.rank is None or self.rank >= 1,
            f"rank={self.rank}: it must be at least 1, or none to train all weights",
        )
        _require_positive(self, "alpha")
        for name in ("matrices", "parts"):
            _require(getattr(self, name) != (), f"{name}=(): name one at least")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """A run: its length (`steps` or `seconds` of training, one of the two), its batch, its parts.

    batch_size: rows of one optimizer step, over all devices and all `accumulation_steps`.
    max_nonfinite_steps: so many steps in a row without a finite loss or gradient end the run.
    stall_seconds: a step that takes longer ends the process with a report, for the launcher to
      start it again (hat.training.watchdog); None waits for ever.
    objective: what is minimised; None is the cross-entropy of the next byte or token.
    lora: with a rank, low-rank changes of the weights of `Experiment.init` are trained, and they
      are not.
    """

    steps: int | None = None
    seconds: float | None = None
    batch_size: int = 8
    accumulation_steps: int = 1
    seed: int = 0
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    samples: SampleConfig = SampleConfig()
    log_every_steps: int = 10
    evaluate_every_steps: int | None = None
    sample_every_steps: int | None = None
    max_nonfinite_steps: int = 5
    stall_seconds: float | None = 600.0
    objective: DistillConfig | PreferenceConfig | DynamicConfig | None = None
    lora: LoraConfig = LoraConfig()

    def __post_init__(self) -> None:
        _require(
            (self.steps is None) != (self.seconds is None),
            f"steps={self.steps}, seconds={self.seconds}: set exactly one, the length of the run",
        )
        _require_positive(
            self, "steps", "seconds", "batch_size", "accumulation_steps", "log_every_steps",
            "evaluate_every_steps", "sample_every_steps", "max_nonfinite_steps", "stall_seconds",
        )  # fmt: skip
        _require(
            0 <= self.seed < 2**31, f"seed={self.seed}: use a whole number from 0 to 2147483647"
        )
        _require(
            self.batch_size % self.accumulation_steps == 0,
            f"batch_size={self.batch_size} rows do not divide into "
            f"accumulation_steps={self.accumulation_steps}; change one",
        )
