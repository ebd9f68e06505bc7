"""A HAT around the blocks of a Llama 70B: 69.30 billion parameters in the released layout.

The 8B one with other sizes (arXiv 2603.15953); see there for what is not published.
"""

from pathlib import Path

from hat.config import load, override
from hat.training.experiment import Experiment


def config() -> Experiment:
    small = load(Path(__file__).with_name("tfree_hat_8b_llama.py"))
    bytewise = "hidden_size=2048", "num_heads=16", "intermediate_size=5632"
    return override(
        small,
        [
            "name=tfree_hat_70b",
            *(f"model.encoder.{size}" for size in bytewise),
            "model.connector.hidden_size=8192",
            "model.connector.num_heads=64",
            "model.backbone.hidden_size=8192",
            "model.backbone.num_layers=80",
            "model.backbone.num_heads=64",
            "model.backbone.intermediate_size=28672",
            *(f"model.decoder.{size}" for size in bytewise),
        ],
    )
