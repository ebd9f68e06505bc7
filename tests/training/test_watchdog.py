"""The watchdog: what it writes, and when it keeps quiet."""

from __future__ import annotations

import threading

import pytest

from hat.training import watchdog as module
from hat.training.watchdog import TRY_AGAIN, Watchdog


@pytest.fixture
def exits(monkeypatch):
    """(the statuses that a watchdog ended the process with, an event that the first one sets)"""
    statuses, ended = [], threading.Event()

    def leave(status):
        statuses.append(status)
        ended.set()

    monkeypatch.setattr(module.os, "_exit", leave)
    return statuses, ended


def test_a_stalled_step_is_reported_with_all_stacks(tmp_path, exits, capfd):
    statuses, ended = exits
    release = threading.Event()

    def a_thread_that_waits_for_ever():
        release.wait()

    waiting = threading.Thread(target=a_thread_that_waits_for_ever)
    waiting.start()
    dog = Watchdog(0.2, tmp_path)
    dog.beat(7)
    assert ended.wait(60)
    dog.close()
    release.set()
    waiting.join()
    assert set(statuses) == {TRY_AGAIN}
    report = next(tmp_path.glob("stall-*-process-0.txt"))
    for text in (report.read_text(), capfd.readouterr().err):
        assert "hat: error: no step for 0.2 seconds (training.stall_seconds) in step 7" in text
        assert "a_thread_that_waits_for_ever" in text  # the other thread's stack
        assert "test_a_stalled_step_is_reported_with_all_stacks" in text  # the main thread's


def test_it_ends_the_process_even_where_the_report_cannot_be_written(tmp_path, exits, monkeypatch):
    statuses, ended = exits
    monkeypatch.setattr(module, "REPORT_SECONDS", 0.1)
    monkeypatch.setattr(Watchdog, "_report", lambda self: threading.Event().wait())
    dog = Watchdog(0.1, tmp_path)
    dog.beat(1)
    assert ended.wait(60)
    dog.close()
    assert set(statuses) == {TRY_AGAIN}


def test_it_minds_nothing_but_the_time_of_a_step(tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    dog = Watchdog(60.0, tmp_path)
    dog.close()  # the thread; what it asks is asked here
    now += 3600  # compiling: nothing has begun yet
    assert not dog.stalled()
    for step in range(10):  # no step takes too long, all of them together do
        dog.beat(step)
        now += 59
        assert not dog.stalled()
    with dog.paused():
        now += 3600  # evaluation, samples, saving
        assert not dog.stalled()
    now += 59
    assert not dog.stalled()
    now += 2
    assert dog.stalled()


def test_none_watches_nothing(tmp_path, monkeypatch):
    threads = threading.active_count()
    dog = Watchdog(None, tmp_path)
    dog.beat(1)
    monkeypatch.setattr(module.time, "monotonic", lambda: 1e12)
    assert not dog.stalled() and threading.active_count() == threads
