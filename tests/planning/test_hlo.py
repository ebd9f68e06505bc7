"""Reading compiled programs: on one that XLA compiles here, with collectives of known sizes, and
on lines in the notations of the TPU compiler."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hat.planning.hlo import (
    Product,
    axes_of,
    convolution_flops,
    first_group,
    parse,
    read_costs,
    trip_count,
)

MESH = {"fsdp": 4, "tensor": 2}


@pytest.mark.skipif(jax.device_count() != 8, reason="needs 8 virtual devices")
def test_collectives_of_a_compiled_program():
    """Per turn of a loop: a matrix [64, 32] in float32, split four ways, is gathered; then a sum
    over two devices. The loop turns five times."""
    mesh = jax.make_mesh((4, 2), tuple(MESH), axis_types=(AxisType.Auto,) * 2)

    def turn(x, w):  # x [16, 32] and w [16, 32] on every device
        whole = jax.lax.all_gather(w, "fsdp", tiled=True)
        return jax.lax.psum(x @ whole.T @ whole, "tensor") / 100, None

    def loop(x, w):
        return jax.lax.scan(turn, x, w)[0]

    spec = PartitionSpec("fsdp", "tensor")
    stacked = PartitionSpec(None, "fsdp", "tensor")
    run = jax.shard_map(loop, mesh=mesh, in_specs=(spec, stacked), out_specs=spec, check_vma=False)

    def argument(shape, spec):
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))

    compiled = jax.jit(run).lower(argument((64, 64), spec), argument((5, 64, 64), stacked)).compile()
    costs = read_costs(compiled.as_text(), MESH)
    total = {}
    for one in costs.collectives:
        key = one.kind, one.axes
        total[key] = total.get(key, 0) + one.bytes * one.times
    gathered, summed = 64 * 32 * 4, 16 * 32 * 4
    assert total == {
        ("all-gather", ("fsdp",)): 5 * gathered * 3 / 4,  # a device has a quarter already
        ("all-reduce", ("tensor",)): 5 * 2 * summed / 2,  # a scatter and a gather of halves
    }


TPU = """\
HloModule jit_step, is_scheduled=true

%cond (p: (s32[], bf16[8,128])) -> pred[] {
  %limit = s32[]{:T(128)} constant(7)
  %p = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%slice_layer (stack: bf16[7,8,128], i: s32[]) -> bf16[8,128] {
  %stack = bf16[7,8,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %i.1 = s32[]{:T(128)} parameter(1)
  ROOT %slice = bf16[8,128]{1,0:T(8,128)(2,1)} dynamic-slice(%stack, %i.1), dynamic_slice_sizes={1,8,128}
}

%all-reduce-scatter.fused (g: f32[8,128]) -> f32[2,128] {
  %g = f32[8,128]{1,0:T(8,128)} parameter(0)
  %sum = f32[8,128]{1,0:T(8,128)} all-reduce(%g), channel_id=3, replica_groups=[2,4]<=[4,2]T(1,0), to_apply=%add
  ROOT %mine = f32[2,128]{1,0:T(8,128)} dynamic-slice(%sum), dynamic_slice_sizes={2,128}
}

%body (p.1: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %p.1 = (s32[]{:T(128)}, /*index=1*/bf16[8,128]{1,0:T(8,128)(2,1)}, bf16[7,8,128]{2,1,0}) parameter(0)
  %i.2 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  %all = bf16[7,8,128]{2,1,0:T(8,128)(2,1)} get-tuple-element(%p.1), index=2
  %layer = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} fusion(%all, %i.2), kind=kLoop, calls=%slice_layer, backend_config={"window_config":{"estimated_cycles":"100"}}
  %gather-start = (bf16[8,128]{1,0}, bf16[32,128]{1,0}) all-gather-start(%layer), channel_id=1, replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, dimensions={0}
  %gather-done = bf16[32,128]{1,0} all-gather-done(%gather-start)
  %grad = f32[8,128]{1,0} convert(%layer), backend_config={"estimated_cycles":"50"}
  %scattered = f32[2,128]{1,0} fusion(%grad), kind=kCustom, calls=%all-reduce-scatter.fused
  ROOT %out = (s32[], bf16[8,128]) tuple(%i.2, %layer)
}

ENTRY %main (a: bf16[8,128]) -> bf16[8,128] {
  %a = bf16[8,128]{1,0} parameter(0)
  %loop = (s32[], bf16[8,128]) while(%a), condition=%cond, body=%body
  ROOT %b = bf16[8,128]{1,0} negate(%a), backend_config={"estimated_cycles":"7"}
}
"""


def test_notations_of_the_tpu_compiler():
    costs = read_costs(TPU, MESH)
    found = {one.kind: (one.axes, one.bytes, one.times, one.hidden) for one in costs.collectives}
    assert found == {
        "all-gather": (("fsdp",), 32 * 128 * 2 * 3 / 4, 7, True),
        "reduce-scatter": (("fsdp",), 8 * 128 * 4 * 3 / 4, 7, False),
    }
    assert costs.cycles == 7 * (100 + 50) + 7
    layer, index, gradient = 8 * 128 * 2, 4, 8 * 128 * 4
    turn = layer + index  # the slice alone is read, and written on chip
    turn += gradient  # converted from what is on chip
    turn += gradient + 2 * 128 * 4  # the fused scatter reads one and writes a quarter
    assert costs.hbm_bytes == 7 * turn + 2 * layer


def test_a_channel_counts_once():
    twice = TPU.replace(
        "  %gather-done =",
        "  %again = (bf16[8,128]{1,0}, bf16[32,128]{1,0}) all-gather-start(%layer), channel_id=1, "
        "replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}\n  %gather-done =",
    )
    assert twice != TPU
    assert read_costs(twice, MESH).collectives == read_costs(TPU, MESH).collectives


def test_an_asynchronous_fusion_hides_its_channel():
    """The compiler writes the collective into what computes meanwhile, and into start and end."""
    fused = """
%async_collective_fusion.1 (l: bf16[8,128]) -> bf16[32,128] {
  %l = bf16[8,128]{1,0} parameter(0)
  ROOT %part = bf16[32,128]{1,0} all-gather(%l), channel_id=9, replica_groups=[2,4]<=[4,2]T(1,0)
}

%fused_end (l.1: bf16[8,128]) -> bf16[32,128] {
  %l.1 = bf16[8,128]{1,0} parameter(0)
  ROOT %end = bf16[32,128]{1,0} all-gather(%l.1), channel_id=9, replica_groups=[2,4]<=[4,2]T(1,0)
}
"""
    calls = "".join(
        f"  %{name} = bf16[32,128]{{1,0}} fusion(%layer), kind=kOutput, calls=%{called}\n"
        for name, called in (("x", "fused_end"), ("y", "async_collective_fusion.1"))
    )
    text = TPU.replace("\n%body", fused + "\n%body").replace("  %grad =", calls + "  %grad =")
    more = set(read_costs(text, MESH).collectives) - set(read_costs(TPU, MESH).collectives)
    assert not more  # the same kind, axes, bytes and turns as the one started by name
    assert len(read_costs(text, MESH).collectives) == 3


INPLACE = """\
HloModule jit_step, is_scheduled=true

%slice_layer (stack.1: bf16[7,8,128], i: s32[]) -> bf16[8,128] {
  %stack.1 = bf16[7,8,128]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %layer = bf16[8,128]{1,0} dynamic-slice(%stack.1, %i), dynamic_slice_sizes={1,8,128}
}

%both (stack: bf16[7,8,128], w: bf16[128,256], kept: bf16[7,8,256], i.1: s32[]) -> (bf16[8,256], bf16[7,8,256]) {
  %stack = bf16[7,8,128]{2,1,0} parameter(0)
  %w = bf16[128,256]{1,0} parameter(1)
  %kept = bf16[7,8,256]{2,1,0} parameter(2)
  %i.1 = s32[] parameter(3)
  %x = bf16[8,128]{1,0} fusion(%stack, %i.1), kind=kLoop, calls=%slice_layer
  %y = bf16[8,256]{1,0} convolution(%x, %w), dim_labels=bf_io->bf
  %one = bf16[1,8,256]{2,1,0} bitcast(%y)
  %new = bf16[7,8,256]{2,1,0} dynamic-update-slice(%kept, %one, %i.1)
  ROOT %results = (bf16[8,256]{1,0}, bf16[7,8,256]{2,1,0}) tuple(%y, %new)
}

ENTRY %main (a: bf16[7,8,128], b: bf16[128,256], c: bf16[7,8,256], d: s32[]) -> bf16[8,256] {
  %a = bf16[7,8,128]{2,1,0} parameter(0)
  %b = bf16[128,256]{1,0} parameter(1)
  %c = bf16[7,8,256]{2,1,0} parameter(2)
  %d = s32[] parameter(3)
  %fused = (bf16[8,256]{1,0}, bf16[7,8,256]{2,1,0}) fusion(%a, %b, %c, %d), kind=kOutput, calls=%both
  ROOT %out = bf16[8,256]{1,0} get-tuple-element(%fused), index=0
}
"""


def test_a_product_that_reads_and_writes_one_layer_of_a_stack():
    """Of a stack of seven only the layer is read, by a fusion in the fusion, and of the stack that
    it writes only the layer changes."""
    (product,) = read_costs(INPLACE, MESH).products
    layer, matrix, result, index = 8 * 128 * 2, 128 * 256 * 2, 8 * 256 * 2, 4
    moved = layer + index + matrix + 2 * result
    assert product == Product(2 * 8 * 128 * 256, pytest.approx(moved, abs=2 * index), 1)


def test_flops_of_convolutions():
    """As the TPU compiler writes products; the numbers of jax.lax.conv_general_dilated's taps."""
    assert convolution_flops("dim_labels=bf_io->bf", [8, 128], [128, 256], [8, 256]) == (
        2 * 8 * 128 * 256
    )
    # 32 heads as positions: each result sees one tap of the 32, the others fall on padding.
    heads = "window={size=32 pad=31_31 rhs_reversal=1}, dim_labels=bf0_0oi->b0f"
    assert convolution_flops(heads, [7, 64, 1], [32, 16, 64], [7, 32, 16]) == 2 * 7 * 32 * 16 * 64
    # A sum over positions: the window covers all of them.
    every = "window={size=5}, dim_labels=b0f_0io->b0f"
    assert convolution_flops(every, [3, 5, 64], [5, 64, 16], [3, 1, 16]) == 2 * 3 * 5 * 64 * 16
    # Stride 2, and holes in the left side: 9 places of 5 numbers, every other one empty.
    holes = "window={size=3 stride=2 pad=1_1 lhs_dilate=2}, dim_labels=b0f_0io->b0f"
    assert convolution_flops(holes, [1, 5, 1], [3, 1, 1], [1, 5, 1]) == 2 * 5


@pytest.mark.parametrize(
    ("attributes", "group", "axes"),
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", [0, 1], ("tensor",)),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", [0, 2, 4, 6], ("fsdp",)),
        ("replica_groups=[1,8]<=[8]", list(range(8)), ("fsdp", "tensor")),
        ("replica_groups=mesh['a'=4,'b'=2] {'b'}", [0, 1], ("tensor",)),
        ("replica_groups=mesh['a'=4,'b'=2] {'a','b'}", list(range(8)), ("fsdp", "tensor")),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}", [0, 2, 4, 6], ("fsdp",)),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}", [0, 1], ("tensor",)),
        ("source_target_pairs={{0,2},{2,4}}", [0, 2], ("fsdp",)),
    ],
)
def test_groups(attributes, group, axes):
    assert first_group(f"channel_id=1, {attributes}, to_apply=%add") == group
    assert axes_of(group, MESH) == axes


def test_what_cannot_be_read_is_refused():
    with pytest.raises(ValueError, match="groups"):
        first_group("replica_groups=@everything")
    computations, _ = parse(TPU.replace("%p = (s32", "%two = s32[] constant(2)\n  %p = (s32"))
    with pytest.raises(ValueError, match=r"\[2, 7\]"):
        trip_count(computations["cond"])
