"""The losses against float64 references written from their equations, and brute force."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hat.training import distill_losses as losses

RNG = np.random.default_rng(0)


def reference_kl(log_p, log_q, temperature):
    """arXiv 2503.20083, section 3: f(p || q) + f(1-p || 1-q), f(a || b) = a log(a / b)."""
    p, q = (np.exp(np.float64(x) / temperature) for x in (log_p, log_q))
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


@pytest.mark.parametrize("temperature", [1.0, 5.0, 100.0])
def test_binary_kl_is_the_equation(temperature):
    log_p, log_q = -RNG.gamma(1.0, 4.0, (2, 1000))
    found = losses.binary_kl(jnp.float32(log_p), jnp.float32(log_q), temperature)
    # Lowering both logarithms by 1e-6 changes log(1-p) by 1e-6 / (1-p), and float32 rounds there.
    near = 1 - np.exp(np.maximum(log_p, log_q) / temperature)
    error = np.abs(found - reference_kl(log_p, log_q, temperature))
    assert (error <= 3e-6 + 1e-5 / near).all()


def test_binary_kl_is_zero_and_flat_at_equality_and_nowhere_nan():
    at = jnp.float32([-1e-9, 0.0, -0.1, -3.0, -80.0, -3000.0])
    slope = jax.grad(lambda q: losses.binary_kl(at, q, 5.0).sum())(at)
    np.testing.assert_allclose(losses.binary_kl(at, at, 5.0), 0.0, atol=1e-7)
    # Two terms of size p / (1-p) cancel: at p = 1 - 1e-6 that leaves float32 rounding of 1.
    np.testing.assert_allclose(slope, 0.0, atol=1e-6)
    far = jax.grad(lambda q: losses.binary_kl(at, q, 5.0).sum())(at[::-1])
    assert np.isfinite(far).all()


def test_span_sums_are_those_of_loops():
    rows, length, count = 3, 40, 12
    nats = RNG.gamma(1.0, 1.0, (rows, length))
    closing = -RNG.gamma(1.0, 1.0, (rows, length))
    span = np.sort(RNG.integers(0, count + 4, (rows, length)))
    span[span > count] = count
    span[0, 5:9] = count  # a span that is none, between others
    closed = np.append(np.diff(span) > 0, np.zeros((rows, 1), bool), axis=1) & (span < count)
    likelihood, there = losses.span_logprobs(
        *map(jnp.asarray, (nats, closing, span, closed.astype(np.int32))), count
    )
    for row, s in itertools.product(range(rows), range(count)):
        ids = np.flatnonzero(span[row] == s)
        expected = sum(-nats[row, t - 1] for t in ids if t > 0)
        expected += sum(closing[row, t] for t in ids if closed[row, t])
        assert bool(there[row, s]) == (len(ids) > 0)
        assert likelihood[row, s] == pytest.approx(expected, abs=1e-4)  # float32 sums of 40


def test_spans_that_are_not_there_have_no_gradient():
    teacher, there = jnp.full((1, 3), -1.0), jnp.array([[True, False, True]])
    student = jnp.array([[-2.0, 0.0, -1.0]])  # 0: log(1-p) and its slope are infinite

    def total(student):
        return losses.chunk_likelihood(teacher, student, there, 5.0)[0]

    slope = jax.grad(total)(student)
    assert slope[0, 1] == 0.0 and slope[0, 0] != 0.0 and np.isfinite(slope).all()
    assert losses.chunk_likelihood(teacher, student, there, 5.0)[1] == 2.0


def test_word_distance_is_the_equation():
    words, tokens = RNG.normal(size=(2, 4, 6)), RNG.normal(size=(2, 5, 6))
    index = np.array([[0, 2, 5, 4], [5, 5, 1, 5]])
    found, count = losses.word_distance(*map(jnp.asarray, (words, tokens, index)))
    expected = sum(
        ((words[b, n] - tokens[b, m]) ** 2).sum() / (tokens[b, m] ** 2).sum()
        for b in range(2) for n, m in enumerate(index[b]) if m < 5
    )  # fmt: skip
    assert count == 4 and found == pytest.approx(expected, rel=1e-5)  # float32
    same = losses.word_distance(jnp.asarray(tokens), jnp.asarray(tokens), jnp.array([range(5)] * 2))
    assert same[0] == 0.0 and same[1] == 10


def test_byte_kl_is_the_equation():
    teacher = RNG.dirichlet(np.full(257, 0.1), (2, 3))
    teacher[0, 0] = np.eye(257)[65]  # zeros elsewhere
    student = np.log(RNG.dirichlet(np.full(257, 2.0), (2, 3)))
    mask = np.array([[True, True, False], [False, True, True]])
    found, count = losses.byte_kl(*map(jnp.asarray, (teacher, student, mask)))
    with np.errstate(divide="ignore", invalid="ignore"):
        kl = np.where(teacher > 0, teacher * (np.log(teacher) - student), 0.0).sum(-1)
    assert count == 4 and found == pytest.approx(kl[mask].sum(), rel=1e-5)  # float32
    equal = np.log(np.maximum(teacher, 1e-30))
    assert losses.byte_kl(*map(jnp.asarray, (teacher, equal, mask)))[0] == pytest.approx(0, abs=1e-5)


# --- the next byte of a teacher that draws tokens -------------------------------------------------

VOCABULARY = [b"a", b"ab", b"aba", b"b", b"ba", b"c"]  # sorted; column 0 is the end of the text
PROBABILITIES = np.array([0.1, 0.15, 0.2, 0.1, 0.05, 0.25, 0.15])
COLUMNS = [b"", *VOCABULARY]


def table() -> np.ndarray:
    out = np.full((3, len(COLUMNS)), 257)
    out[0, 0] = 256
    for column, text in enumerate(COLUMNS):
        out[: len(text), column] = list(text)
    return out


def next_bytes_after(known: bytes) -> np.ndarray:
    """The module's distribution of the byte after the bytes of a token under way, [257]."""
    columns = [i for i, text in enumerate(COLUMNS) if text.startswith(known) and text > known]
    columns = [0, *columns] if not known else columns
    low, high = min(columns), max(columns) + 1
    assert columns == list(range(low, high))
    logits = jnp.log(jnp.asarray(PROBABILITIES, jnp.float32))[None, None]
    place = [jnp.array([[x]]) for x in (len(known), low, high)]
    found = np.asarray(losses.next_byte_probabilities(logits, *place, jnp.asarray(table())))[0, 0]
    assert found[losses.TOKEN_OVER] == 0  # none of the columns is over
    return found[: losses.NUM_OUTCOMES]


def states(text: bytes):
    """(probability, bytes of the token under way) of every way in which tokens can spell `text`:
    whole tokens, then one that has begun with the rest and goes on, or none begun."""
    def whole(rest):
        if not rest:
            yield 1.0, b""
            return
        for p, token in zip(PROBABILITIES[1:], VOCABULARY):
            if rest.startswith(token):
                yield from ((p * q, tail) for q, tail in whole(rest[len(token):]))
        longer = sum(p for p, token in zip(PROBABILITIES[1:], VOCABULARY)
                     if token.startswith(rest) and token > rest)
        if longer:
            yield longer, rest
    return list(whole(text))


def prefix_probability(text: bytes) -> float:
    """Of all texts that begin so: over the covers whose last token reaches the end of `text`."""
    if not text:
        return 1.0
    total = 0.0
    for p, token in zip(PROBABILITIES[1:], VOCABULARY):
        if token.startswith(text):
            total += p
        elif text.startswith(token):
            total += p * prefix_probability(text[len(token):])
    return total


@pytest.mark.parametrize("text", [b"", b"a", b"ab", b"aba", b"abab", b"cab", b"babab"])
def test_mean_over_token_paths_is_the_exact_next_byte(text):
    """What NextBytes claims: a student that sees bytes alone learns the mean of the targets over
    what it does not see, and that is the marginal next-byte distribution, exactly."""
    weights, under_way = zip(*states(text))
    targets = [next_bytes_after(known) for known in under_way]
    mean = np.average(targets, axis=0, weights=weights)
    exact = np.zeros(257)
    for byte in b"abc":
        exact[byte] = prefix_probability(text + bytes([byte])) / prefix_probability(text)
    exact[256] = 1 - exact.sum()
    np.testing.assert_allclose(mean, exact, atol=1e-6)  # float32
    assert sum(weights) == pytest.approx(prefix_probability(text))


def test_blocks_change_nothing():
    x, y = jnp.asarray(RNG.normal(size=(2, 10, 3))), jnp.arange(20).reshape(2, 10)

    def function(x, y):
        return x.sum(-1) + y, {"y": y[..., None] * x}

    jax.tree.map(
        np.testing.assert_array_equal,
        losses.in_blocks(function, 4, x, y), losses.in_blocks(function, 10, x, y),
    )  # fmt: skip
