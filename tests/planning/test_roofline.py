"""Step times by hand, on numbers that are easy to divide."""

from __future__ import annotations

import pytest

from hat.planning.roofline import (
    CLOCK_HZ,
    FUSED_PRODUCTS,
    OTHER_BYTES,
    PRODUCT_EFFICIENCY,
    Traffic,
    Work,
    step_times,
)
from hat.planning.topology import parse_topology

POD = parse_topology("v5p:8x8x8")  # 459 TFLOP/s, 2765 GB/s, links of 90 GB/s
MESH = {"replica": 1, "fsdp": 64, "tensor": 8}
GATHER = Traffic("all-gather", ("fsdp",), 360e9, hidden=True)  # 4 links: 1 s
SUM = Traffic("all-reduce", ("tensor",), 36e9, hidden=False)  # 2 links: 0.2 s


def work(**changes) -> Work:
    fields = dict(flops=459e12, kernel_flops=0.0, hbm_bytes=2 * 2765e9,
                  products=((459e12, 2765e9),), traffic=(GATHER, SUM))
    return Work(**fields | changes)


def test_three_bounds_and_a_step():
    times = step_times(work(), POD, MESH)
    assert (times.compute, times.hbm) == (pytest.approx(1.0), pytest.approx(2.0))
    assert times.interconnect == pytest.approx(1.2)
    assert times.bound == "hbm"
    # Products at their efficiency, then what nothing fuses at its own; the gathers hide.
    busy = 1 / PRODUCT_EFFICIENCY["v5p"] / FUSED_PRODUCTS + 1 / OTHER_BYTES
    assert times.step == pytest.approx(busy + 0.2)


def test_collectives_hide_behind_no_more_than_there_is():
    slow = Traffic("all-gather", ("fsdp",), 3600e9, hidden=True)
    times = step_times(work(traffic=(slow,)), POD, MESH)
    assert times.step == pytest.approx(10.0) and times.bound == "interconnect"


def test_every_product_takes_what_it_computes_or_moves():
    """One second of bytes, then one of products, each longer than its other half."""
    efficiency = PRODUCT_EFFICIENCY["v5p"] * FUSED_PRODUCTS
    apart = work(products=((1e12, 2765e9), (efficiency * 459e12, 1e9)), hbm_bytes=2766e9, traffic=())
    assert step_times(apart, POD, MESH).step == pytest.approx(2.0)


def test_links_of_several_axes_add_up():
    both = Traffic("all-reduce", ("fsdp", "tensor"), 540e9, hidden=False)
    assert step_times(work(traffic=(both,)), POD, MESH).interconnect == pytest.approx(1.0)


def test_the_compilers_cycles_take_the_place_of_products_and_bytes():
    compiled = work(cycles=3 * CLOCK_HZ["v5p"], kernel_flops=0.9 * 459e12)
    times = step_times(compiled, POD, MESH)
    assert times.step == pytest.approx(3 + 1 + 0.2)  # kernels are not among the cycles
