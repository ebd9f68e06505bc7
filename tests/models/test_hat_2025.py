"""The HAT of the first paper against a float64 one, a word at a time; its promises and errors."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest

from hat.errors import UserError
from hat.models.hat_2025 import W, long_words
from hat.models.layers import StackConfig
from tests.models import reference, toy
from tests.models.test_hat_reference import some_rows

PREDICTED = [*reference.PREDICTED, W]


@functools.cache
def built():
    model = toy.HAT_2025.build()
    nats = toy.jit(lambda params, batch: model.nats(params, batch)[:2])
    return model, toy.random_params(model), nats


def words_of(document) -> list[list[int]]:
    ids, word, _ = reference.layout(document)
    return [[i for i, w in zip(ids, word) if w == n] for n in range(word[-1] + 1)]


def both_ways(config, params, i, x) -> np.ndarray:
    """`reference.block`, in which a position sees those after it too."""
    size, groups = config.head_size, config.kv_heads
    p, normed = params["attention"], reference.rms_norm(
        x, params["attention_norm"]["scale"][i], config.norm_eps
    )
    q = (normed @ p["q"]["kernel"][i]).reshape(len(x), config.num_heads, size)
    k = (normed @ p["k"]["kernel"][i]).reshape(len(x), groups, size)
    v = (normed @ p["v"]["kernel"][i]).reshape(len(x), groups, size)
    if config.qk_norm:
        q = reference.rms_norm(q, p["q_norm"]["scale"][i], config.norm_eps)
        k = reference.rms_norm(k, p["k_norm"]["scale"][i], config.norm_eps)
    frequencies = reference.rope_frequencies(size, config)
    q = np.stack([reference.rotate(q[t], t, frequencies) for t in range(len(x))])
    k = np.stack([reference.rotate(k[t], t, frequencies) for t in range(len(x))])
    out = np.zeros_like(q)
    for t in range(len(x)):
        for h in range(config.num_heads):
            g = h // (config.num_heads // groups)
            out[t, h] = reference.attention(q[t, h], k[:, g], v[:, g])
    x = x + out.reshape(len(x), -1) @ p["o"]["kernel"][i]
    p = params["mlp"]
    normed = reference.rms_norm(x, params["mlp_norm"]["scale"][i], config.norm_eps)
    gate = normed @ p["gate"]["kernel"][i]
    return x + (gate / (1 + np.exp(-gate)) * (normed @ p["up"]["kernel"][i])) @ p["down"]["kernel"][i]


def expected_nats(config, params, document) -> np.ndarray:
    """float64 [T - 1]: of every id after BOS, and of the [W] before it where it opens a word."""
    params = reference.float64(params)
    table, words = params["encoder"]["embedding"]["table"], words_of(document)
    embeddings = []
    for word in words:
        x = table[[W, *word]]
        for i in range(config.encoder.num_layers):
            x = both_ways(config.encoder, params["encoder"]["layers"], i, x)
        embeddings.append(x[0] @ params["encoder"]["to_word"]["kernel"])
    outputs = reference.run_stack(
        config.backbone, params["backbone"]["layers"], np.stack(embeddings)
    )
    head, nats, closing = params["head"], [], 0.0
    for word, before in zip(words[1:], outputs):
        x = np.stack([before @ params["decoder"]["from_word"]["kernel"], *table[word]])
        x = reference.run_stack(config.decoder, params["decoder"]["layers"], x)
        x = reference.rms_norm(x, head["norm"]["scale"], config.decoder.norm_eps)
        logits = x @ head["projection"]["kernel"]
        costs = []
        for n, (scores, following) in enumerate(zip(logits, [*word, W])):
            possible = PREDICTED if n else reference.PREDICTED  # no word is empty
            costs.append(math.log(sum(math.exp(scores[i]) for i in possible)) - scores[following])
        nats += [costs[0] + closing, *costs[1:-1]]
        closing = costs[-1]  # paid with the id that opens the next word
    return np.array(nats)


def test_nats_equal_the_reference():
    """Packed with others; float32 against float64, some hundred roundings of up to 10 nats."""
    model, params, nats_of = built()
    rows = some_rows(seed=5)
    batch = reference.build_batch(rows, toy.T, toy.N)
    nats, correct = map(np.asarray, nats_of(params, batch))
    predicted = np.zeros(nats.shape, bool)
    for b, places in enumerate(reference.spans(rows)):
        for document, place in zip(rows[b], places, strict=True):
            expected = expected_nats(model.config, params, document)
            np.testing.assert_allclose(nats[b, place][:-1], expected, rtol=0, atol=5e-5)
            predicted[b, place] = True
            predicted[b, place.stop - 1] = False
    assert not nats[~predicted].any() and not correct[~predicted].any()
    sums = model.loss(params, batch)
    assert sums.targets == predicted.sum()
    assert sums.nats == pytest.approx(nats.sum(), rel=1e-5)
    assert sums.words == sum(len(words_of(d)) for row in rows for d in row)


def test_no_nats_depend_on_a_later_byte_or_word():
    """Bitwise, where the words before stay as they are. The words of a neighbour may change too."""
    model, params, nats_of = built()
    rng = np.random.default_rng(3)
    document, other = toy.random_document(rng, 20), toy.random_document(rng, 9)
    before = np.asarray(nats_of(params, reference.build_batch([[document, other]] * 4, toy.T, toy.N))[0])
    for t in range(20):
        data = bytearray(document.data)
        data[t] = (data[t] + 1 + t) % 256
        starts = document.starts.copy()
        starts[t + 1 :] = rng.random(19 - t) < 0.3
        changed = document._replace(data=bytes(data), starts=starts)
        rows = [[changed, other]] * 4
        after = np.asarray(nats_of(params, reference.build_batch(rows, toy.T, toy.N))[0])
        np.testing.assert_array_equal(after[0, :t], before[0, :t])  # BOS comes first
        assert after[0, t] != before[0, t]
        place = reference.spans(rows)[0][1]
        np.testing.assert_allclose(after[0, place], before[0, place], rtol=0, atol=3e-5)


def test_a_word_beyond_the_limit_is_seen_in_part():
    """Only what is within the limit counts, and nothing is lost or not a number."""
    model, params, nats_of = built()
    long = reference.Document(bytes(range(65, 65 + 40)), np.arange(40) == 0, np.zeros(40, np.int32))
    nats = np.asarray(nats_of(params, reference.build_batch([[long], [], [], []], toy.T, toy.N))[0])
    expected = expected_nats(model.config, params, long)
    assert np.isfinite(nats).all() and (nats[0, :41] > 0).all()
    np.testing.assert_allclose(nats[0, :20], expected[:20], rtol=0, atol=5e-5)


def test_flops_count_every_product():
    """Of one document whose words are of one length, where the formula is exact: projections and
    MLPs by the shapes of the matrices, attention by the keys that are seen."""
    config, model = toy.HAT_2025, built()[0]
    words, size = 7, 4
    found = model.flops(num_bytes=words * size, num_words=words, context_words=words)
    positions = words * (size + 1)

    def attention(stack, keys):
        return stack.num_layers * 4 * stack.num_heads * stack.head_size * keys

    def products(part):
        shapes = jax.tree.leaves(model.abstract_params()[part]["layers"])
        return 2 * sum(x.size for x in shapes if x.ndim == 3)

    edge = 2 * config.encoder.hidden_size * config.backbone.hidden_size
    assert found["encoder"] == pytest.approx(
        positions * (products("encoder") + attention(config.encoder, size + 1)) + words * edge
    )
    assert found["decoder"] == pytest.approx(
        positions * (products("decoder") + attention(config.decoder, (size + 2) / 2)) + words * edge
    )
    assert found["head"] == positions * 2 * config.encoder.hidden_size * config.num_ids


def test_words_beyond_the_limit_are_counted():
    """Against the documents; and reported with the loss."""
    rows = some_rows(seed=6)
    batch = reference.build_batch(rows, toy.T, toy.N)
    sizes = [len(word) for row in rows for document in row for word in words_of(document)]
    for most in (1, 2, 4, 29, 30):
        assert long_words(batch, most) == sum(size > most for size in sizes)
    model, params, _ = built()
    reported = jax.eval_shape(model.training_loss, params, batch)[2]["long_words"]
    assert [x.shape for x in reported] == [(), ()] and max(sizes) > 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(decoder=StackConfig(24, 1, 2, 8)), "decoder.hidden_size 24 must equal"),
        (dict(encoder=StackConfig(16, 1, 2, 8, window=9)), "encoder: its words are the window"),
        (dict(word_bytes=0), "word_bytes 0"),
        (dict(num_ids=259), "no row for id 259"),
    ],
)
def test_configs_that_cannot_be(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(toy.HAT_2025, **changes)
