"""What a run says while it goes and when it ends: metrics, progress, samples, the result.

Only the first process of a run writes.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import jax

from hat.models.model import Sums
from hat.training.experiment import Experiment
from hat.training.metrics import METRICS_FILE, MetricsWriter
from hat.training.plots import plot_loss
from hat.training.position import Position
from hat.training.progress import Progress
from hat.training.run_folder import RESULT_FILE, write_atomically

SAMPLES_FILE = "samples.txt"
PLOT_FILE = "loss.png"


def bits_per_byte(sums: Sums) -> float:
    """Total negative log2-likelihood, ends of text included, over the number of real bytes."""
    return sums.nats / math.log(2) / max(sums.bytes, 1.0)


class Report:
    """Collects the steps since the last log line, and writes one when it is due."""

    def __init__(self, experiment: Experiment, folder: Path, position: Position):
        config = experiment.training
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
        self._sums: list[Sums] = []

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

    def step(
        self,
        step: int,
        position: Position,
        sums: Sums,
        rate: float,
        grad_norm: float,
        finite: bool,
        waited: float | None,
    ) -> None:
        """A step that was read. waited: seconds spent waiting for batches so far, if known."""
        self._waited = self._waited if waited is None else waited
        if finite:
            self._sums.append(sums)
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
        if self._sums:
            total = Sums(*map(sum, zip(*self._sums)))
            values |= {
                "loss": total.nats / max(total.bytes, 1.0),
                "bits_per_byte": bits_per_byte(total),
                "accuracy": total.correct / max(total.targets, 1.0),
                "bytes_per_word": total.bytes / max(total.words, 1.0),
            }
        self._write(step, values)
        shown = ("loss", "bits_per_byte", "bytes_per_second")
        self._progress.update(step, **{name: values[name] for name in shown if name in values})
        self._logged, self._logged_waited, self._sums = position, self._waited, []

    def evaluation(self, position: Position, split: str, sums: Sums) -> None:
        bits = bits_per_byte(sums)
        self._write(position.step, {"bytes": position.bytes, f"{split}_bits_per_byte": bits})
        self.say(f"step {position.step}: {split} {bits:.4f} bits per byte")

    def samples(self, position: Position, texts: list[str]) -> None:
        """Appends generated texts to samples.txt."""
        if self._speaks:
            with (self._folder / SAMPLES_FILE).open("a", encoding="utf-8") as file:
                for number, text in enumerate(texts, start=1):
                    file.write(f"=== step {position.step}, sample {number}\n{text}\n")

    def stopped(self, position: Position) -> dict:
        return {"out": str(self._folder), "finished": False} | dataclasses.asdict(position)

    def finish(self, position: Position, heldout: Sums | None, texts: list[str]) -> dict:
        """Shows the result, and writes it with the plot; returns it."""
        result = {"out": str(self._folder), "finished": True} | dataclasses.asdict(position)
        result["bytes_per_second"] = position.bytes / max(position.seconds, 1e-9)
        if heldout is not None:
            result["heldout_bits_per_byte"] = bits_per_byte(heldout)
            result["heldout_bytes"] = int(heldout.bytes)
        if not self._speaks:
            return result
        for number, text in enumerate(texts, start=1):
            self.say(f"--- sample {number} of {len(texts)}\n{text}")
        if position.step >= self._every:
            plot = self._folder / PLOT_FILE
            plot_loss(self._folder / METRICS_FILE, plot)
            result["plot"] = str(plot)
            self.say(f"loss curve: {plot}")
        write_atomically(self._folder / RESULT_FILE, json.dumps(result, indent=2) + "\n")
        return result

    def _write(self, step: int, values: dict) -> None:
        if self._metrics:
            self._metrics.write(step, values)
