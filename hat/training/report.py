"""What a run says while it goes and when it ends: metrics, progress, samples, the result.

Only the first process of a run writes.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from hat.models.flops import TRAINING_FACTOR
from hat.models.model import LanguageModel, Sums
from hat.training.chips import find_chip
from hat.training.experiment import Experiment
from hat.training.metrics import METRICS_FILE, MetricsWriter
from hat.training.objectives import Measures, add_measures
from hat.training.plots import plot_loss
from hat.training.position import Position
from hat.training.progress import Progress
from hat.training.run_folder import RESULT_FILE, write_atomically

SAMPLES_FILE = "samples.txt"
PLOT_FILE = "loss.png"


def bits_per_byte(sums: Sums) -> float:
    """Total negative log2-likelihood, ends of text included, over the number of real bytes."""
    return sums.nats / math.log(2) / max(sums.bytes, 1.0)


def is_code(experiment: Experiment, model: LanguageModel) -> bool:
    """Whether the nats of this experiment are a code length: not where word boundaries tell of
    bytes to come, and the model neither charges nor draws them itself."""
    if experiment.data.tokenizer is not None or model.any_splitter:
        return True
    from hat.text.splitters import BYTE_CAUSAL, make_splitter

    return make_splitter(experiment.data.splitter).causality == BYTE_CAUSAL


def values_of(ratios: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """What an objective measured besides, by name."""
    return {name: above / max(below, 1.0) for name, (above, below) in ratios.items()}


class Report:
    """Collects the steps since the last log line, and writes one when it is due."""

    def __init__(
        self, experiment: Experiment, folder: Path, position: Position, model: LanguageModel
    ):
        config, chip = experiment.training, find_chip(jax.devices()[0].device_kind)
        self._model, self._is_code = model, is_code(experiment, model)
        self._peak = None if chip is None else jax.device_count() * chip.flops_per_second
        self._every, self._folder = config.log_every_steps, folder
        self._speaks = jax.process_index() == 0
        self._metrics = MetricsWriter(folder, position.step) if self._speaks else None
        self._progress = Progress(
            experiment.name,
            total=config.steps,
            seconds=config.seconds,
            unit="steps",
            done=position.step,
            elapsed_seconds=position.seconds,
        )
        self._logged = position  # where the last line was written
        self._logged_waited = 0.0
        self._waited = 0.0
        self._measures: list[Measures] = []
        self._flops = 0.0

    def __enter__(self) -> Report:
        self._progress.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self._progress.__exit__(*exception)
        if self._metrics:
            self._metrics.close()

    def say(self, text: str) -> None:
        if self._speaks:
            self._progress.message(text)

    def batch_flops(self, batch: dict[str, np.ndarray]) -> float:
        """Model FLOPs of a training step on this process's rows of a batch, padding not counted,
        as many for every process; 0 on devices whose peak is not known."""
        if self._peak is None:
            return 0.0
        forward = sum(self._model.batch_flops(batch).values())
        return TRAINING_FACTOR * forward * jax.process_count()

    def step(
        self,
        step: int,
        position: Position,
        sums: Sums,
        flops: float,
        rate: float,
        grad_norm: float,
        finite: bool,
        waited: float | None,
        ratios: Mapping[str, tuple[float, float]] = {},
    ) -> None:
        """A step that was read. flops: `batch_flops` of its batch; waited: seconds spent waiting
        for batches so far, if known; ratios: what the objective measured besides."""
        self._waited = self._waited if waited is None else waited
        self._flops += flops
        if finite:
            self._measures.append((sums, dict(ratios)))
        else:
            self.say(f"step {step}: loss or gradient not finite, skipped")
        if step % self._every:
            return
        seconds = max(position.seconds - self._logged.seconds, 1e-9)
        values = {
            "bytes": position.bytes,
            "seconds": position.seconds,
            "learning_rate": rate,
            "grad_norm": grad_norm,
            "bytes_per_second": (position.bytes - self._logged.bytes) / seconds,
            "loader_wait_share": (self._waited - self._logged_waited) / seconds,
            "skipped_steps": position.skipped,
        }
        if self._peak is not None:
            values["mfu"] = self._flops / seconds / self._peak
        if self._measures:
            since, ratios = add_measures(self._measures)
            values |= values_of(ratios) | {
                "loss": since.nats / max(since.bytes, 1.0),
                "accuracy": since.correct / max(since.targets, 1.0),
                "bytes_per_word": since.bytes / max(since.words, 1.0),
            }
            if self._is_code:
                values["bits_per_byte"] = bits_per_byte(since)
        self._write(step, values)
        shown = ("loss", "bits_per_byte", "preference_accuracy", "bytes_per_second", "mfu")
        if self._speaks:
            self._progress.update(step, **{name: values[name] for name in shown if name in values})
        self._logged, self._logged_waited = position, self._waited
        self._measures, self._flops = [], 0.0

    def evaluation(
        self, position: Position, split: str, by_source: Mapping[str, Measures]
    ) -> None:
        """The score of a split, and of each of its sources where there are several."""
        sums, ratios = add_measures(list(by_source.values()))
        if not self._is_code:
            name, nats = f"{split}_loss", sums.nats / max(sums.bytes, 1.0)
            self._write(position.step, {"bytes": position.bytes, name: nats})
            self.say(f"step {position.step}: {split} {nats:.4f} nats per byte, its words given")
            return
        name, bits = f"{split}_bits_per_byte", bits_per_byte(sums)
        values, told = {"bytes": position.bytes, name: bits}, ""
        if len(by_source) > 1:
            parts = {source: bits_per_byte(part) for source, (part, _) in by_source.items()}
            values |= {f"{name}/{source}": part for source, part in parts.items()}
            told = f" ({', '.join(f'{source} {part:.4f}' for source, part in parts.items())})"
        for measure, value in values_of(ratios).items():
            values[f"{split}_{measure}"] = value
            told += f", {measure.replace('_', ' ')} {value:.4f}"
        self._write(position.step, values)
        self.say(f"step {position.step}: {split} {bits:.4f} bits per byte{told}")

    def samples(self, position: Position, texts: list[str]) -> None:
        """Appends generated texts to samples.txt."""
        if self._speaks:
            with (self._folder / SAMPLES_FILE).open("a", encoding="utf-8") as file:
                for number, text in enumerate(texts, start=1):
                    file.write(f"=== step {position.step}, sample {number}\n{text}\n")

    def stopped(self, position: Position) -> dict:
        return {"out": str(self._folder), "finished": False} | dataclasses.asdict(position)

    def finish(
        self, position: Position, heldout: Mapping[str, Measures], texts: list[str]
    ) -> dict:
        """Shows the result, and writes it with the plot; returns it. heldout: by source."""
        result = {"out": str(self._folder), "finished": True} | dataclasses.asdict(position)
        result["bytes_per_second"] = position.bytes / max(position.seconds, 1e-9)
        if heldout:
            sums, ratios = add_measures(list(heldout.values()))
            # Boundaries that look ahead are charged by `hat evaluate bits-per-byte` alone.
            result["heldout_bits_per_byte"] = bits_per_byte(sums) if self._is_code else None
            result["heldout_bytes"] = int(sums.bytes)
            result |= {f"heldout_{name}": value for name, value in values_of(ratios).items()}
        if len(heldout) > 1 and self._is_code:
            result["heldout_bits_per_byte_by_source"] = {
                source: bits_per_byte(part) for source, (part, _) in heldout.items()
            }
        if not self._speaks:
            return result
        for number, text in enumerate(texts, start=1):
            self.say(f"--- sample {number} of {len(texts)}\n{text}")
        if position.step >= self._every and self._is_code:
            plot = self._folder / PLOT_FILE
            plot_loss(self._folder / METRICS_FILE, plot)
            result["plot"] = str(plot)
            self.say(f"loss curve: {plot}")
        write_atomically(self._folder / RESULT_FILE, json.dumps(result, indent=2) + "\n")
        return result

    def _write(self, step: int, values: dict) -> None:
        if self._metrics:
            self._metrics.write(step, values)
