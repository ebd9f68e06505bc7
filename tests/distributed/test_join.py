"""How processes find each other: what the environment may say, and what is said when it fails."""

from __future__ import annotations

import jax
import pytest

from hat.cli import main
from hat.errors import UserError
from hat.training.distributed import expect, join, on_first
from hat.training.watchdog import TRY_AGAIN
from tests.distributed import processes


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"HAT_DISTRIBUTED": "yes"}, "HAT_DISTRIBUTED=yes: set it to auto"),
        ({"HAT_DISTRIBUTED": "auto", "HAT_PROCESS_ID": "0"}, "leave HAT_COORDINATOR"),
        ({"HAT_COORDINATOR": "a:1"}, "set without HAT_NUM_PROCESSES, HAT_PROCESS_ID"),
        ({"HAT_COORDINATOR": "host"}, "such as 10.0.0.2:8476"),
        ({"HAT_COORDINATOR": "host:0"}, "such as 10.0.0.2:8476"),
        ({"HAT_NUM_PROCESSES": "two"}, "HAT_NUM_PROCESSES=two: give a number"),
        ({"HAT_PROCESS_ID": "2"}, "ids run from 0"),
        ({"HAT_PROCESS_ID": "-1"}, "HAT_PROCESS_ID=-1: give a number"),
        ({"HAT_CONNECT_SECONDS": "nan"}, "HAT_CONNECT_SECONDS=nan: give a number"),
    ],
)
def test_a_malformed_environment_is_refused_before_anything_waits(environment, said):
    whole = {"HAT_COORDINATOR": "localhost:1", "HAT_NUM_PROCESSES": "2", "HAT_PROCESS_ID": "1"}
    alone = "HAT_DISTRIBUTED" in environment or environment == {"HAT_COORDINATOR": "a:1"}
    with pytest.raises(UserError) as error:
        join(environment if alone else whole | environment)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_an_environment_without_a_word_of_it_is_one_process():
    join({"HAT_CACHE": "somewhere"})
    assert jax.process_count() == 1


def test_counts_are_compared():
    devices = jax.device_count()
    expect(None, None)
    expect(1, devices)
    with pytest.raises(UserError, match=f"expected 4 processes, found 1 processes with {devices}"):
        expect(4, devices)
    with pytest.raises(UserError, match=f"expected 64 devices, found .* {devices} cpu devices"):
        expect(None, 64)


def test_the_command_compares_them_before_it_makes_anything(tmp_path, capsys):
    config = processes.write_config(tmp_path)
    words = ["train", str(config), "--out", str(tmp_path / "run"), "--expect-devices", "4096"]
    assert main(words) == 2
    assert "hat: error: expected 4096 devices, found" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_error_of_the_first_process_is_its_own():
    def fail():
        raise UserError("no")

    with pytest.raises(UserError, match="^no$"):
        on_first(fail, elsewhere=None)
    assert on_first(lambda: 3, elsewhere=None) == 3


def test_processes_that_wait_in_vain_say_so_and_end(tmp_path):
    """One whose coordinator is not there, and a coordinator to whom nobody comes."""
    config = processes.write_config(tmp_path)
    words = ["train", str(config), "--out", str(tmp_path / "run")]
    port = processes.free_port()
    # A port where nobody listens for the first; the second listens itself.
    lonely = [
        {"HAT_COORDINATOR": f"localhost:{port}", "HAT_PROCESS_ID": "1"},
        {"HAT_COORDINATOR": f"localhost:{processes.free_port()}", "HAT_PROCESS_ID": "0"},
    ]
    started = [
        processes.start(
            1, words, tmp_path, HAT_NUM_PROCESSES="2", HAT_CONNECT_SECONDS="1", **one
        )[0]
        for one in lonely
    ]
    (status, _, nobody), (other_status, _, alone) = processes.finish(started)
    assert status == other_status == TRY_AGAIN
    assert "waited 1 seconds (HAT_CONNECT_SECONDS) for 2 processes at localhost:" in nobody
    assert "nothing answers there" in nobody and "Traceback" not in nobody
    assert "not all of them have come" in alone and "Traceback" not in alone
    assert not (tmp_path / "run").exists()
