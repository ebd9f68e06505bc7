"""Progress of long work on standard error: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TextIO

LINE_EVERY_SECONDS = 10.0
RATE_OVER_SECONDS = 60.0


class Progress:
    """Shows how far work has come, what it measures and how long it still takes.

        with Progress("training", total=2000, unit="steps") as progress:
            progress.update(step, loss=1.46, bits_per_byte=2.11, bytes_per_second=5138.0)

    Work ends after `total` units, or after `seconds` of them on the clock, or, given neither, at
    an end that nobody knows. `done` and `elapsed_seconds` say where resumed work begins. Nothing
    is written by an update that comes too soon after the last, so update as often as you like.
    """

    def __init__(
        self,
        description: str,
        *,
        total: float | None = None,
        seconds: float | None = None,
        unit: str = "",
        done: float = 0,
        elapsed_seconds: float = 0.0,
        stream: TextIO | None = None,
    ):
        self.description = description
        self.total, self.seconds, self.unit = total, seconds, unit
        self._stream = stream or sys.stderr
        self._done = done
        self._began = time.monotonic() - elapsed_seconds
        self._recent = deque([(time.monotonic(), done)])  # for the rate, hence for the time left
        self._values: dict[str, float | str] = {}
        self._line_at = float("-inf")
        self._bar = _Bar(self._stream, description) if self._stream.isatty() else None

    def update(self, done: float, **values: float | str) -> None:
        """`done` units are finished; `values` stand beside the bar until replaced."""
        now = time.monotonic()
        self._done = done
        self._values.update(values)
        self._recent.append((now, done))
        # The oldest point kept is the last one beyond the window: at least two remain.
        while len(self._recent) > 2 and self._recent[1][0] <= now - RATE_OVER_SECONDS:
            self._recent.popleft()
        if self._bar:
            self._bar.show(self.fraction(), self.text())
        elif now - self._line_at >= LINE_EVERY_SECONDS:
            self._write_line(now)

    def message(self, text: str) -> None:
        """A line of its own: above the bar, or between the plain lines."""
        if self._bar:
            self._bar.print(text)
        else:
            print(text, file=self._stream, flush=True)

    def fraction(self) -> float | None:
        """The share of the work that is done, 0 to 1; None if the end is unknown."""
        if self.seconds:
            return min(1.0, (time.monotonic() - self._began) / self.seconds)
        return min(1.0, self._done / self.total) if self.total else None

    def seconds_left(self) -> float | None:
        """At the rate of the last minute; None while there is none, or if the end is unknown."""
        if self.seconds:
            return max(0.0, self._began + self.seconds - time.monotonic())
        (then, before), (now, done) = self._recent[0], self._recent[-1]
        if not self.total or done <= before:
            return None
        return max(0.0, self.total - done) * (now - then) / (done - before)

    def text(self) -> str:
        """What stands beside the bar: `120/2,000 steps  3:20 left  bits/byte 2.11  5.1 kB/s`."""
        of = f"/{quantity(self.total, self.unit)}" if self.total else ""
        unit = "" if self.unit in ("B", "") else f" {self.unit}"
        parts = [f"{quantity(self._done, self.unit)}{of}{unit}"]
        left = self.seconds_left()
        if left is not None:
            parts.append(f"{duration(left)} left")
        parts += [_measured(name, value) for name, value in self._values.items()]
        return "  ".join(parts)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type | None, *rest: object) -> None:
        if self._bar:
            self._bar.stop()
        elif len(self._recent) > 1:
            self._write_line(time.monotonic())

    def _write_line(self, now: float) -> None:
        self._line_at = now
        fraction = self.fraction()
        share = "" if fraction is None else f" {fraction:4.0%}"
        elapsed = duration(now - self._began)
        print(f"{self.description}{share}  {elapsed}  {self.text()}", file=self._stream, flush=True)


class Stages:
    """Progress of work in stages, one bar after the other: call it with (stage, done, total).

    A total of 0 is one that is not known yet. `unit` as in `Progress`.
    """

    def __init__(self, unit: str = ""):
        self._unit = unit
        self._stage: str | None = None
        self._progress: Progress | None = None

    def __call__(self, stage: str, done: float, total: float) -> None:
        if stage != self._stage:
            self.__exit__(None)
            self._stage = stage
            self._progress = Progress(stage, total=total or None, unit=self._unit).__enter__()
        self._progress.update(done)

    def __enter__(self) -> Stages:
        return self

    def __exit__(self, kind: type | None, *rest: object) -> None:
        if self._progress:
            self._progress.__exit__(kind, *rest)


def warn(text: str) -> None:
    """A line on standard error that is no error."""
    print(text, file=sys.stderr, flush=True)


class _Bar:
    """The bar of a terminal, by rich."""

    def __init__(self, stream: TextIO, description: str):
        # Imported here: where there is no terminal, nothing needs rich.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._rich = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[text]}", style="dim"),
            console=Console(file=stream),
            refresh_per_second=4,
        )
        self._task = self._rich.add_task(description, total=None, text="")
        self._rich.start()

    def show(self, fraction: float | None, text: str) -> None:
        total = None if fraction is None else 1.0
        self._rich.update(self._task, total=total, completed=fraction, text=text)

    def print(self, text: str) -> None:
        self._rich.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        self._rich.stop()


def quantity(value: float, unit: str) -> str:
    """`12.1 MB` for bytes (unit "B"), `2,000` for anything else."""
    if unit != "B":
        return f"{value:,.0f}"
    for prefix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.1f} {prefix}B"
    return f"{value:.0f} B"


def duration(seconds: float) -> str:
    """`0:07`, `12:30`, `3:05:00`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _measured(name: str, value: float | str) -> str:
    """`loss 1.46`, `bits/byte 2.11`, `5.1 kB/s`, `MFU 43%`."""
    if name == "bytes_per_second":
        return f"{quantity(value, 'B')}/s"
    if name == "mfu":
        return f"MFU {value:.0%}"
    label = name.replace("_per_", "/").replace("_", " ")
    return f"{label} {value if isinstance(value, str) else format(value, '.4g')}"
