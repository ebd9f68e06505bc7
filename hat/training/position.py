"""Where a run stands, and the clock that it is measured by."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager

from hat.training.config import TrainingConfig


@dataclasses.dataclass(frozen=True)
class Position:
    """How far a run is; kept in every checkpoint.

    A step counts when it is launched, and what it measured when that is read, a step later.
    """

    step: int = 0  # steps so far, and the index of the next batch: all the state of the data
    seconds: float = 0.0  # on the clock of training
    bytes: int = 0  # real bytes that were predicted
    skipped: int = 0  # steps that changed nothing, their loss or gradient not being finite
    skipped_in_a_row: int = 0

    def launched(self, seconds: float) -> Position:
        return dataclasses.replace(self, step=self.step + 1, seconds=seconds)

    def landed(self, num_bytes: float, finite: bool) -> Position:
        return dataclasses.replace(
            self,
            bytes=self.bytes + int(num_bytes),
            skipped=self.skipped + (not finite),
            skipped_in_a_row=0 if finite else self.skipped_in_a_row + 1,
        )

    def progress(self, config: TrainingConfig) -> float:
        """The share of the run that has passed when the step to come is finished, 0 to 1."""
        if config.steps is not None:
            return (self.step + 1) / config.steps
        return min(1.0, self.seconds / config.seconds)

    def finished(self, config: TrainingConfig) -> bool:
        if config.steps is not None:
            return self.step >= config.steps
        return self.seconds >= config.seconds


class Clock:
    """Seconds of training: compilation, evaluation, samples and saving do not count."""

    def __init__(self, seconds: float):
        self._start = time.perf_counter() - seconds

    def read(self) -> float:
        return time.perf_counter() - self._start

    @contextmanager
    def paused(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._start += time.perf_counter() - began
