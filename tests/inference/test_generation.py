"""Continuations: batching, stopping, limits, and agreement with the model itself."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from hat.errors import UserError
from hat.inference.generation import generate_with
from hat.inference.sampling import Draw, Sampling, sample
from hat.text.splitters import make_splitter
from hat.text.tokenizers import ByteTokenizer
from tests.inference.helpers import (
    built,
    hat_batch,
    hat_config,
    llama_config,
    whole_nats,
)

WORDS = make_splitter("words")
PROMPTS = [
    b"",
    b"a",
    b"def f(x):\n    return",
    "世界 and more".encode(),
    "cut inside 世".encode()[:-1],
    b"\xff\x00",
]
BATCH = 4  # at once: the programs of the engine's tests


def continue_texts(prompts=PROMPTS, sampling=Sampling(temperature=1.0, seed=7), **options):
    model, params = built(hat_config())
    options = {"num_bytes": 12, "batch_size": BATCH, **options}
    return generate_with(
        model, params, WORDS, prompts, sampling=sampling, **options
    )


@pytest.fixture(scope="module")
def sampled():
    return continue_texts(samples=2)


def test_results_are_in_the_order_of_the_prompts(sampled):
    assert [result.prompt for result in sampled] == [p for p in PROMPTS for _ in range(2)]


def test_a_continuation_does_not_depend_on_the_batch(sampled):
    """Twelve continuations through three rows: rows switch from prompt to sampling, and to the
    next prompt, at their own times. Alone in a batch of one, the texts are the same."""
    alone = continue_texts(samples=2, batch_size=1)
    assert [result.text for result in alone] == [result.text for result in sampled]
    for one, other in zip(alone, sampled):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)


def test_samples_and_seeds_differ(sampled):
    assert all(first.text != second.text for first, second in zip(sampled[::2], sampled[1::2]))
    other = continue_texts(sampling=Sampling(temperature=1.0, seed=8))
    assert [result.text for result in other] != [result.text for result in sampled[::2]]


def test_log_probability_is_that_of_teacher_forcing(sampled):
    model, params = built(hat_config())
    texts = [result.prompt + result.text for result in sampled]
    nats = np.asarray(whole_nats(model, params, hat_batch(texts, WORDS, 48)))
    for row, result in zip(nats, sampled):
        first, last = len(result.prompt), len(result.prompt) + len(result.text)
        expected = -row[first : last + result.stopped].sum()
        assert result.logprob == pytest.approx(expected, abs=1e-3)


def test_the_limit_is_kept(sampled):
    for result in sampled:
        assert result.stopped or len(result.text) == 12
        assert len(result.text) <= 12


def with_head(kernel) -> tuple:
    """The model and its parameters, with another projection to the ids."""
    model, params = built(hat_config())
    return model, {**params, "head": {**params["head"], "projection": {"kernel": kernel}}}


def head_kernel():
    return built(hat_config())[1]["head"]["projection"]["kernel"].copy()


def test_every_byte_draws_numbers_of_its_own():
    """Where all ids are equally likely, the text is what the seed, the indices and the steps say."""
    model, params = with_head(np.zeros_like(head_kernel()))
    results = generate_with(
        model, params, WORDS, PROMPTS[:2], num_bytes=8, samples=2,
        sampling=Sampling(temperature=1.0, seed=7), batch_size=BATCH,
    )
    ids = np.arange(model.config.num_ids)
    logits = np.where((ids < 256) | (ids == 257), 0.0, -1e30).astype(np.float32)
    for index, result in enumerate(results):
        prompt, number = divmod(index, 2)
        steps = np.arange(8, dtype=np.int32)
        draw = Draw(np.full_like(steps, prompt), np.full_like(steps, number), steps)
        drawn, _ = sample(jnp.tile(logits, (8, 1)), draw, Sampling(temperature=1.0, seed=7))
        text = [int(id) for id in drawn]
        assert result.text == bytes(text[: text.index(257)] if 257 in text else text)
        num_ids = len(result.text) + result.stopped
        assert result.logprob == pytest.approx(-num_ids * math.log(257), abs=1e-4)


def test_stops_at_the_end_of_text():
    kernel = head_kernel()
    kernel[:, 257] = 1.5 * kernel[:, 10]  # the end of text, now as likely as some byte
    model, params = with_head(kernel)
    results = generate_with(
        model, params, WORDS, PROMPTS, num_bytes=60, samples=4,
        sampling=Sampling(temperature=1.0), batch_size=BATCH,
    )
    stopped = [result for result in results if result.stopped]
    assert stopped and any(len(result.text) > 0 for result in stopped)
    for result in results:
        assert result.stopped == (len(result.text) < 60)


def test_bytes_are_reported_as_they_come():
    seen: dict[int, list[bytes | None]] = {}
    results = continue_texts(
        PROMPTS[:4], num_bytes=40,
        on_bytes=lambda index, piece: seen.setdefault(index, []).append(piece),
    )  # fmt: skip
    for index, result in enumerate(results):
        *pieces, end = seen[index]
        assert b"".join(pieces) == result.text and end is None
        assert len(pieces) > 1 or len(result.text) < 40  # not all at once


def test_a_stop_ends_a_text_and_is_left_out(sampled):
    stop = sampled[0].text[4:6]
    (result, *_) = continue_texts(samples=2, stops=[stop])
    assert result.text == sampled[0].text[: sampled[0].text.index(stop)] and result.stopped


def test_llama_generates_in_whole_tokens():
    class Pairs(ByteTokenizer):
        """Token b spells the byte b twice."""

        def encode(self, text):
            return super().encode(text[::2])

        def token_bytes(self, id):
            return bytes([id, id]) if id < 256 else b""

    model, params = built(llama_config())
    options = dict(num_bytes=7, batch_size=4, sampling=Sampling(temperature=1.0))
    results = generate_with(model, params, Pairs(), [b"aabb", b"", b"cc"], **options)
    for result in results:
        assert result.text[::2] == result.text[1::2]
        assert result.stopped or len(result.text) == 8  # the token that reaches the limit
    alone = generate_with(model, params, Pairs(), [b"aabb"], **options)
    assert alone[0].text == results[0].text


def test_sharded_parameters_give_the_same_text(sampled):
    model, params = built(hat_config())
    devices = jax.devices()
    mesh = jax.make_mesh((len(devices),), ("fsdp",), axis_types=(AxisType.Auto,))

    def place(leaf):
        axis = next((i for i, size in enumerate(leaf.shape) if size % len(devices) == 0), None)
        spec = P(*[None] * axis, "fsdp") if axis is not None else P()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    params = jax.tree.map(place, params)
    results = generate_with(
        model, params, WORDS, PROMPTS[:2], num_bytes=12,
        sampling=Sampling(temperature=1.0, seed=7), batch_size=2,
    )
    assert [result.text for result in results] == [result.text for result in sampled[:4:2]]


def test_no_prompts():
    assert continue_texts([]) == []


@pytest.mark.parametrize("option", ["num_bytes", "samples", "batch_size"])
def test_counts_below_one(option):
    with pytest.raises(UserError, match=option):
        continue_texts(**{option: 0})
