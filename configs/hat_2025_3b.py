"""The HAT of the first paper, 3B: a backbone of 28 layers and 4.3 billion parameters, encoder and
decoder of 3 layers and 24 million each. All else is that of hat_2025_1b.py."""

from pathlib import Path

from hat.config import load, override
from hat.training.experiment import Experiment


def config() -> Experiment:
    changes = [
        "name=hat_2025_3b",
        "model.backbone.hidden_size=3584",
        "model.backbone.num_layers=28",
        "model.backbone.num_heads=28",
        "model.backbone.intermediate_size=9600",
        "training.optimizer.learning_rate=3.4e-4",
    ]
    return override(load(Path(__file__).with_name("hat_2025_1b.py")), changes)
