"""Pods and clusters by name, and how fast their chips exchange data along an axis of a mesh."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import re

from hat.errors import UserError
from hat.training.chips import CHIPS, Chip

# What can be rented. v5e and v6e are sold in these rectangles; v5p in boxes of whole cubes of 4
# (and parts of one), each dimension at least as long as the one before.
_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_BOXES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4") + tuple(
    "x".join(map(str, dims))
    for dims in itertools.combinations_with_replacement(range(4, 25, 4), 3)
    if dims[0] <= 16 and dims[1] <= 16 and math.prod(dims) <= 6144
)
PODS = {"v5e": _FLAT, "v6e": _FLAT, "v5p": _BOXES}  # compiled for, with libtpu
USABLE_BYTES = {"v5e": 15.75 * 2**30, "v5p": 95.74 * 2**30, "v6e": 31.25 * 2**30}
CLUSTERS = ("a100", "h100", "h200")  # by formula alone: nothing compiles for a GPU not there


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips of one kind. dims: of the torus; (number,) for GPUs, in nodes joined by a network."""

    chip: Chip
    dims: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.dims))}"

    @property
    def num_chips(self) -> int:
        return math.prod(self.dims)

    @property
    def is_pod(self) -> bool:
        """Whether the step can be compiled for it."""
        return self.chip.name in PODS

    @property
    def usable_bytes(self) -> float:
        """HBM of a chip that a program may fill: what libtpu reports, or a GPU's own less 8 %."""
        return USABLE_BYTES.get(self.chip.name, 0.92 * self.chip.hbm_bytes)

    def bytes_per_second(self, mesh: dict[str, int]) -> dict[str, float]:
        """For every axis of `mesh` (sizes by name, the innermost last), how fast a chip receives
        what the others on the axis send it, when all send at once.

        In a torus the innermost axis takes the last dimensions. A whole dimension that is a ring
        brings data from both sides, part of a dimension or an open one from one side; dimensions
        add up. GPUs fill a node first; an axis that leaves the node goes at the network's speed,
        times the chips of the node that share the axis.
        """
        chip = self.chip
        result = {}
        if not chip.torus_dims:
            inside = 1  # chips of a node used up by the axes further in
            for name, size in reversed(mesh.items()):
                free = max(chip.chips_per_node // inside, 1)
                network = chip.network_bytes_per_second * free
                fits = size <= free
                result[name] = chip.link_bytes_per_second if fits else min(
                    network, chip.link_bytes_per_second)
                inside *= size
            return result
        free = list(self.dims)
        for name, size in reversed(mesh.items()):
            links, left = 0, size
            while left > 1 and free:
                if left % free[-1] == 0:  # the dimension, or what is left of it, as a whole
                    length = free.pop()
                    whole = length == self.dims[len(free)] and self._is_ring(length)
                    links += 2 if whole else 1
                    left //= length
                else:
                    shared = math.gcd(left, free[-1])
                    if shared == 1:
                        break  # an odd shape: whatever links it has so far
                    free[-1] //= shared
                    links += 1
                    left //= shared
            result[name] = max(links, 1) * chip.link_bytes_per_second
        return result

    def _is_ring(self, length: int) -> bool:
        return length % (16 if self.chip.torus_dims == 2 else 4) == 0


def parse_topology(text: str) -> Topology:
    """`v5p:8x8x8` (chips along the torus) or `h100:64` (number of GPUs).

    UserError: no such chip or pod, the nearest named.
    """
    name, _, size = text.strip().lower().partition(":")
    if name in CLUSTERS:
        if not re.fullmatch("[1-9][0-9]*", size):
            raise UserError(f"--topology {text}: give the number of GPUs, such as {name}:64")
        count, node = int(size), CHIPS[name].chips_per_node
        if count > node and count % node:
            raise UserError(
                f"--topology {text}: nodes have {node} GPUs; give a multiple, such as "
                f"{name}:{-(-count // node) * node}"
            )
        return Topology(CHIPS[name], (count,))
    if name not in PODS:
        chips = [*PODS, *CLUSTERS]
        near = difflib.get_close_matches(name, chips, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(chips)}"
        raise UserError(f"--topology {text}: no chip {name!r}; {hint} (as in v5p:8x8x8, h100:64)")
    if size not in PODS[name]:
        raise UserError(f"--topology {text}: no such pod; {_suggestion(name, size)}")
    return Topology(CHIPS[name], tuple(map(int, size.split("x"))))


def _suggestion(name: str, size: str) -> str:
    """The pod of the same dimensions in order, or those with the nearest number of chips."""
    numbers = [int(number) for number in re.findall("[0-9]+", size)]
    ordered = "x".join(map(str, sorted(numbers)))
    if ordered in PODS[name]:
        return f"did you mean {name}:{ordered}?"
    if not numbers:
        return f"give its shape, such as {name}:{PODS[name][-1]}"
    wanted = math.prod(numbers)
    kind = f"{numbers[0]} is a number, not a shape: " if len(numbers) == 1 else ""

    def distance(pod: str) -> tuple[float, int]:  # of two with as many chips, the squarer
        dims = [int(dim) for dim in pod.split("x")]
        return abs(math.log(math.prod(dims) / max(wanted, 1))), dims[-1]

    nearest = sorted(PODS[name], key=distance)[:3]
    return f"{kind}nearest are {', '.join(f'{name}:{pod}' for pod in nearest)}"
