"""The formulas of hat/models/flops.py against XLA's count of the program that is run."""

from __future__ import annotations

import dataclasses
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hat.models import flops
from hat.models.hat import ConnectorConfig, HatConfig
from hat.models.layers import StackConfig
from hat.models.llama import LlamaConfig

B, T, N = 2, 256, 64

# Wide enough that what the formulas leave out on purpose is small: XLA also counts norms,
# rotations, softmax and sums, about ten FLOPs for every number of an activation.
HAT = HatConfig(
    encoder=StackConfig(512, 2, 4, 1024, num_kv_heads=2, window=32),
    connector=ConnectorConfig(768, 6),
    backbone=StackConfig(1024, 3, 8, 2048, num_kv_heads=2, head_dim=64),
    decoder=StackConfig(512, 4, 4, 1536, window=500),
    scan_layers=False,  # XLA counts the body of a loop once
    dtype="float32",
)
LLAMA = LlamaConfig(HAT.backbone, num_tokens=1000, scan_layers=False, dtype="float32")


def integers(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


HAT_BATCH = {
    **{name: integers(B, T) for name in ("bytes", "segment", "position", "word", "guide")},
    **{name: integers(B, N) for name in ("word_segment", "word_position")},
}
LLAMA_BATCH = {
    name: integers(B, T) for name in ("tokens", "segment", "position", "token_bytes")
}


def counted(function, *arguments) -> float:
    """FLOPs of the program before optimisation, multiply-adds as 2."""
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def computed_keys(length: int, window: int | None) -> float:
    """Keys per query that attention computes scores for, the masked ones among them."""
    if window is None:
        return length
    in_blocks = -(-length // window) * window * 2 * window / length
    return min(length, in_blocks)


def masked_attention(stack: StackConfig, length: int) -> float:
    """FLOPs per position spent on keys that are then masked."""
    masked = computed_keys(length, stack.window) - flops.mean_visible_keys(length, stack.window)
    return stack.num_layers * 4 * stack.num_heads * stack.head_size * masked


def test_hat_formulas_count_what_xla_counts():
    """Part by part, within 5 %, once the masked half of the scores is added."""
    model = HAT.build()
    assert jax.tree.leaves(model.abstract_params())[0].dtype == jnp.float32
    x = jax.ShapeDtypeStruct((B, T, 512), jnp.float32)
    w = jax.ShapeDtypeStruct((B, N, 1024), jnp.float32)

    def part(run):
        return counted(
            lambda params, batch, x, w: run(model.module(params), batch, x, w),
            model.abstract_params(),
            HAT_BATCH,
            x,
            w,
        )

    got = {
        "encoder": part(lambda m, b, x, w: m.encoder(b["bytes"], b["segment"], b["position"])),
        "connector": part(
            lambda m, b, x, w: m.connector(x, b["position"], b["word"], b["word_position"])
        ),
        "backbone": part(lambda m, b, x, w: m.backbone(w, b["word_segment"], b["word_position"])),
        "decoder": part(
            lambda m, b, x, w: m.decoder(x, w, b["guide"], b["segment"], b["position"])
        ),
        "head": part(lambda m, b, x, w: m.head(x)),
    }
    formula = model.flops(num_bytes=B * T, num_words=B * N, context_bytes=T, context_words=N)
    assert list(formula) == list(model.parts)
    formula["encoder"] += B * T * masked_attention(HAT.encoder, T)
    formula["backbone"] += B * N * masked_attention(HAT.backbone, N)
    formula["decoder"] += B * T * masked_attention(HAT.decoder, T)
    for name, count in formula.items():
        assert got[name] == pytest.approx(count, rel=0.05), name
    whole = counted(model.logits, model.abstract_params(), HAT_BATCH)
    assert whole == pytest.approx(sum(formula.values()), rel=0.03)


@pytest.mark.parametrize("tie", [True, False])
def test_llama_formulas_count_what_xla_counts(tie):
    model = dataclasses.replace(LLAMA, tie_embeddings=tie).build()
    formula = model.flops(num_tokens=B * T, context_tokens=T)
    assert list(formula) == list(model.parts)
    expected = sum(formula.values()) + B * T * masked_attention(LLAMA.stack, T)
    got = counted(model.logits, model.abstract_params(), LLAMA_BATCH)
    assert got == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("config, batch", [(LLAMA, LLAMA_BATCH), (HAT, HAT_BATCH)])
def test_a_training_step_is_three_forward_passes(config, batch):
    model = config.build()
    params = model.abstract_params()
    forward = counted(lambda p, b: model.loss(p, b).nats, params, batch)
    both = counted(jax.value_and_grad(lambda p, b: model.loss(p, b).nats), params, batch)
    assert both == pytest.approx(flops.TRAINING_FACTOR * forward, rel=0.05)


@pytest.mark.parametrize("window", [None, 1, 3, 7, 8, 20])
def test_mean_visible_keys_equals_a_count(window):
    for context in range(1, 12):
        seen = [min(t + 1, window or context) for t in range(context)]
        assert flops.mean_visible_keys(context, window) == pytest.approx(sum(seen) / context)
    contexts = np.arange(1, 12)
    each = [flops.mean_visible_keys(int(context), window) for context in contexts]
    np.testing.assert_allclose(flops.mean_visible_keys(contexts, window), each)


@given(hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.integers(0, 5)))
def test_segment_lengths_are_those_of_real_documents(segment):
    expected = [
        count for row in segment for s, count in sorted(Counter(row.tolist()).items()) if s > 0
    ]
    assert flops.segment_lengths(segment).tolist() == expected


def test_flops_of_a_batch_are_those_of_its_documents():
    """Every document sees its own positions alone; padding is not counted."""
    segment, words = np.zeros((2, 64), np.int32), np.zeros((2, 16), np.int32)
    lengths = {(0, 1): (40, 7), (0, 2): (3, 2), (1, 1): (64, 16)}
    for (row, s), (t, n) in lengths.items():
        segment[row, np.flatnonzero(segment[row] == 0)[:t]] = s
        words[row, np.flatnonzero(words[row] == 0)[:n]] = s
    model = HAT.build()
    found = model.batch_flops({"segment": segment, "word_segment": words})
    for part in model.parts:
        expected = sum(
            model.flops(num_bytes=t, num_words=n, context_bytes=t, context_words=n)[part]
            for t, n in lengths.values()
        )
        assert found[part] == pytest.approx(expected, rel=1e-12)
    found = LLAMA.build().batch_flops({"segment": segment})
    each = [LLAMA.build().flops(num_tokens=t, context_tokens=t) for t, _ in lengths.values()]
    assert found["backbone"] == pytest.approx(sum(f["backbone"] for f in each), rel=1e-12)
    assert found["embedding"] == 0
