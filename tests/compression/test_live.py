"""The window code with the model running: wide windows, contexts that go on, many rows at once."""

from __future__ import annotations

import random

import jax
import numpy as np
import pytest

from hat.compression import limbs
from hat.compression.integer_model import IntegerPredictor
from hat.compression.live import LiveCoder
from hat.compression.probabilities import cumulative
from hat.compression.windows import CDF_BITS, WindowConfig, encode
from hat.errors import UserError
from tests.compression.models import CONTEXT, model, predictor, tokenizer
from tests.compression.toy import HELDOUT


@pytest.fixture(scope="module")
def shared():
    return predictor()


def texts() -> list[bytes]:
    rng = random.Random(3)
    return [HELDOUT[:90], b"", b"\0" * 60, rng.randbytes(30), b"\xff", HELDOUT[300:321]]


@pytest.mark.parametrize("reset", ["window", "other", "never"])
@pytest.mark.parametrize("bits", [16, 24, 64, 128])
def test_texts_return_whatever_the_model_remembers(shared, bits, reset):
    coder = LiveCoder(shared, WindowConfig(bits, context=CONTEXT), reset)
    codes = coder.encode(texts())
    assert coder.decode(codes) == texts()
    assert all(0 <= code < 1 << bits for its in codes for code in its)
    assert [len(its) for its in codes][1] == 0


def test_contexts_that_go_on_are_better_and_not_the_same(shared):
    config = WindowConfig(16, context=CONTEXT)
    found = [LiveCoder(shared, config, reset).encode(texts()) for reset in ("window", "other")]
    assert found[0] != found[1]
    first = [its[:1] for its in found[0]]
    assert first == [its[:1] for its in found[1]]  # nothing is remembered in a first window


def test_windows_decode_in_any_order(shared):
    coder = LiveCoder(shared, WindowConfig(24, context=CONTEXT))
    codes = [code for its in coder.encode(texts()) for code in its]
    order = random.Random(0).sample(range(len(codes)), len(codes))
    alone = coder.decode([[codes[i]] for i in order])
    assert b"".join(alone[order.index(i)] for i in range(len(codes))) == b"".join(texts())


@pytest.mark.parametrize("count", [1, 3, 64])
def test_the_number_of_texts_changes_nothing(shared, count):
    coder = LiveCoder(shared, WindowConfig(context=CONTEXT))
    many = [HELDOUT[i * 31 :][:25] for i in range(count)]
    expected = [tokenizer().encode(text).tolist() for text in many]
    assert coder.encode(many) == expected and coder.decode(expected) == many


def test_another_device_says_the_same(shared):
    device = jax.devices()[-1]
    with jax.default_device(device):
        there = predictor()
    assert len(jax.devices()) < 2 or there._memory[0].keys.devices() == {device}
    config = WindowConfig(32, context=CONTEXT)
    assert LiveCoder(there, config).encode(texts()) == LiveCoder(shared, config).encode(texts())


def test_rows_on_eight_devices_say_the_same(shared):
    assert len(jax.devices()) == 8
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("rows",))
    place = jax.sharding.PartitionSpec("rows"), jax.sharding.PartitionSpec()
    rows, everywhere = (jax.sharding.NamedSharding(mesh, axes) for axes in place)
    spread = predictor()
    spread._memory, spread._first = jax.device_put((spread._memory, spread._first), rows)
    spread._params = jax.device_put(spread._params, everywhere)
    config = WindowConfig(32, context=CONTEXT)
    codes = LiveCoder(shared, config).encode(texts())
    assert LiveCoder(spread, config).encode(texts()) == codes
    assert LiveCoder(spread, config).decode(codes) == texts()
    assert len(spread._memory[0].keys.devices()) == 8


def test_uncompiled_steps_return_their_own_texts(shared):
    """Floats may round elsewhere, operation by operation, than in one compiled step: what either
    encodes is for itself (the file codec compares fingerprints). They are near each other."""
    few = [HELDOUT[:40], b"\xff\0"]
    with jax.disable_jit():
        eager = predictor(2)
        coder = LiveCoder(eager, WindowConfig(32, context=CONTEXT))
        assert coder.decode(coder.encode(few)) == few
    assert np.abs(eager.root - shared.root).max() <= 64  # of 2^24: fp32 has 24 bits


def test_whole_numbers_say_the_same_compiled_or_not():
    """They are computed on the host: neither devices nor compilation have a part in them."""
    config = WindowConfig(20, context=CONTEXT)
    codes = LiveCoder(IntegerPredictor(*model(), 3, CONTEXT), config).encode(texts())
    with jax.disable_jit():
        alone = IntegerPredictor(*model(), 1, CONTEXT)
        assert LiveCoder(alone, config).encode(texts()[:2]) == codes[:2]


def test_whole_numbers_say_the_same_in_every_batch_and_as_the_plain_form():
    one, few, many = (IntegerPredictor(*model(), rows, CONTEXT) for rows in (1, 3, 64))
    config = WindowConfig(20, context=CONTEXT)
    codes = LiveCoder(many, config).encode(texts())
    assert LiveCoder(one, config).encode(texts()) == codes
    assert LiveCoder(few, config).decode(codes) == texts()
    begin = config.root_table(one.root)

    def tables(before: bytes):
        if not before:
            return begin
        weights = one.begin()
        for number, byte in enumerate(before):
            weights = one.push(np.array([byte], np.uint8), np.array([number == 0]))
        return cumulative(weights[0], CDF_BITS)

    assert [encode(config, tables, text) for text in texts()] == codes


@pytest.mark.parametrize("bits", [16, 32, 128])
def test_arithmetic_is_the_same_on_the_host_and_compiled(bits):
    rng = np.random.default_rng(0)
    weights = (rng.random((50, 256)) ** 20 * 2**24).astype(np.int64)
    tables = cumulative(weights, CDF_BITS).astype(np.uint32)
    nodes = limbs.roots(WindowConfig(bits), 50)
    descend, find = jax.jit(limbs.descend), jax.jit(limbs.find)
    for _ in range(4):
        symbols, rows = rng.integers(0, 256, 50), np.arange(50)
        cells = tables[rows, symbols], tables[rows, symbols + 1]
        (child, fits), compiled = limbs.descend(nodes, *cells), descend(nodes, *cells)
        keep = fits[:, None]
        for here, there in zip(child, compiled[0]):
            assert np.array_equal(here * keep, np.asarray(there) * keep)
        assert np.array_equal(fits, compiled[1])
        nodes = limbs.Nodes(*(np.where(keep, new, old) for new, old in zip(child, nodes)))
        wanted = limbs.codes(nodes)
        for here, there in zip(limbs.find(nodes, tables, wanted), find(nodes, tables, wanted)):
            assert np.array_equal(here, np.asarray(there))


def test_what_cannot_run_is_refused(shared):
    with pytest.raises(UserError, match="no live coder"):
        LiveCoder(shared, WindowConfig(mode="paper"))
    with pytest.raises(UserError, match="choose from"):
        LiveCoder(shared, WindowConfig(), "always")
    with pytest.raises(UserError, match="more than 16 bits"):
        LiveCoder(shared, WindowConfig(context=CONTEXT)).decode([[1 << 16]])
