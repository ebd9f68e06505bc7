"""A HAT around the blocks of a Llama 70B: 69.30 billion parameters in the released layout.

Sizes: arXiv 2603.15953; see `tfree_hat_8b_llama.py` for what is not published.
"""

from __future__ import annotations

from hat.models.hat import ConnectorConfig, HatConfig
from hat.models.layers import RopeScaling, StackConfig


def model() -> HatConfig:
    return HatConfig(
        encoder=StackConfig(
            hidden_size=2048,
            num_layers=6,
            num_heads=16,
            intermediate_size=5632,
            window=768,
            rope_theta=500_000.0,
        ),
        connector=ConnectorConfig(hidden_size=8192, num_heads=64),
        backbone=StackConfig(
            hidden_size=8192,
            num_layers=80,
            num_heads=64,
            num_kv_heads=8,
            intermediate_size=28_672,
            rope_theta=500_000.0,
            rope_scaling=RopeScaling(),
        ),
        decoder=StackConfig(
            hidden_size=2048,
            num_layers=4,
            num_heads=16,
            intermediate_size=5632,
            window=768,
            rope_theta=500_000.0,
        ),
        remat="full",
    )
