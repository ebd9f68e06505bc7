"""The count on the jaxpr, against products counted by hand and the formulas of the model."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from hat.models import flops
from hat.planning.flops import count
from tests.models.test_flops import B, HAT, HAT_BATCH, N, T, masked_attention


def counted(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return count(jax.jit(function).trace(*arguments).jaxpr)


def test_products_by_hand():
    got = counted(lambda a, b: a @ b, (3, 5), (5, 7))
    assert got.flops == 2 * 3 * 5 * 7
    assert got.product_bytes == 4 * (3 * 5 + 5 * 7 + 3 * 7)
    assert got.largest_product == 4 * 3 * 7
    batched = counted(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (4, 3, 5), (4, 5, 7))
    assert batched.flops == 4 * got.flops


def test_a_loop_counts_as_often_as_it_runs():
    def loop(x, w):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0]

    assert counted(loop, (3, 5), (11, 5, 5)).flops == 11 * 2 * 3 * 5 * 5


def test_of_two_branches_the_dearer():
    def either(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w)

    assert counted(either, (3, 5), (5, 5)).flops == 2 * 2 * 3 * 5 * 5


def test_a_loop_of_unknown_length_is_said():
    def loop(x, w):
        return jax.lax.while_loop(lambda x: x[0, 0] < 1, lambda x: x @ w, x)

    got = counted(loop, (3, 5), (5, 5))
    assert got.flops == 2 * 3 * 5 * 5 and "unknown length" in got.uncounted[0]


def test_what_every_device_computes_counts_for_all():
    mesh = AbstractMesh((4, 2), ("a", "b"))
    rows = PartitionSpec("a")

    def product(x, w):
        split = (rows, PartitionSpec())
        return jax.shard_map(jnp.matmul, mesh=mesh, in_specs=split, out_specs=rows)(x, w)

    # Split four ways along a, repeated twice along b.
    assert counted(product, (8, 5), (5, 7)).flops == 2 * (2 * 8 * 5 * 7)


@pytest.mark.parametrize("remat", ["none", "attention", "full"])
def test_a_training_step_of_a_hat(remat):
    """Three forward passes by formula; with remat, every product of the blocks once more but the
    last, whose result nothing needs again, and with "attention" but queries, keys and values. 3 %: sums of squares in the norms, written as products,
    and the connector's pooling, which is none."""
    model = dataclasses.replace(HAT, scan_layers=True, remat=remat).build()

    def loss(params, batch):
        return model.loss(params, batch).nats

    got = count(jax.jit(jax.grad(loss)).trace(model.abstract_params(), HAT_BATCH).jaxpr)
    parts = model.flops(num_bytes=B * T, num_words=B * N, context_bytes=T, context_words=N)
    sizes = {"encoder": T, "backbone": N, "decoder": T}
    for part, length in sizes.items():
        parts[part] += B * length * masked_attention(getattr(HAT, part), length)
    expected = flops.TRAINING_FACTOR * sum(parts.values())
    if remat != "none":
        for part, length in sizes.items():
            stack = getattr(HAT, part)
            kept = flops.linear_flops(stack.intermediate_size, stack.hidden_size)
            if remat == "attention":
                projected = stack.head_size * (stack.num_heads + 2 * stack.kv_heads)
                kept += flops.linear_flops(stack.hidden_size, projected)
            expected += parts[part] - B * length * stack.num_layers * kept
    assert got.uncounted == ()
    assert got.total_flops == pytest.approx(expected, rel=0.03)
