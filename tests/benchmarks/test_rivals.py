"""`hat bench rivals`: one table, equal parameters, and rivals that are charged alike."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math

import numpy as np
import pytest

from hat.benchmarks import rivals
from hat.cli import main
from hat.errors import UserError
from hat.text.ids import BOS, EOT, PAD

needs_megabyte = pytest.mark.skipif(
    importlib.util.find_spec("MEGABYTE_pytorch") is None,
    reason="MEGABYTE-pytorch is not installed: pip install -e '.[rivals]'",
)


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("HAT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "tiny.py"
    path.write_text(
        "from pathlib import Path\n"
        "from tests.training import tiny\n"
        "def config():\n"
        f"    return tiny.experiment(Path({str(tmp_path)!r}))\n"
    )
    return path


@needs_megabyte
def test_a_table_of_all(config, capsys):
    assert main(["bench", "rivals", str(config), "--seconds", "1", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert list(results) == ["tiny", "MEGABYTE-pytorch"]
    ours, theirs = results.values()
    assert ours["heldout_bytes"] == theirs["heldout_bytes"] > 0
    for row in (ours, theirs):
        assert row["steps"] > 0 and row["bytes_per_second"] > 0
        assert 0 < row["heldout_bits_per_byte"] < 9
    assert ours["ratio"] == 1.0


def test_without_the_package_the_reason_is_told(config, monkeypatch, capsys):
    monkeypatch.setattr(rivals.importlib.util, "find_spec", lambda name: None)
    row = {"parameters": 1, "steps": 1, "bytes_per_second": 2.0, "heldout_bits_per_byte": 3.0,
           "heldout_bytes": 4}  # fmt: skip
    monkeypatch.setattr(rivals, "train_ours", lambda experiment: row)
    assert main(["bench", "rivals", str(config)]) == 0
    assert "skipped: MEGABYTE-pytorch is not installed; pip install" in capsys.readouterr().out


@needs_megabyte
def test_its_width_gives_it_our_parameters():
    """Within a step of the width: 4 of about 130, so 6 % of the parameters from end to end."""
    found = rivals.count(rivals.megabyte_of_size(1_210_848, 512))
    assert abs(found / 1_210_848 - 1) < 0.03


@needs_megabyte
def test_it_predicts_what_it_has_not_seen():
    """Logits at a position depend on no later id, so that its bits per byte are honest."""
    import torch

    torch.manual_seed(0)
    model = rivals.megabyte(64, 32)
    tokens = torch.randint(0, 256, (1, 32))
    with torch.no_grad():
        whole = model(tokens)
        for at in (0, 3, 4, 17, 30):
            other = tokens.clone()
            other[:, at + 1 :] = 7
            # float32 sums of another order, of logits of about 1
            assert torch.allclose(model(other)[:, : at + 1], whole[:, : at + 1], atol=1e-5)
            assert not torch.allclose(model(other)[:, at + 1 :], whole[:, at + 1 :], atol=1e-2)


def test_it_is_charged_for_the_same_targets():
    """By hand: two documents in a row, and padding; a model that gives every id the same odds."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tokens = np.array([[BOS, 65, 66, EOT, BOS, 67, EOT, PAD]])
    batch = {
        "tokens": tokens,
        "segment": np.array([[1, 1, 1, 1, 2, 2, 2, 0]]),
        "token_bytes": (tokens < 256).astype(np.int32),
    }
    nats, targets, num_bytes = rivals.sums(lambda ids: torch.zeros(*ids.shape, 264), batch)
    assert (targets, num_bytes) == (5, 3)
    assert float(nats) == pytest.approx(5 * math.log(264), rel=1e-6)  # float32


def test_refusals(config):
    parser = argparse.ArgumentParser()
    rivals.add_arguments(parser)
    for rate in ("0", "-1", "nan"):
        arguments = parser.parse_args([str(config), "--megabyte-learning-rate", rate])
        with pytest.raises(UserError, match="give a number above 0"):
            rivals.run(arguments)
