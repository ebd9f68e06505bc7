"""Bits per byte in merged tokens: against float64, against plain scoring, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hat.dynamic_tokenization.embeddings import KnownSpellings, RowCache, mean_of_parts, source_of
from hat.dynamic_tokenization.measure import Reader, costs, rows_of, together
from hat.dynamic_tokenization.merging import learn
from hat.dynamic_tokenization.boundaries import encode
from hat.dynamic_tokenization.model import MergedLlama, merged_params
from hat.errors import UserError
from hat.inference.scoring import make_rows, score_documents
from tests.dynamic_tokenization.models import STACK, hypernetwork, llama
from tests.dynamic_tokenization.texts import LINES, bpe
from tests.models.reference import float64, rms_norm, run_stack

TEXTS = [line.encode() for line in LINES] + [b"\xff\xfe the cat", b"a"]
LENGTH = 64


def cache_of(predictor=mean_of_parts):
    model, params = llama()
    return RowCache(predictor, source_of(model, params), KnownSpellings(bpe()))


def measured(merged, scope="example", cache=None):
    model, params = llama()
    return costs(
        model, params, bpe(), TEXTS, merged, cache or cache_of(), scope=scope, row_length=LENGTH
    )


def test_no_merge_is_the_model_itself():
    """Number for number: with no merged token the program is that of the base."""
    model, params = llama()
    rows = make_rows(model, bpe(), LENGTH, LENGTH)
    batch = {}
    for text in TEXTS[:2]:
        for name, values in rows.expand(rows.cut(text, "")[1][0]).items():
            batch.setdefault(name, []).append(values)
    batch = {name: np.stack(values) for name, values in batch.items()}
    none = learn([], model.config.num_ids)
    merged = MergedLlama(model.config).logits(
        merged_params(params, rows_of(none, cache_of()), 0), batch
    )
    np.testing.assert_array_equal(merged, model.logits(params, batch))

    plain = score_documents(model, params, bpe(), TEXTS, row_length=LENGTH, row_words=LENGTH)
    found = measured(Reader(TEXTS, bpe(), model.config.num_ids).at(0.0))
    for cost, score in zip(found, plain, strict=True):
        assert cost.nats == pytest.approx(score.nats.sum(dtype=np.float64), rel=1e-6)
        assert cost.table_nats == pytest.approx(math.log(2))  # "no merges" is one bit


def reference(table, symbols) -> float:
    """Nats of a text in float64: one row, all rows of all tokens side by side, means of parts."""
    model, params = llama()
    weights, its, config = float64(params), bpe(), model.config
    table_in = weights["embedding"]["table"]
    table_out = weights["head"]["projection"]["kernel"].T
    parts = KnownSpellings(its)(table.parts())
    mean_in = [table_in[list(p)].mean(axis=0) for p in parts]
    mean_out = [table_out[list(p)].mean(axis=0) for p in parts]
    inputs = np.concatenate([table_in, np.array(mean_in).reshape(-1, 16)])
    outputs = np.concatenate([table_out, np.array(mean_out).reshape(-1, 16)])
    ids = np.arange(len(outputs))
    there = (ids < config.num_tokens) | (ids == config.eot) | (ids >= config.num_ids)
    x = run_stack(STACK, weights["backbone"], inputs[[its.bos, *symbols]])
    x = rms_norm(x, weights["head"]["norm"]["scale"], STACK.norm_eps)
    logits = np.where(there, x @ outputs.T, -np.inf)
    targets = [*symbols.tolist(), config.eot]
    most = logits.max(axis=1)
    log_sums = most + np.log(np.exp(logits - most[:, None]).sum(axis=1))
    return float((log_sums - logits[np.arange(len(targets)), targets]).sum())


@pytest.mark.parametrize("reduction", [0.1, 0.3])
def test_nats_are_those_of_one_softmax_over_all_tokens(reduction):
    """To 1e-4 of a hundred nats: fp32."""
    model, _ = llama()
    texts = TEXTS[:2]
    merged = Reader(texts, bpe(), model.config.num_ids, boundary="sentence").at(reduction)
    model, params = llama()
    found = costs(model, params, bpe(), texts, merged, cache_of(), scope="example", row_length=LENGTH)
    for its, cost, text in zip(merged, found, texts, strict=True):
        assert len(its.symbols) <= (1 - reduction) * its.base_length
        assert cost.nats == pytest.approx(reference(its.table, its.symbols), rel=1e-5, abs=1e-3)
        assert cost.table_nats == its.table.nats() and cost.num_bytes == len(text)
        bits = (cost.nats + its.table.nats()) / math.log(2) / len(text)
        assert cost.bits_per_byte == pytest.approx(bits)
        assert cost.given_table < cost.bits_per_byte
    whole = together(found)
    assert whole.nats == pytest.approx(sum(cost.nats for cost in found))


def test_a_fresh_hypernetwork_changes_no_number():
    """At its beginning it is the mean of parts: 1e-5 of what it costs."""
    from hat.dynamic_tokenization import embeddings

    model, params = hypernetwork()
    merged = Reader(TEXTS[:2], bpe(), llama()[0].config.num_ids).at(0.2)
    args = (*llama(), bpe(), TEXTS[:2], merged)
    how = dict(scope="example", row_length=LENGTH)
    plain = costs(*args, cache_of(), **how)
    found = costs(*args, cache_of(embeddings.hypernetwork(model, params, bpe())), **how)
    for a, b in zip(plain, found, strict=True):
        assert a.nats == pytest.approx(b.nats, rel=1e-5)


def test_a_table_from_elsewhere_is_owed_nothing_and_texts_do_not_touch():
    base = llama()[0].config.num_ids
    table = learn([encode(TEXTS[0] * 2, bpe(), "word")], base, merges=30)
    reader = Reader(TEXTS, bpe(), base, scope="corpus", table=table)
    merged = reader.at(0.2)
    assert len({id(its.table) for its in merged}) == 1
    found = measured(merged, "corpus")
    assert all(cost.table_nats == 0 for cost in found)
    alone = Reader(TEXTS[1:2], bpe(), base, scope="corpus", table=table).at(0.2)
    model, params = llama()
    its = costs(model, params, bpe(), TEXTS[1:2], alone, cache_of(), scope="corpus", row_length=LENGTH)
    assert its[0].nats == pytest.approx(found[1].nats, rel=1e-5)


def test_long_texts_are_cut_into_rows():
    """Every symbol and the end is predicted once, however the rows fall."""
    text = TEXTS[0] * 4
    model, params = llama()
    merged = Reader([text], bpe(), model.config.num_ids).at(0.3)
    assert len(merged[0].symbols) > 40
    short, long = (
        costs(model, params, bpe(), [text], merged, cache_of(), scope="example", row_length=length)[0]
        for length in (24, 256)
    )
    assert short.nats != long.nats and abs(short.nats / long.nats - 1) < 0.5


def test_what_is_refused():
    base = llama()[0].config.num_ids
    batch = Reader(TEXTS, bpe(), base, scope="batch").at(0.1)
    with pytest.raises(UserError, match="no likelihood"):
        measured(batch, "batch")
    reader = Reader(TEXTS, bpe(), base, names=[f"{i}.txt" for i in range(len(TEXTS))])
    with pytest.raises(UserError, match=r"0\.txt: a reduction of 95\.0% cannot .* largest is \d"):
        reader.at(0.95)
