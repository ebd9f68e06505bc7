"""The numbers of a run: `metrics.jsonl`, and the same as TensorBoard events.

One JSON object a line, in the order of steps. Every line has `step` (steps finished) and `bytes`
(real bytes trained on since the start). Lines of training carry `loss` (nats per byte),
`bits_per_byte`, `learning_rate`, `bytes_per_second`, on accelerators with a data sheet
(hat.training.chips) `mfu`, the share of their FLOP/s that the model's FLOPs on real bytes take, and
whatever else the loop measured; lines of evaluation carry `validation_bits_per_byte` or
`heldout_bits_per_byte`. A value that is not finite is null.

Only one process of a run writes metrics.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from hat.errors import UserError

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


class MetricsWriter:
    """Appends to the metrics of the run in `out_dir`, as it stood after `step` steps.

    Lines of later steps, written by a process that ended before their checkpoint, are dropped, so
    that the file never holds two histories: the file is replaced at once or not at all. TensorBoard
    hides its own such events the same way.
    """

    def __init__(self, out_dir: str | Path, step: int = 0):
        out_dir = Path(out_dir)
        out_dir.mkdir(parents=True, exist_ok=True)
        path = out_dir / METRICS_FILE
        if path.exists():
            _keep_until(path, step)
        self._file = path.open("a", encoding="utf-8")
        self._events = summary_writer()(str(out_dir / TENSORBOARD_FOLDER), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float | int]) -> None:
        """One line for `step`, on disk for readers when this returns."""
        line = {"step": step} | {name: _finite(value) for name, value in values.items()}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, global_step=step)

    def close(self) -> None:
        self._file.close()
        self._events.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_metrics(path: str | Path) -> list[dict]:
    """The lines of a metrics file. A last line that is cut short, as a killed process or a full
    disk leaves it, is left out; anywhere else such a line is a UserError naming it."""
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"cannot read the metrics {path}: {error.strerror}") from None
    entries = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is torn
        try:
            entry = json.loads(line)
            entry["step"] + 0
        except (ValueError, TypeError, KeyError):
            raise UserError(
                f"{path}:{number}: not a line of metrics; remove the line and repeat"
            ) from None
        entries.append(entry)
    return entries


def _keep_until(path: Path, step: int) -> None:
    kept = [entry for entry in read_metrics(path) if entry["step"] <= step]
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in kept)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def summary_writer():
    """TensorBoard's event writer. Imported where it is needed: reading metrics needs none.

    Without PyTorch, which tensorboardX would import where it is installed, for the type of its
    tensors alone: seconds at the start of every run.
    """
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # so that importing it fails, as tensorboardX expects
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    return SummaryWriter


def _finite(value: float | int) -> float | int | None:
    """`value` as a Python number; None where JSON has no way to write it."""
    value = value.item() if hasattr(value, "item") else value
    return value if math.isfinite(value) else None
