"""Every form of attention against the dense one, in values and gradients; what `attend` chooses."""

from __future__ import annotations

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AbstractMesh, AxisType

from hat.errors import UserError
from hat.models import attention
from hat.models.attention import chunked, cudnn, plain, splash
from hat.models.layers import REMAT_POLICIES
from hat.training.config import MeshConfig
from hat.training.sharding import (
    AXES,
    batch_sharding,
    make_abstract_device,
    make_abstract_mesh,
    make_mesh,
)
from tests.models import toy
from tests.models.test_attention import HEADS, random_segments

needs_8_devices = pytest.mark.skipif(
    len(jax.devices()) < 8, reason="needs XLA_FLAGS=--xla_force_host_platform_device_count=8"
)


def value_and_gradients(attend, q, k, v, segment, weights, jit=toy.jit):
    """The output, and the gradient of its weighted sum by q, k and v."""

    def run(q, k, v, segment, weights):
        def scalar(q, k, v):
            out = attend(q, k, v, segment=segment)
            return jnp.sum(out.astype(jnp.float32) * weights), out

        gradient = jax.value_and_grad(scalar, argnums=(0, 1, 2), has_aux=True)
        (_, out), slopes = gradient(q, k, v)
        return out, *slopes

    return [np.asarray(x, np.float32) for x in jit(run)(q, k, v, segment, weights)]


def draw(seed, B, T, heads, head_dim=4, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    H, G = HEADS[heads]
    q, k, v = (
        jnp.asarray(rng.normal(size=(B, T, n, head_dim)), dtype) for n in (H, G, G)
    )
    weights = jnp.asarray(rng.normal(size=q.shape), jnp.float32)
    return q, k, v, random_segments(rng, B, T), weights


def assert_equal_to_dense(attend, arguments, window, softcap, tolerance, jit=toy.jit):
    dense = functools.partial(plain.attend_dense, window=window, softcap=softcap)
    expected = value_and_gradients(dense, *arguments)
    found = value_and_gradients(attend, *arguments, jit=jit)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


# --- chunked --------------------------------------------------------------------------------------


@settings(max_examples=8)
@example(T=12, chunk=4, window=None, heads="grouped", softcap=None, seed=0)  # whole chunks
@example(T=13, chunk=4, window=6, heads="shared", softcap=0.7, seed=1)  # a window of two chunks
@example(T=9, chunk=4, window=1, heads="one", softcap=None, seed=2)  # no chunk but its own
@example(T=3, chunk=8, window=None, heads="many", softcap=0.7, seed=3)  # less than a chunk
@given(
    T=st.integers(1, 20),
    chunk=st.integers(1, 24),
    window=st.none() | st.integers(1, 24),
    heads=st.sampled_from(list(HEADS)),
    softcap=st.sampled_from([None, 0.7]),
    seed=st.integers(0, 2**16),
)
def test_chunked_equals_dense(T, chunk, window, heads, softcap, seed):
    """Only the order of sums differs, of numbers of size 1."""
    form = functools.partial(
        chunked.attend_chunked, window=window, softcap=softcap, chunk=chunk
    )
    assert_equal_to_dense(form, draw(seed, 3, T, heads), window, softcap, 1e-5)


@given(
    chunks=st.integers(1, 9), chunk=st.integers(1, 9), window=st.none() | st.integers(1, 90)
)
def test_visible_pairs_are_those_with_a_visible_pair_of_positions(chunks, chunk, window):
    index = np.arange(chunks * chunk)
    visible = plain.causal(index[:, None], index[None, :], window)
    blocks = visible.reshape(chunks, chunk, chunks, chunk).any(axis=(1, 3))
    pairs = chunked.visible_pairs(chunks, chunk, window)
    assert list(zip(pairs.query, pairs.key)) == list(zip(*np.nonzero(blocks)))
    assert pairs.first.tolist() == [
        n == 0 or pairs.query[n - 1] != i for n, i in enumerate(pairs.query)
    ]


def test_chunked_survives_scores_that_grow_and_padding_of_any_kind():
    """Scores of up to 1,000: weights are taken from the largest so far, never from infinity."""
    q, k, v, segment, weights = draw(0, 2, 16, "one")
    k = k * jnp.linspace(1, 300, 16)[None, :, None, None]
    form = functools.partial(chunked.attend_chunked, chunk=4)
    # the gradients are of size 1,000 in q; their sums differ in order
    assert_equal_to_dense(form, (q, k, v, segment, weights), None, None, 2e-3)
    assert_equal_to_dense(form, (q, k, v, np.zeros_like(segment), weights), None, None, 2e-3)


def test_chunked_holds_no_square_of_the_row():
    """Forward and backward: the largest array of the program is the chunks of the queries."""
    T, chunk = 64, 8
    q, k, v, segment, weights = draw(0, 1, T, "one")
    form = functools.partial(chunked.attend_chunked, chunk=chunk)

    def run(q, k, v):
        return jax.grad(lambda *x: jnp.sum(form(*x, segment=segment)), argnums=(0, 1, 2))(q, k, v)

    assert largest_array(run, q, k, v) <= T * q.shape[-1] < T * T
    assert largest_array(functools.partial(plain.attend_dense, segment=segment), q, k, v) == T * T


def largest_array(function, *arguments) -> int:
    """Numbers in the largest array that a program makes, in its loops too."""

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (out.aval.size for out in equation.outvars)
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                yield from sizes(inner)

    return max(sizes(jax.make_jaxpr(function)(*arguments).jaxpr))


# --- splash ---------------------------------------------------------------------------------------

# window, T, head_dim, heads: a padded row and head, several blocks, a window beyond a block
SPLASH = {
    "padded": (None, 200, 48, "grouped", None),
    "blocks": (None, 700, 64, "one", None),
    "window": (300, 520, 64, "one", 0.7),
}


@pytest.mark.parametrize("case", SPLASH)
def test_splash_equals_dense(case):
    """The kernel, interpreted; float32 sums of up to 700 numbers in another order."""
    window, T, head_dim, heads, softcap = SPLASH[case]
    form = functools.partial(
        splash.attend_splash, window=window, softcap=softcap, interpret=True
    )
    arguments = draw(0, 2, T, heads, head_dim)
    assert_equal_to_dense(form, arguments, window, softcap, 1e-5, jit=jax.jit)


@needs_8_devices
@pytest.mark.parametrize("heads", ["grouped", "shared"])  # key heads that tensor=2 divides, or not
def test_splash_on_a_mesh_equals_dense(heads):
    """Rows over replica and fsdp, heads over tensor; interpreted."""
    mesh = make_mesh(MeshConfig(replica=2, fsdp=2, tensor=2))
    q, k, v, segment, weights = draw(1, 4, 128, heads, 64)

    def on_mesh(q, k, v, *, segment):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return splash.attend_splash(q, k, v, segment=segment, window=50, interpret=True)

    expected = value_and_gradients(
        functools.partial(plain.attend_dense, window=50), q, k, v, segment, weights
    )
    rows = jax.device_put((q, k, v, segment, weights), batch_sharding(mesh))
    found = value_and_gradients(on_mesh, *rows, jit=jax.jit)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_mesh_axes_are_those_of_training():
    assert (*splash.ROW_AXES, splash.HEAD_AXIS) == AXES


def abstract_gradient(attend):
    def run(q, k, v, segment):
        return jax.grad(lambda *x: jnp.sum(attend(*x, segment=segment)), argnums=(0, 1, 2))(q, k, v)

    return run


def abstract_inputs(T, head_dim, sharding=None):
    def array(*shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    row = (256, T)
    return array(*row, 8, head_dim), *[array(*row, 4, head_dim)] * 2, array(*row, dtype=jnp.int32)


def test_splash_lowers_for_a_tpu_that_is_not_there():
    """Three kernels, one forward and two backward, as a program for export."""
    form = functools.partial(splash.attend_splash, window=768)
    exported = jax.export.export(jax.jit(abstract_gradient(form)), platforms=["tpu"])(
        *abstract_inputs(1536, 128)
    )
    assert exported.mlir_module().count("stablehlo.custom_call @tpu_custom_call") == 3


@pytest.mark.parametrize("remat, kernels", [("full", 4), ("attention", 3)])
def test_remat_attention_runs_no_kernel_again(remat, kernels):
    """One forward and two backward, and where nothing is kept the forward one once more."""

    @functools.partial(jax.checkpoint, policy=REMAT_POLICIES[remat])
    def form(q, k, v, *, segment):
        q, k, v = checkpoint_name((q, k, v), plain.KEPT)
        return jnp.sin(splash.attend_splash(q, k, v, segment=segment))

    def loss(q, k, v, segment):
        return jnp.sum(form(q, k, v, segment=segment))

    exported = jax.export.export(jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))), platforms=["tpu"])(
        *abstract_inputs(512, 64)
    )
    assert exported.mlir_module().count("stablehlo.custom_call @tpu_custom_call") == kernels


def test_attend_is_splash_on_a_pod_that_is_not_there():
    """256 devices of an abstract mesh, lowered on this machine."""
    device = make_abstract_device("TPU v5p", "tpu")
    mesh = make_abstract_mesh(MeshConfig(replica=2, tensor=4), 256, device)

    def form(q, k, v, *, segment):
        with jax.sharding.use_abstract_mesh(mesh):
            return attention.attend(q, k, v, segment=segment)

    lowered = (
        jax.jit(abstract_gradient(form))
        .trace(*abstract_inputs(512, 64, batch_sharding(mesh)))
        .lower(lowering_platforms=("tpu",))
        .as_text()
    )
    assert "num_partitions = 256" in lowered
    assert lowered.count("stablehlo.custom_call @tpu_custom_call") == 3
    assert "4x2x512x64xbf16" in lowered  # a device's own 4 rows and 2 heads


@pytest.mark.parametrize("length, block", [
    (1, 128), (128, 128), (129, 256), (512, 512), (600, 384), (768, 384), (1000, 512),
    (3584, 512), (18_432, 512),
])  # fmt: skip
def test_splash_blocks_pad_little(length, block):
    assert splash.block_size(length) == block


# --- cuDNN ----------------------------------------------------------------------------------------


@settings(max_examples=4)
@example(T=16, window=5, heads="grouped", seed=0)
@given(
    T=st.integers(1, 20),
    window=st.none() | st.integers(1, 24),
    heads=st.sampled_from(list(HEADS)),
    seed=st.integers(0, 2**16),
)
def test_digits_separate_segments_as_a_mask_does(T, window, heads, seed):
    """The formula in float32 without the kernel. Scores stand on 2,048, so they are 2^-12 fine."""
    form = functools.partial(cudnn.attend_cudnn, window=window, implementation="xla")
    q, k, v, segment, weights = draw(seed, 2, T, heads, 8)
    segment = segment * 13_107  # digits of every place
    assert_equal_to_dense(form, (q, k, v, segment, weights), window, None, 2e-3)


def test_another_segment_gets_no_weight_at_all():
    """A change of another document's keys and values changes no bit, for scores of up to 100."""
    q, k, v, _, weights = draw(0, 1, 12, "one", 8)
    q, segment = 10 * q, np.repeat([[1, 2]], 6, axis=1)
    run = toy.jit(lambda k, v: cudnn.attend_cudnn(q, k, v, segment=segment, implementation="xla"))
    first = np.arange(12)[:, None, None] < 6
    other = run(jnp.where(first, 7.0, k), jnp.where(first, -3.0, v))
    np.testing.assert_array_equal(run(k, v)[:, 6:], other[:, 6:])


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 96])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_cudnn_equals_dense(window, head_dim):
    """bfloat16 queries, keys, weights and gradients: 2^-8 of numbers of size 1, many summed."""
    if complaint := cudnn.cudnn_complaint("gpu", jnp.bfloat16, head_dim, None):
        pytest.skip(f"cuDNN {complaint}")
    arguments = draw(0, 2, 512, "grouped", head_dim, jnp.bfloat16)
    form = functools.partial(attention.attend, window=window, form="cudnn")
    assert_equal_to_dense(form, arguments, window, None, 8e-2, jit=jax.jit)


# --- the choice -----------------------------------------------------------------------------------


@pytest.mark.parametrize("length, window, form", [
    (3584, None, "chunked"), (256, None, "dense"), (257, None, "chunked"), (3584, 768, "chunked"),
    (3584, 32, "blocks"), (64, 60, "dense"), (64, 8, "blocks"),
])  # fmt: skip
def test_plain_forms(length, window, form):
    assert attention.plain_form(length, window) == form


@pytest.mark.parametrize("form, complaint", [
    ("splash", "attention=splash needs a TPU, and this program is for a CPU; set model.attention"),
    ("cudnn", "attention=cudnn needs an NVIDIA GPU, and this program is for a CPU"),
])  # fmt: skip
def test_a_form_that_cannot_run_is_refused(form, complaint):
    if jax.default_backend() != "cpu":
        pytest.skip("says what a CPU cannot run")
    q, k, v, segment, _ = draw(0, 1, 4, "one")
    with pytest.raises(UserError, match=complaint):
        attention.attend(q, k, v, segment=segment, form=form)


def test_splash_refuses_heads_that_are_too_wide():
    device = make_abstract_device("TPU v5p", "tpu")
    mesh = AbstractMesh((1,), ("fsdp",), (AxisType.Auto,), abstract_device=device)
    q, k, v, segment, _ = draw(0, 1, 4, "one", 258)
    with jax.sharding.use_abstract_mesh(mesh), pytest.raises(UserError, match="at most 256, not 258"):
        attention.attend(q, k, v, segment=segment, form="splash")


@pytest.mark.parametrize("window", [None, 3])
def test_blocks_mean_chunks_where_there_is_no_window(window):
    q, k, v, segment, _ = draw(0, 2, 8, "grouped")
    run = functools.partial(attention.attend, segment=segment, window=window)
    np.testing.assert_allclose(run(q, k, v, form="blocks"), run(q, k, v, form="dense"), atol=1e-5)
