"""Trainings inside an experiment."""

from __future__ import annotations

import pytest

from hat.reproduce import finish
from hat.training.objectives import Openers
from tests.training import tiny


def test_finished_runs_are_not_trained_again(tmp_path, monkeypatch):
    trained = []

    def train(*given, openers):
        assert openers == Openers()
        trained.append(given)
        return {"finished": len(trained) < 3}

    monkeypatch.setattr(finish, "train", train)
    experiment = tiny.experiment(tmp_path, "training.steps=10")
    finish.finish(experiment, tmp_path)
    (tmp_path / "result.json").write_text('{"step": 9}')
    finish.finish(experiment, tmp_path)
    assert trained == [(experiment, tmp_path)] * 2
    (tmp_path / "result.json").write_text('{"step": 10}')
    finish.finish(experiment, tmp_path)
    assert len(trained) == 2
    (tmp_path / "result.json").unlink()
    with pytest.raises(KeyboardInterrupt):  # told to stop: nothing goes on with half a model
        finish.finish(experiment, tmp_path)
