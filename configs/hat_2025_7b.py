"""The HAT of the first paper, 7B: a backbone of 36 layers and 9.2 billion parameters, encoder and
decoder of 4 layers and 55 million each. All else is that of hat_2025_1b.py."""

from pathlib import Path

from hat.config import load, override
from hat.training.experiment import Experiment


def config() -> Experiment:
    changes = [
        "name=hat_2025_7b",
        "model.backbone.hidden_size=4608",
        "model.backbone.num_layers=36",
        "model.backbone.num_heads=36",
        "model.backbone.intermediate_size=12288",
        *(
            f"model.{stack}.{size}"
            for stack in ("encoder", "decoder")
            for size in ("hidden_size=1024", "num_layers=4", "num_heads=8", "intermediate_size=2736")
        ),
        "training.optimizer.learning_rate=2.7e-4",
    ]
    return override(load(Path(__file__).with_name("hat_2025_1b.py")), changes)
