from __future__ import annotations

import io

import pytest

from hat.training import progress as module
from hat.training.progress import Progress, Stages, duration, quantity


class Clock:
    """A clock that stands still until told."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


def test_lines_come_every_ten_seconds_and_at_the_end(clock):
    stream = io.StringIO()
    with Progress("training", total=100, unit="steps", stream=stream) as progress:
        for step in range(1, 101):
            clock.now += 0.5
            progress.update(step, loss=1.0, bits_per_byte=2.125, bytes_per_second=5138.0)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 6  # at 0.5, 10.5, ... 40.5 seconds, and the last
    assert lines[0] == (
        "training   1%  0:00  1/100 steps  0:50 left  loss 1  bits/byte 2.125  5.1 kB/s"
    )
    assert lines[-1].startswith("training 100%  0:50  100/100 steps  0:00 left")


def test_time_left_follows_the_rate_of_the_last_minute(clock):
    """The first step takes 100 seconds to compile; a minute later that is forgotten."""
    progress = Progress("training", total=1000, stream=io.StringIO())
    clock.now += 100
    progress.update(1)
    assert progress.seconds_left() == pytest.approx(99_900)
    for step in range(2, 200):
        clock.now += 1
        progress.update(step)
    assert progress.seconds_left() == pytest.approx(1000 - 199)


def test_resumed_work_counts_its_own_rate(clock):
    progress = Progress("training", total=1000, done=900, elapsed_seconds=50, stream=io.StringIO())
    clock.now += 10
    progress.update(905)
    assert progress.seconds_left() == pytest.approx(95 * 2)
    assert progress.fraction() == pytest.approx(0.905)


def test_a_budget_of_seconds(clock):
    progress = Progress("training", seconds=240, elapsed_seconds=60, stream=io.StringIO())
    clock.now += 60
    progress.update(7)
    assert (progress.fraction(), progress.seconds_left()) == (0.5, 120)
    clock.now += 500
    assert (progress.fraction(), progress.seconds_left()) == (1.0, 0)


def test_an_unknown_end(clock):
    stream = io.StringIO()
    with Progress("reading", unit="B", stream=stream) as progress:
        progress.update(12_100_000, documents="3 of many")
    assert stream.getvalue().splitlines()[0] == "reading  0:00  12.1 MB  documents 3 of many"
    assert progress.fraction() is None and progress.seconds_left() is None


def test_messages_stand_between_the_lines(clock):
    stream = io.StringIO()
    with Progress("training", total=2, stream=stream) as progress:
        progress.message("a [bold]sample[/bold]")
    assert stream.getvalue() == "a [bold]sample[/bold]\n"


def test_a_terminal_gets_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    with Progress("training", total=4, unit="steps", stream=stream) as progress:
        progress.update(2, bits_per_byte=2.11)
        progress.message("a [bold]sample[/bold] of text")
    shown = stream.getvalue()
    assert "training" in shown and "2/4 steps" in shown and "━" in shown and "50%" in shown
    assert "a [bold]sample[/bold] of text" in shown


@pytest.mark.parametrize("value, unit, text", [
    (999, "B", "999 B"), (1500, "B", "1.5 kB"), (12_100_000, "B", "12.1 MB"), (3e9, "B", "3.0 GB"),
    (2000, "steps", "2,000"),
])
def test_quantity(value, unit, text):
    assert quantity(value, unit) == text


@pytest.mark.parametrize("seconds, text", [
    (0.4, "0:00"), (59.6, "1:00"), (750, "12:30"), (3599.9, "1:00:00"), (11_100, "3:05:00"),
])
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_stages_follow_each_other(clock, capsys):
    with Stages("B") as progress:
        for done in (10, 2000):
            clock.now += 1
            progress("reading", done, 0)  # a total of 0 is not known yet
        clock.now += 1
        progress("packing", 500, 1000)
        progress("packing", 1000, 1000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("reading") and "%" not in lines[0]
    assert lines[1].endswith("2.0 kB")
    assert lines[2].startswith("packing  50%") and lines[-1].startswith("packing 100%")
    assert len(lines) == 4
