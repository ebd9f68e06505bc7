from __future__ import annotations

import argparse
import json

import pytest

from hat.benchmarks import quickstart
from tests.distributed import processes


def parse(*argv: str):
    parser = argparse.ArgumentParser()
    quickstart.add_arguments(parser)
    return parser.parse_args(argv)


def test_it_trains_every_seed_once_and_goes_on(tmp_path, monkeypatch, capsys):
    for name, value in processes.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    config = processes.write_config(tmp_path, "training.steps=2")
    arguments = parse(str(config), "--seeds", "2", "--out", str(tmp_path / "out"))
    # The second seed is there, from an earlier call; it is not trained again.
    folder = tmp_path / "out" / f"{config.stem}-seed1"
    folder.mkdir(parents=True)
    done = {"heldout_bits_per_byte": 6.5, "heldout_bytes": 9, "step": 2, "seconds": 1.0,
            "bytes_per_second": 1.0, "finished": True}  # fmt: skip
    (folder / "result.json").write_text(json.dumps(done))
    row = quickstart.run(arguments)["results"][config.stem]
    first = json.loads((tmp_path / "out" / f"{config.stem}-seed0" / "result.json").read_text())
    assert first["step"] == 2
    assert row["bits_per_byte"] == [first["heldout_bits_per_byte"], 6.5]
    assert row["mean"] == pytest.approx((first["heldout_bits_per_byte"] + 6.5) / 2)
    assert config.stem in capsys.readouterr().out
