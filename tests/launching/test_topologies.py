"""Slices against a table written from the public documentation of Cloud TPU and GKE."""

from __future__ import annotations

import pytest

from hat.errors import UserError
from hat.launching.topologies import GENERATIONS, parse_slice

# topology, chips, hosts (VMs), --accelerator-type: v5p counts TensorCores, two a chip.
DOCUMENTED = [
    ("v5e:1x1", 1, 1, "v5litepod-1"),
    ("v5e:2x2", 4, 1, "v5litepod-4"),
    ("v5e:2x4", 8, 1, "v5litepod-8"),
    ("v5e:4x4", 16, 4, "v5litepod-16"),
    ("v5e:16x16", 256, 64, "v5litepod-256"),
    ("v5p:2x2x1", 4, 1, "v5p-8"),
    ("v5p:2x2x2", 8, 2, "v5p-16"),
    ("v5p:8x8x8", 512, 128, "v5p-1024"),
    ("v5p:16x16x16", 4096, 1024, "v5p-8192"),
    ("v6e:2x4", 8, 1, "v6e-8"),
    ("v6e:16x16", 256, 64, "v6e-256"),
]


@pytest.mark.parametrize("text, chips, hosts, accelerator_type", DOCUMENTED)
def test_slices_are_as_documented(text, chips, hosts, accelerator_type):
    found = parse_slice(text)
    assert (found.chips, found.hosts, found.accelerator_type) == (chips, hosts, accelerator_type)


def test_an_accelerator_type_names_one_slice():
    slices = [parse_slice(f"{name}:{s}") for name, g in GENERATIONS.items() for s in g.topologies]
    assert len({s.accelerator_type for s in slices}) == len(slices)
    assert all(s.chips % s.hosts == 0 for s in slices)


@pytest.mark.parametrize("text, hint", [
    ("v5p:8x8x9", "did you mean v5p:8x8x8?"),
    ("v5p-128", "Topologies: v5e:1x1"),
    ("v5e:16x32", "v5e:16x16"),
    ("h100", "Topologies"),
    ("", "Topologies"),
])
def test_another_topology_is_one_line(text, hint):
    with pytest.raises(UserError) as error:
        parse_slice(text)
    assert "does not exist" in str(error.value) and hint in str(error.value)
    assert "\n" not in str(error.value)
