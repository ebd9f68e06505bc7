"""A HAT around the blocks of Llama 3.1 8B: 7,192,495,104 parameters in the released layout.

Sizes: arXiv 2603.15953. The rotary settings and epsilons of its encoder and decoder are not
published; those of Llama 3.1 (without the scaling, since no byte sees more than 768 others)
stand in for them.
"""

from __future__ import annotations

from hat.models.hat import ConnectorConfig, HatConfig
from hat.models.layers import RopeScaling, StackConfig


def model() -> HatConfig:
    return HatConfig(
        encoder=StackConfig(
            hidden_size=1024,
            num_layers=6,
            num_heads=8,
            intermediate_size=2816,
            window=768,
            rope_theta=500_000.0,
        ),
        connector=ConnectorConfig(hidden_size=4096, num_heads=32),
        backbone=StackConfig(
            hidden_size=4096,
            num_layers=32,
            num_heads=32,
            num_kv_heads=8,
            intermediate_size=14_336,
            rope_theta=500_000.0,
            rope_scaling=RopeScaling(),
        ),
        decoder=StackConfig(
            hidden_size=1024,
            num_layers=4,
            num_heads=8,
            intermediate_size=2816,
            window=768,
            rope_theta=500_000.0,
        ),
        remat="full",
    )
