"""The supervisor over small programs: restarts, signals, exit statuses, output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import hat

# A supervisor as a process of its own, so that it can be sent signals: argv is the folder, the
# number of restarts, the grace in seconds, and a Python program for each process.
SUPERVISOR = """
import os, sys
from hat.launching.supervisor import Process, supervise
folder, restarts, grace, *programs = sys.argv[1:]
def plan():
    with open(folder + "/starts", "a") as file:
        file.write("x")
    return [Process([sys.executable, "-c", p, folder], dict(os.environ, INDEX=str(i)))
            for i, p in enumerate(programs)]
sys.exit(supervise(plan, int(restarts), float(grace), restart_seconds=0.0))
"""
PRELUDE = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
attempt = len((folder / "starts").read_text())
def forever():
    (folder / ("ready" + os.environ["INDEX"])).write_text(str(os.getpid()))
    while True:
        time.sleep(0.01)
"""
FOREVER = "forever()"
DRAINS = """
signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(0)))
forever()
"""
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nforever()"


def start(folder: Path, restarts: int, *programs: str, grace: float = 60.0) -> subprocess.Popen:
    programs = [PRELUDE + textwrap.dedent(program) for program in programs]
    return subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(folder), str(restarts), str(grace), *programs],
        env={**os.environ, "PYTHONPATH": str(Path(hat.__file__).parents[1])},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def starts(folder: Path) -> int:
    return len((folder / "starts").read_text())


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def pids(folder: Path, count: int) -> list[int]:
    """Process ids of `count` programs, once all run `forever()`."""
    paths = [folder / f"ready{i}" for i in range(count)]
    wait_for(lambda: all(path.exists() and path.read_text() for path in paths))
    return [int(path.read_text()) for path in paths]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_output_is_passed_on_with_the_number_of_the_process(tmp_path):
    status, out, err = finish(start(
        tmp_path, 0,
        "print('one'); print('two', end='')",
        "sys.stdout.buffer.write(b'\\xff!\\n'); print('oops', file=sys.stderr)",
    ))  # fmt: skip
    assert status == 0
    assert sorted(out.splitlines()) == ["[0] one", "[0] two", "[1] \ufffd!"]
    assert err == "[1] oops\n"


def test_a_lot_of_output_is_complete(tmp_path):
    status, out, _ = finish(start(tmp_path, 0, "print('x' * 300_000); print('end')"))
    assert (status, out) == (0, f"[0] {'x' * 300_000}\n[0] end\n")


def test_a_process_that_dies_takes_the_others_with_it_and_all_start_again(tmp_path):
    dies_once = "sys.exit(0 if attempt == 2 else 7)"
    waits_once = "sys.exit(0) if attempt == 2 else forever()"
    status, _, err = finish(start(tmp_path, 3, waits_once, dies_once))
    assert (status, starts(tmp_path)) == (0, 2)
    assert "process 1 ended with status 7; the others were stopped" in err
    assert "starting all again; restarts left: 3" in err


def test_restarts_are_counted(tmp_path):
    status, _, err = finish(start(tmp_path, 2, "sys.exit(7)"))
    assert (status, starts(tmp_path)) == (7, 3)
    assert err.count("starting all again") == 2


def test_death_by_a_signal_is_128_and_its_number(tmp_path):
    status, _, err = finish(start(tmp_path, 0, "os.kill(os.getpid(), signal.SIGKILL)", FOREVER))
    assert status == 128 + 9 and "process 0 ended with signal SIGKILL" in err


def test_a_mistake_of_the_user_is_not_repeated(tmp_path):
    status, _, _ = finish(start(tmp_path, 5, "sys.exit(2)", DRAINS))
    assert (status, starts(tmp_path)) == (2, 1)


def test_a_mistake_counts_though_another_died_of_it_first(tmp_path):
    mistaken = """
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
        forever()
    """
    died_of_it = "while not (folder / 'ready0').exists(): pass\nsys.exit(134)"
    status, _, err = finish(start(tmp_path, 5, mistaken, died_of_it))
    assert (status, starts(tmp_path)) == (2, 1)
    assert "process 0 ended with status 2" in err


def test_a_process_that_does_not_stop_is_killed(tmp_path):
    dies_later = "while not (folder / 'ready1').exists(): pass\nsys.exit(7)"
    status, _, _ = finish(start(tmp_path, 0, dies_later, DEAF, grace=0.1))
    assert status == 7
    wait_for(lambda: not any(map(alive, pids_of(tmp_path, 1))))


def pids_of(folder: Path, *indices: int) -> list[int]:
    return [int((folder / f"ready{i}").read_text()) for i in indices]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_all_save_and_ends_with_0(tmp_path, number):
    process = start(tmp_path, 3, DRAINS, DRAINS)
    pids(tmp_path, 2)
    process.send_signal(number)
    status, out, _ = finish(process)
    assert (status, starts(tmp_path)) == (0, 1)
    assert sorted(out.splitlines()) == ["[0] saved", "[1] saved"]


def test_a_signal_ends_those_that_do_not_listen(tmp_path):
    process = start(tmp_path, 3, DRAINS, DEAF, grace=0.1)
    running = pids(tmp_path, 2)
    process.send_signal(signal.SIGTERM)
    status, _, _ = finish(process)
    assert (status, starts(tmp_path)) == (128 + 9, 1)
    wait_for(lambda: not any(map(alive, running)))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child")
def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path):
    process = start(tmp_path, 3, DEAF, DEAF)
    running = pids(tmp_path, 2)
    process.kill()
    process.wait()
    wait_for(lambda: not any(map(alive, running)))


def test_what_a_process_started_ends_with_it(tmp_path):
    program = """
        import subprocess
        child = subprocess.Popen([sys.executable, "-c", "import time\\nwhile True: time.sleep(1)"])
        (folder / "ready9").write_text(str(child.pid))
        sys.exit(7)
    """
    status, _, _ = finish(start(tmp_path, 0, program))
    assert status == 7
    wait_for(lambda: not any(map(alive, pids_of(tmp_path, 9))))
