"""A HAT that draws its own words: the drawing against a loop, and its promises."""

from __future__ import annotations

import dataclasses
import functools
import unicodedata

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.errors import UserError
from hat.models import hat_learned
from hat.models.hat_learned import BoundaryConfig, LearnedHatConfig
from tests.models import reference, toy

MLP, COSINE = toy.BOUNDARIES["mlp"], toy.BOUNDARIES["cosine"]
TEXTS = [b"a cat\n\nsat  on\nit", "Zoë – naïve\n漢字 ok กิน".encode(), bytes(range(120, 145))]


def config(boundaries) -> LearnedHatConfig:
    return LearnedHatConfig(**vars(toy.PLAIN) | {"boundaries": boundaries})


@functools.cache
def built(boundaries):
    model = config(boundaries).build()

    def everything(params, batch):
        logits, drawn = model.module(params).draw_and_write(batch)
        return logits, drawn, model.nats(params, batch)[0], model.training_loss(params, batch)

    return model, toy.random_params(model), toy.jit(everything)


def batch_of(rows):
    """Documents of bytes; their words, of two bytes each, are for the supervision alone."""

    def document(data: bytes):
        starts = np.arange(len(data)) % 2 == 0
        return reference.Document(data, starts, np.zeros(len(data), np.int32))

    return reference.build_batch([[document(d) for d in row] for row in rows], toy.T, toy.N)


def with_room(batch, N):
    """The same rows with room for N words."""
    words = {name: batch[name][:, :N] for name in ("word_segment", "word_position")}
    return {**batch, **words}


rows_of_bytes = st.lists(st.lists(st.binary(max_size=14), max_size=3), min_size=4, max_size=4)


@given(rows_of_bytes, st.integers(0, 2**16), st.sampled_from([4, 9, toy.N]), st.sampled_from([2, 5, 40]))
@settings(max_examples=60, deadline=None)
def test_words_are_drawn_as_by_a_loop(rows, seed, N, longest):
    batch = batch_of(rows)
    batch = with_room(batch, N)
    rng = np.random.default_rng(seed)
    chance = rng.random(batch["bytes"].shape).astype(np.float32)
    drawn = hat_learned.draw(batch, jnp.asarray(chance), jnp.zeros_like(batch["bytes"]), longest)
    dropped_in_all = 0
    for b in range(toy.B):
        ids, segment = batch["bytes"][b], batch["segment"][b]
        number, size, opening, dropped, before = -1, 0, 0, 0, None
        expected = dict(word=[], guide=[])
        segments, positions, ends = {}, {}, {}
        for t in range(toy.T):
            if segment[t] == 0:
                expected["word"].append(N)
                expected["guide"].append(-1)
                continue
            special = ids[t] > 255
            forced = special or before is None or before > 255
            free = not forced and ids[t] & 0xC0 != 0x80
            learned = free and chance[b, t] > 0.5
            if forced or learned or size == longest:
                number, size = number + 1, 0
                ends[number - 1] = chance[b, t] if learned else 1.0
                if number < N:
                    if ids[t] == reference.BOS:
                        opening = number
                    segments[number], positions[number] = segment[t], number - opening
                dropped += number >= N
            size += 1
            before = ids[t]
            expected["word"].append(number if number < N else N)
            last = min(number if special else number - 1, N - 1)
            expected["guide"].append(last if segments.get(last) == segment[t] else -1)
        for name, values in expected.items():
            assert np.asarray(drawn.batch[name][b]).tolist() == values, name
        for name, found in (("word_segment", segments), ("word_position", positions)):
            assert np.asarray(drawn.batch[name][b]).tolist() == [found.get(n, 0) for n in range(N)]
        np.testing.assert_array_equal(
            drawn.keep[b], np.array([ends.get(n, 1.0) for n in range(N)], np.float32)
        )
        dropped_in_all += dropped
    assert drawn.dropped == dropped_in_all


def test_smoothing_is_a_recurrence():
    rng = np.random.default_rng(0)
    words, keep = rng.normal(size=(2, 9, 3)), rng.random((2, 9))
    keep[:, [0, 4]] = 1
    found = hat_learned.smoothed(jnp.asarray(words, jnp.float32), jnp.asarray(keep, jnp.float32))
    held = np.zeros((2, 3))
    for n in range(9):
        held = keep[:, n, None] * words[:, n] + (1 - keep[:, n, None]) * held
        np.testing.assert_allclose(found[:, n], held, atol=1e-6)


@pytest.mark.parametrize("boundaries", [COSINE, MLP], ids=["cosine", "mlp"])
def test_words_move_with_a_byte(boundaries):
    """Else test_hat_causality, which takes these models too, would prove less."""
    _, params, run = built(boundaries)
    text = TEXTS[1]
    changed = [text[:t] + b"~" + text[t + 1 :] for t in range(3, len(text), 4)]
    starts = [
        run(params, batch_of([[data], [], [], []]))[1].starts[0] for data in (text, *changed)
    ]
    assert sum((other != starts[0]).any() for other in starts[1:]) > 2


def test_dropped_words_are_counted_and_their_bytes_charged():
    model, params, run = built(COSINE)
    texts = [[TEXTS[1]], [TEXTS[2]], [TEXTS[0], b"de"], []]
    batch = batch_of(texts)
    few = with_room(batch, 6)
    full, short = run(params, batch), run(params, few)
    starts = np.asarray(full[1].starts)
    _, sums, ratios = short[3]
    dropped, drawn = ratios["dropped_words"]
    assert drawn == starts.sum() and dropped == np.maximum(starts.sum(axis=1) - 6, 0).sum() > 0
    every = [text for row in texts for text in row]
    assert sums.bytes == sum(map(len, every)) and np.isfinite(np.asarray(short[2])).all()
    assert sums.targets == sum(len(text) + 1 for text in every)
    assert sums.words == np.minimum(starts.sum(axis=1), 6).sum()
    # What lies before the first word that is dropped does not notice.
    sixth = np.flatnonzero(starts[0])[6]
    np.testing.assert_allclose(short[2][0, :sixth], full[2][0, :sixth], rtol=0, atol=1e-5)


def test_scripts_are_those_of_the_characters():
    scripts = ("latin", "cyrillic", "thai", "han", "kana", "hangul")
    text = "aé жя กิ 你好 𠀀 こカ 안녕 λ 🙂 z"
    ids = np.array([[reference.BOS, *text.encode()]])
    nothing = hat_learned.nothing_read(1, 0, jnp.float32)
    found = np.asarray(hat_learned.groups_of(jnp.asarray(ids), scripts, nothing))[0, 1:]
    names = {"CJK": "han", "HIRAGANA": "kana", "KATAKANA": "kana"}
    expected, before = [], 0
    for character in text:
        start = unicodedata.name(character).split()[0]
        script = names.get(start, start.lower())
        script = "latin" if character == " " else script
        group = scripts.index(script) + 1 if script in scripts else 0
        size = len(character.encode())
        # From its second byte on, where the first does not tell.
        expected += [before if size > 2 else group] + [group] * (size - 1)
        before = group
    assert found.tolist() == expected


def test_the_ratio_loss_is_least_at_the_ratio():
    """1 there, by hand elsewhere, and its slope moves the chances towards the share."""
    kind = dataclasses.replace(COSINE, bytes_per_word=4.0)
    ids = np.full((1, 40), 97)

    def loss(chance, every):
        starts = np.arange(40)[None] % every == 0
        drawn = hat_learned.Drawn(
            starts, np.ones((1, 40), bool), chance, np.zeros((1, 40), int),
            {"segment": np.ones((1, 40), int), "bytes": ids}, None, None,
        )  # fmt: skip
        return hat_learned.ratio_loss(drawn, kind)

    at = functools.partial(jnp.full, (1, 40))
    assert loss(at(0.25), 4) == pytest.approx(1, abs=1e-6)
    assert loss(at(0.5), 2) == pytest.approx(4 / 3 * (3 / 4 + 1 / 4), rel=1e-6)
    for every, sign in ((2, 1), (8, -1)):
        slope = jax.grad(lambda c: loss(c, every))(at(0.5))
        assert (np.sign(slope) == sign).all()


def test_the_loss_of_the_bytes_reaches_the_predictor():
    for boundaries in (COSINE, MLP):
        model, params, _ = built(dataclasses.replace(boundaries, weight=0.0))
        batch = batch_of([[text] for text in TEXTS] + [[]])
        slopes = toy.jit(jax.grad(lambda p: model.training_loss(p, batch)[0]))(params)
        sizes = [float(jnp.abs(x).max()) for x in jax.tree.leaves(slopes["boundaries"])]
        assert min(sizes) > 1e-6 and np.isfinite(sizes).all()


def test_the_supervision_is_the_cross_entropy_of_the_splitter():
    kind = dataclasses.replace(COSINE, learn="splitter")
    _, params, run = built(kind)
    batch = batch_of([[text] for text in TEXTS] + [[]])
    _, drawn, _, (total, sums, ratios) = run(params, batch)
    nats = []
    for b, text in enumerate(TEXTS):
        for t in range(1, len(text)):  # the first byte begins a word in any case
            if text[t] & 0xC0 != 0x80:
                p = float(drawn.chance[b, t + 1])
                nats.append(-np.log(p if t % 2 == 0 else 1 - p))
    above, below = ratios["boundary_loss"]
    assert above / below == pytest.approx(np.mean(nats), rel=1e-5)
    expected = float(sums.nats) + kind.weight * np.mean(nats) * float(sums.targets)
    assert float(total) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(bytes_per_word=1.0), "1 bytes a word .all. cannot be"),
        (dict(bytes_per_word=99.0), "at most max_word_bytes 64"),
        (dict(predictor="mlp", scripts=(("klingon", 5.0),)), "no predictor for script 'klingon'"),
        (dict(predictor="mlp", scripts=(("han", 5.0), ("han", 6.0))), "names a script twice"),
        (dict(scripts=(("han", 5.0),)), "are of predictor 'mlp'"),
        (dict(predictor="dice"), "predictor 'dice' is none of"),
        (dict(weight=-1.0), "weight must be 0 or more"),
    ],
)
def test_boundaries_that_cannot_be(changes, message):
    with pytest.raises(UserError, match=message):
        BoundaryConfig(**changes)


def test_released_guides_need_known_words():
    with pytest.raises(UserError, match="earliest"):
        dataclasses.replace(config(COSINE), guide="released")
