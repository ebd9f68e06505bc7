"""The TPU slices that can be asked for: chips, hosts, and the names that each service gives them.

A slice is written as `hat plan` writes it, `v5p:8x8x8`: generation, and chips along each axis of
the torus. Every chip of these generations is one JAX device.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import NamedTuple

from hat.errors import UserError

CHIPS_PER_HOST = 4  # of a slice that spans hosts; up to 8 chips of v5e and v6e share one host


class Generation(NamedTuple):
    """accelerator_type: of Cloud TPU, where {} is `units_per_chip` x chips (v5p counts cores).
    runtime_version: the software image of a TPU VM. gke: the node label of GKE.
    whole_host: the most chips that one host holds. topologies: the shapes on offer."""

    accelerator_type: str
    units_per_chip: int
    runtime_version: str
    gke: str
    whole_host: int
    topologies: tuple[str, ...]


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_TORUS = (
    "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16",
    "16x16x16",
)  # fmt: skip
GENERATIONS: Mapping[str, Generation] = {
    "v5e": Generation(
        "v5litepod-{}", 1, "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", 8, _FLAT
    ),
    "v5p": Generation("v5p-{}", 2, "v2-alpha-tpuv5", "tpu-v5p-slice", 4, _TORUS),
    "v6e": Generation("v6e-{}", 1, "v2-alpha-tpuv6e", "tpu-v6e-slice", 8, _FLAT),
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """A TPU slice. generation: "v5p". shape: "8x8x8". chips, hosts: how many of each."""

    generation: str
    shape: str

    @property
    def chips(self) -> int:
        return math.prod(map(int, self.shape.split("x")))

    @property
    def hosts(self) -> int:
        whole = self.chips <= GENERATIONS[self.generation].whole_host
        return 1 if whole else self.chips // CHIPS_PER_HOST

    @property
    def accelerator_type(self) -> str:
        """The name of Cloud TPU and XPK: v5p-1024 is v5p:8x8x8."""
        generation = GENERATIONS[self.generation]
        return generation.accelerator_type.format(self.chips * generation.units_per_chip)


def parse_slice(text: str) -> Slice:
    """The slice that `text` names. UserError: there is none; the nearest is suggested."""
    generation, _, shape = text.partition(":")
    if generation in GENERATIONS and shape in GENERATIONS[generation].topologies:
        return Slice(generation, shape)
    if generation in GENERATIONS:
        known = [f"{generation}:{shape}" for shape in GENERATIONS[generation].topologies]
    else:
        known = [f"{name}:{shape}" for name, g in GENERATIONS.items() for shape in g.topologies]
    near = difflib.get_close_matches(text, known, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]}?" if near else "."
    raise UserError(f"topology {text!r} does not exist{hint} Topologies: {', '.join(known)}")
