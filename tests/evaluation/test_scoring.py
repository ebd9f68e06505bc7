"""Continuations: split where the whole text splits, never cut, the same in any batch."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hat.errors import UserError
from hat.evaluation.perturbations.segmentation import jitter, jittered_units
from hat.evaluation.scoring import Scorer
from hat.text.tokenizers import ByteTokenizer, train_bpe
from tests.evaluation.texts import rates
from tests.inference.helpers import (
    ByteTokens,
    SmallSplitter,
    built,
    hat_batch,
    hat_config,
    llama_config,
    token_batch,
    whole_nats,
)

TOLERANCE = 1e-3  # nats of up to 60 ids of about 6 each, fp32 sums in another order
ROW = dict(row_length=64, row_words=24, batch_size=3)
CORPUS = [b"the cat and the hat that the other cat had; then the end of the tale\n"] * 20
BPE = train_bpe(CORPUS, 280)
PAIRS = [
    (b"a few words", b" here"),
    (b"wor", b"ld of"),  # inside a word
    ("naïv".encode()[:-1] + "é".encode()[:1], "é".encode()[1:] + b" x"),  # inside a character
    (b"", b"x"),
    (b"\xff\xc0 ", b"\n\n"),
]


@pytest.fixture(scope="module")
def hat() -> Scorer:
    return Scorer(*built(hat_config()), SmallSplitter(), **ROW)


@pytest.fixture(scope="module")
def flat() -> Scorer:
    return Scorer(*built(llama_config()), ByteTokens(), **ROW)


@pytest.fixture(scope="module")
def subword() -> Scorer:
    return Scorer(*built(llama_config(num_tokens=280)), BPE, **ROW)


def reference(scorer: Scorer, pairs) -> list[float]:
    """Nats of continuations from the whole texts in one pass each, a byte an id."""
    texts = [context + continuation for context, continuation in pairs]
    texts += [b""] * (len(DOCUMENT_ROWS) - len(texts))
    if scorer.kind == "hat":
        batch = hat_batch(texts, SmallSplitter(), 66)
    else:
        batch = token_batch(texts, 66)
    nats = np.asarray(whole_nats(scorer.model, scorer._params, batch), np.float64)
    return [
        float(row[len(context) : len(context) + len(continuation)].sum())
        for row, (context, continuation) in zip(nats, pairs)
    ]


DOCUMENT_ROWS = range(len(PAIRS))  # of every reference batch, so that one is compiled


@pytest.mark.parametrize("kind", ["hat", "flat"])
def test_the_boundary_cuts_the_whole_text(kind, request):
    scorer = request.getfixturevalue(kind)
    scores = scorer.continuations(PAIRS)
    np.testing.assert_allclose(
        [score.nats for score in scores], reference(scorer, PAIRS), rtol=0, atol=TOLERANCE
    )
    assert not any(score.truncated or score.straddled for score in scores)
    if kind == "hat":
        assert [score.positions for score in scores[:2]] == [4, 2]  # words of the whole


@settings(max_examples=12)
@given(st.binary(min_size=1, max_size=50), st.integers(0, 50))
@example("wo世界 rd\xff".encode() + b"\xe4\xb8", 4)
def test_parts_of_a_text_add_up(text, cut):
    """The chain rule, wherever the boundary lies, for any bytes: what a byte costs does not depend
    on where the continuation begins."""
    cut = min(cut, len(text) - 1)
    for config, rule in ((hat_config(), SmallSplitter()), (llama_config(), ByteTokens())):
        scorer = Scorer(*built(config), rule, **ROW)
        pairs = [(b"", text), (text[:cut], text[cut:])] + ([(b"", text[:cut])] if cut else [])
        whole, end, *begin = (score.nats for score in scorer.continuations(pairs))
        assert whole == pytest.approx(end + sum(begin), abs=TOLERANCE)
        rolled = scorer.rolling([text])[0]
        assert len(rolled.nats) == len(text) + 1  # every byte once, and the end
        assert whole == pytest.approx(float(rolled.nats[:-1].sum()), abs=TOLERANCE)


def test_tokens_over_the_boundary_belong_to_the_continuation(subword):
    tokenizer = subword._rule
    pairs = [(b"and the ca", b"t had"), (b"the cat", b" and"), (b"the ", b"tale")]
    scores = subword.continuations(pairs)
    for (context, continuation), score in zip(pairs, scores):
        ids = tokenizer.encode(context + continuation)
        ends = np.cumsum(tokenizer.byte_lengths[ids])
        row = np.full((1, 64), tokenizer.pad, np.int32)
        row[0, : len(ids) + 1] = [tokenizer.bos, *ids]
        segment = (np.arange(64) <= len(ids)).astype(np.int32)[None]
        batch = {"tokens": row, "segment": segment, "token_bytes": tokenizer.byte_lengths[row],
                 "position": np.arange(64, dtype=np.int32)[None] * segment}  # fmt: skip
        nats = np.asarray(whole_nats(subword.model, subword._params, batch))[0, : len(ids)]
        expected = float(nats[ends > len(context)].sum())
        assert score.nats == pytest.approx(expected, abs=TOLERANCE)
        assert score.positions == len(ids)
        begins = ends - tokenizer.byte_lengths[ids]
        crossing = ((begins < len(context)) & (ends > len(context))).any()
        assert score.straddled == crossing
    assert [score.straddled for score in scores[:2]] == [True, False]


def test_long_contexts_lose_their_beginning(hat):
    context = b"many words make a context that no single row of ids can hold, " * 4
    continuation = b"not even with care"
    (score,) = hat.continuations([(context, continuation)])
    text = context + continuation
    starts = np.flatnonzero(SmallSplitter().split(np.frombuffer(text, np.uint8)).starts)
    # The first word from which on the text fits, beside BOS, in 64 ids and 24 words.
    cut = next(s for i, s in enumerate(starts)
               if len(text) - s + 1 <= 64 and len(starts) - i + 1 <= 24)
    kept = text[cut : len(context)], continuation
    assert score.nats == pytest.approx(reference(hat, [kept])[0], abs=TOLERANCE)
    assert score.truncated and score.positions == len(starts)
    (fits,) = hat.continuations([kept])
    assert not fits.truncated and fits.nats == pytest.approx(score.nats, abs=TOLERANCE)


@pytest.mark.parametrize("size", range(55, 64))
def test_continuations_are_never_cut(hat, size):
    """A continuation of up to 63 bytes fits a row of 64 ids beside BOS, if its words do."""
    continuation = b"x" * size
    (score,) = hat.continuations([(b"some words before it ", continuation)])
    (alone,) = hat.continuations([(b"", continuation)])
    assert score.truncated == (21 + size > 63)
    if size > 60:  # no word of the context has room, so that nothing is left of it
        assert score.nats == pytest.approx(alone.nats, abs=TOLERANCE)
    else:
        assert score.nats != pytest.approx(alone.nats, abs=TOLERANCE)


def test_continuations_that_do_not_fit(hat):
    with pytest.raises(UserError, match="'xxxxx.* ...' of 64 bytes does not fit .* 64 ids"):
        hat.continuations([(b"", b"x" * 64)])
    with pytest.raises(UserError, match="of 48 bytes does not fit"):
        hat.continuations([(b"", b"a " * 24)])  # 24 words
    with pytest.raises(ValueError, match="no continuation"):
        hat.continuations([(b"x", b"")])


def test_batches_change_nothing(hat):
    pairs = [(b"context number %d of some words" % i, b" and its end" * (1 + i % 3))
             for i in range(11)]  # fmt: skip
    scores = hat.continuations(pairs)
    backwards = hat.continuations([*reversed(pairs), pairs[0]])
    alone = [hat.continuations([pair])[0] for pair in pairs]
    for score, other, single in zip(scores, backwards[-2::-1], alone):
        assert score.nats == pytest.approx(other.nats, abs=TOLERANCE)
        assert score.nats == pytest.approx(single.nats, abs=TOLERANCE)
        assert (score.positions, score.truncated) == (single.positions, single.truncated)
    assert backwards[-1] == backwards[-2]  # an equal pair, scored once


def test_short_texts_take_short_rows():
    """Rows of 1,024 ids, 512 and 256: the shortest that hold four such texts, in ids and words."""
    scorer = Scorer(*built(hat_config()), SmallSplitter(), row_length=1024, row_words=240)
    lengths = [rows.length for rows in scorer._buckets]
    assert lengths == [256, 512, 1024]
    pieces = [scorer._cut(b"word " * n, b"end") for n in (10, 20, 80)]
    assert [lengths[scorer._bucket(piece)] for piece in pieces] == [256, 512, 1024]
    assert lengths[scorer._bucket(scorer._cut(b"a " * 20, b"end"))] == 512  # 22 words of 60


def test_what_is_generated_is_the_likeliest(flat):
    prompts = [b"a few words", b"\xffx" * 200]  # the second longer than the context
    completions = flat.complete(prompts, 5)
    assert [len(text) for text in completions] == [5, 5]
    (score,) = flat.continuations([(prompts[0], completions[0])])
    assert score.likeliest
    other = bytes([completions[0][0] ^ 1]) + completions[0][1:]
    assert not flat.continuations([(prompts[0], other)])[0].likeliest
    stop = completions[0][2:3]
    assert flat.complete(prompts, 5, [stop])[0] == completions[0].partition(stop)[0]
    with pytest.raises(UserError, match="63 bytes do not fit the model's context of 64"):
        flat.complete(prompts, 63)


def test_kinds(hat, flat, subword):
    assert [scorer.kind for scorer in (hat, flat, subword)] == ["hat", "bytes", "subword"]


class JitteredSplitter(SmallSplitter):
    """A rule of its own whose boundaries are those of the jitter."""

    def __init__(self, mode: str, item_id: str):
        self._options = mode, 0.4, 7, item_id

    def split(self, data):
        return jitter(data.tobytes(), super().split(data), *self._options)


@pytest.mark.parametrize("mode", ["merge", "split", "delay", "move"])
def test_jitter_is_another_rule_for_the_same_text(hat, mode):
    context, continuation = b"a few words of a line", b" and here"
    (clean,) = hat.continuations([(context, continuation)])
    (score,) = hat.jittered(mode, 0.4, 7).continuations([(context, continuation)])
    item_id = hashlib.blake2b(context, digest_size=16).hexdigest()
    other = Scorer(*built(hat_config()), JitteredSplitter(mode, item_id), **ROW)
    assert other.continuations([(context, continuation)]) == [score]
    assert score.nats != clean.nats
    assert (score.positions > clean.positions) == (mode == "split")
    assert hat.jittered(mode, 0.0, 7).continuations([(context, continuation)]) == [clean]
    assert hat.continuations([(context, continuation)]) == [clean]


@settings(max_examples=40)
@given(st.binary(max_size=40), rates)
def test_jittered_tokens_are_the_same_text(text, rate):
    rule = BPE
    text = b"the cat " + text
    units = jittered_units(rule, text, "split", rate, 1, "x")
    assert b"".join(rule.token_bytes(int(id)) for id in units.ids) == text
    if rate == 1:  # a boundary before every character: no token holds two
        assert max(len(rule.token_bytes(int(id))) for id in units.ids[:8]) == 1


def test_jitter_of_models_without_words(flat, subword):
    pair = (b"the cat and the hat", b" that the other cat had")
    assert subword.jittered("split", 0.9, 1).continuations([pair])[0].positions > \
        subword.continuations([pair])[0].positions  # fmt: skip
    with pytest.raises(UserError, match="jitter-merge is of words, and tokens have only jitter-sp"):
        subword.jittered("merge", 0.9, 1).continuations([pair])
    bytewise = Scorer(flat.model, flat._params, ByteTokenizer(), **ROW)
    assert bytewise.jittered("split", 0.9, 1).continuations([pair]) == bytewise.continuations([pair])
