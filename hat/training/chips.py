"""What accelerators can do, from their makers' data sheets: the denominators of MFU and plans.

FLOP/s are dense bfloat16, without sparsity. A link is one of a TPU's wires to a neighbour in the
torus, in one direction; a GPU has one "link", its switch. The network joins TPU slices, or GPU
nodes, and is given per chip.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    name: str
    flops_per_second: float
    hbm_bytes: float
    hbm_bytes_per_second: float
    link_bytes_per_second: float
    torus_dims: int  # 0: all chips of a node are joined by a switch
    network_bytes_per_second: float
    chips_per_node: int


_GB, _TERA = 1e9, 1e12

CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275 * _TERA, 32 * _GB, 1228 * _GB, 45 * _GB, 3, 6.25 * _GB, 4),
        Chip("v5e", 197 * _TERA, 16 * _GB, 819 * _GB, 45 * _GB, 2, 3.125 * _GB, 4),
        Chip("v5p", 459 * _TERA, 95 * _GB, 2765 * _GB, 90 * _GB, 3, 6.25 * _GB, 4),
        Chip("v6e", 918 * _TERA, 32 * _GB, 1640 * _GB, 90 * _GB, 2, 12.5 * _GB, 4),
        Chip("a100", 312 * _TERA, 80 * _GB, 2039 * _GB, 300 * _GB, 0, 25 * _GB, 8),
        Chip("h100", 989 * _TERA, 80 * _GB, 3350 * _GB, 450 * _GB, 0, 50 * _GB, 8),
        Chip("h200", 989 * _TERA, 141 * _GB, 4800 * _GB, 450 * _GB, 0, 50 * _GB, 8),
    )
}

# What JAX calls them (`jax.Device.device_kind`); the longer beginning first.
_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5p": "v5p",
    "TPU v5": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
    "NVIDIA A100": "a100",
    "NVIDIA H100": "h100",
    "NVIDIA H200": "h200",
}


def find_chip(device_kind: str) -> Chip | None:
    """The chip that JAX calls `device_kind`; None for one without a data sheet here, a CPU too."""
    for beginning, name in _KINDS.items():
        if device_kind.startswith(beginning):
            return CHIPS[name]
    return None
