from __future__ import annotations

import pytest

from hat.errors import UserError
from hat.planning.topology import parse_topology

GB = 1e9


@pytest.mark.parametrize(
    ("text", "name", "chips", "is_pod"),
    [
        ("v5p:8x8x8", "v5p:8x8x8", 512, True),
        (" V5E:16x16", "v5e:16x16", 256, True),
        ("v6e:4x8", "v6e:4x8", 32, True),
        ("v5p:16x16x16", "v5p:16x16x16", 4096, True),
        ("h100:64", "h100:64", 64, False),
        ("h200:4", "h200:4", 4, False),
    ],
)
def test_topologies_that_exist(text, name, chips, is_pod):
    topology = parse_topology(text)
    assert (topology.name, topology.num_chips, topology.is_pod) == (name, chips, is_pod)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("v5p-128", "did you mean v5p"),
        ("v5:8x8", "did you mean v5"),
        ("cerebras:1", "choose from v5e, v6e, v5p"),
        ("v5p", "give its shape, such as v5p:"),
        ("v5p:512", "a number, not a shape: nearest are v5p:8x8x8"),
        ("v5e:32x32", "nearest are v5e:16x16"),
        ("v5e:8x4", "did you mean v5e:4x8?"),
        ("v5p:16x8x8", "did you mean v5p:8x8x16?"),
        ("v6e:5x5", "nearest are v6e:"),
        ("h100:8x8", "number of GPUs, such as h100:64"),
        ("h100:0", "number of GPUs"),
        ("h100:12", "such as h100:16"),
    ],
)
def test_topologies_that_do_not(text, hint):
    with pytest.raises(UserError) as error:
        parse_topology(text)
    assert hint in str(error.value) and "\n" not in str(error.value)


def speeds(name, **mesh):
    return parse_topology(name).bytes_per_second(mesh)


def test_a_torus_by_hand():
    """A link of a v5p brings 90 GB/s, of a v5e 45; a ring brings data from both sides."""
    assert speeds("v5p:8x8x8", fsdp=512, tensor=1)["fsdp"] == 6 * 90 * GB
    assert speeds("v5p:8x8x8", fsdp=64, tensor=8) == {"fsdp": 4 * 90 * GB, "tensor": 2 * 90 * GB}
    # tensor takes half of a ring, which is open; what is left of it is open too
    assert speeds("v5p:8x8x8", fsdp=128, tensor=4) == {"fsdp": 5 * 90 * GB, "tensor": 90 * GB}
    assert speeds("v5e:16x16", fsdp=256, tensor=1)["fsdp"] == 4 * 45 * GB
    assert speeds("v5e:8x8", fsdp=64)["fsdp"] == 2 * 45 * GB  # below 16 a v5e has no rings


def test_gpus_by_hand():
    """Inside a node 450 GB/s; between nodes 50 a GPU, and what shares an axis adds up."""
    assert speeds("h100:8", fsdp=8, tensor=1)["fsdp"] == 450 * GB
    assert speeds("h100:64", fsdp=64, tensor=1)["fsdp"] == 400 * GB
    assert speeds("h100:64", fsdp=8, tensor=8) == {"fsdp": 50 * GB, "tensor": 450 * GB}
    assert speeds("h100:64", replica=8, fsdp=8, tensor=1)["replica"] == 50 * GB
