"""From what a chip computes, reads and receives in a step to the time that the step takes.

Times rest on data sheets and on constants that no chip was asked about: see UNCERTAINTY.
"""

from __future__ import annotations

import dataclasses
import math

from hat.planning.topology import Topology

UNCERTAINTY = (
    "FLOPs are counted and, where compiled, memory is the compiler's: trust both. Times are "
    "estimates, never measured on a chip: take them as +-30 %, and as a ranking"
)

# The share of its peak that one large bf16 product reaches. TPUs: what the compiler's own cycle
# estimates give; GPUs: typical of published runs.
PRODUCT_EFFICIENCY = {
    "v5e": 0.88, "v5p": 0.90, "v6e": 0.70, "a100": 0.80, "h100": 0.70, "h200": 0.70,
}  # fmt: skip

# These two reproduce the compiler's own cycles on two programs for v5e within 1 % (launch/tpu.md).
FUSED_PRODUCTS = 0.90  # of PRODUCT_EFFICIENCY: what is fused into products slows them
OTHER_BYTES = 0.56  # of the rate of HBM, outside products

CLOCK_HZ = {"v5e": 1.5e9, "v5p": 1.75e9, "v6e": 1.75e9}


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Collectives of one kind over the same axes of the mesh, in one step.

    bytes: received by a chip over its links; hidden: whether computation goes on meanwhile.
    """

    kind: str  # all-gather, reduce-scatter, all-reduce, all-to-all, collective-permute
    axes: tuple[str, ...]
    bytes: float
    hidden: bool


@dataclasses.dataclass(frozen=True)
class Work:
    """What one chip does in one step.

    flops: executed, recomputation included, kernel_flops of them in hand-written kernels;
    hbm_bytes: read and written; products: (FLOPs, bytes of HBM) of every instruction with products
    of matrices, all its turns together, or of all of them; cycles: the compiler's estimate of all
    but kernels and collectives, None where it has made none.
    """

    flops: float
    kernel_flops: float
    hbm_bytes: float
    products: tuple[tuple[float, float], ...]
    traffic: tuple[Traffic, ...]
    cycles: float | None = None


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of a step. The first three are bounds, each as if there were nothing else."""

    compute: float
    hbm: float
    interconnect: float
    step: float  # predicted

    @property
    def bound(self) -> str:
        """The name of the largest of the three."""
        return max(("compute", "hbm", "interconnect"), key=lambda name: getattr(self, name))


def step_times(work: Work, topology: Topology, mesh: dict[str, int]) -> Times:
    """mesh: sizes of the axes by name, the innermost last.

    A chip computes, or moves what nothing fuses into a product, one after the other; collectives
    that the compiler starts early hide behind that, the others add to it.
    """
    chip, speeds = topology.chip, topology.bytes_per_second(mesh)
    together = sum if chip.torus_dims else min  # the links of several axes; a GPU has one way out

    def seconds(traffic: Traffic) -> float:
        return traffic.bytes / together(speeds[axis] for axis in traffic.axes)

    compute = work.flops / chip.flops_per_second
    efficiency = PRODUCT_EFFICIENCY[chip.name]
    kernels = work.kernel_flops / chip.flops_per_second / efficiency
    if work.cycles is not None:
        busy = work.cycles / CLOCK_HZ[chip.name] + kernels
    else:
        rate = chip.flops_per_second * efficiency * FUSED_PRODUCTS
        busy = kernels + math.fsum(
            max(flops / rate, size / chip.hbm_bytes_per_second) for flops, size in work.products
        )
        other = work.hbm_bytes - math.fsum(size for _, size in work.products)
        busy += other / chip.hbm_bytes_per_second / OTHER_BYTES
    hidden = math.fsum(seconds(traffic) for traffic in work.traffic if traffic.hidden)
    exposed = math.fsum(seconds(traffic) for traffic in work.traffic if not traffic.hidden)
    return Times(
        compute=compute,
        hbm=work.hbm_bytes / chip.hbm_bytes_per_second,
        interconnect=hidden + exposed,
        step=max(busy, hidden) + exposed,
    )
