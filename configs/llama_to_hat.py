"""A Llama 3.1 8B that learns to read bytes: training that begins with its converted blocks.

    hat convert path/to/llama --to hat --config configs/llama_to_hat.py --out ckpt
    hat train configs/llama_to_hat.py --set init=ckpt data.source=TEXT
"""

import dataclasses
from pathlib import Path

from hat.config import load
from hat.training.experiment import Experiment


def config() -> Experiment:
    hat = load(Path(__file__).with_name("tfree_hat_8b_llama.py"))
    return dataclasses.replace(hat, name="llama_to_hat", init="ckpt")
