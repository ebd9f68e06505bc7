"""Entropy patches: the small model against the Llama it came from, and the splitter's promises."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.cli import main
from hat.errors import UserError
from hat.inference.entropy import byte_model
from hat.inference.run import load_rule, load_run
from hat.text.entropy import EntropyPatches, find_threshold, load_patches, ratio
from hat.text.splitters import keep_splitter, make_splitter
from tests.inference.helpers import (
    WINDOW,
    Lockstep,
    built,
    hat_config,
    llama_config,
    token_batch,
    write_run,
)
from tests.inference.test_hat_rows import ROWS, TEXTS, assert_chunks_equal, assert_equal_nats

TEXT = b"some words, and then some more words\n" * 3
any_bytes = st.binary(max_size=40)


def llama(**changes):
    config = llama_config(window=WINDOW)
    stack = dataclasses.replace(config.stack, **changes.pop("stack", {}))
    return dataclasses.replace(config, stack=stack, **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "bytes"
    write_run(folder, llama(), tokenizer="bytes", row_length=64)
    return folder


@pytest.fixture(scope="module")
def patches(run) -> EntropyPatches:
    """About four bytes a word, at most seven."""
    splitter = EntropyPatches(*byte_model(load_run(run)), "global", 0.0, max_word_bytes=7)
    return find_threshold(splitter, [splitter.rises(array(TEXT))], 4.0)


@pytest.fixture(scope="module")
def monotonic(patches) -> EntropyPatches:
    splitter = dataclasses.replace(patches, kind="monotonic")
    return find_threshold(splitter, [splitter.rises(array(TEXT))], 3.0)


def array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


@pytest.mark.parametrize("changes", [{}, {"stack": {"qk_norm": True}, "tie_embeddings": True}])
def test_entropies_are_those_of_the_llama(tmp_path, changes):
    """Far beyond its window, whatever the pieces that the text is read in."""
    config = llama(**changes)
    write_run(tmp_path / "run", config, tokenizer="bytes")
    splitter = EntropyPatches(*byte_model(load_run(tmp_path / "run")), "global", 1.0)
    text = TEXT[:90] + bytes(range(128, 150))
    model, params = built(config)
    logits = model.logits(params, token_batch([text], len(text) + 2))[0, 1:-1]
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    expected = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=-1)
    # fp32 sums of 16 products in another order, entropies up to 5.5 nats.
    np.testing.assert_allclose(splitter.rises(array(text)), expected, rtol=0, atol=2e-4)


@given(any_bytes, st.sampled_from(["global", "monotonic"]), st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_words_are_where_the_entropy_says(patches, data, kind, most):
    splitter = dataclasses.replace(patches, kind=kind, max_word_bytes=most)
    split, rises = splitter.split(array(data)), splitter.rises(array(data))
    length, starts, known = most, [], []
    for t, rise in enumerate(rises):
        if length == most or rises[t - 1] > np.float32(splitter.threshold):
            starts.append(t)
            length = 0
        length += 1
        known.append(len(starts) - 1 + (length == most or rise > np.float32(splitter.threshold)))
    assert np.flatnonzero(split.starts).tolist() == starts
    assert split.known.dtype == np.int32 and split.known.tolist() == known


@given(any_bytes)
@settings(max_examples=20, deadline=None)
def test_streaming_equals_whole(patches, monotonic, data):
    for splitter in (patches, monotonic):
        split, stream = splitter.split(array(data)), splitter.stream()
        starts = []
        for t, byte in enumerate(data):
            revealed = stream.push(byte)
            starts += revealed.starts
            assert revealed.known == split.known[t]
        assert not stream.finish() and starts == np.flatnonzero(split.starts).tolist()


@given(any_bytes, any_bytes, any_bytes)
@settings(max_examples=30, deadline=None)
def test_nothing_depends_on_later_bytes(patches, prefix, one, other):
    splits = [patches.split(array(prefix + rest)) for rest in (one, other)]
    size = len(prefix)
    assert (splits[0].known[:size] == splits[1].known[:size]).all()
    assert (splits[0].starts[: size + (size > 0 and len(one) > 0 and len(other) > 0)]
            == splits[1].starts[: size + (size > 0 and len(one) > 0 and len(other) > 0)]).all()


def test_incremental_equals_teacher_forced(patches, monotonic):
    for splitter in (patches, monotonic):
        rows = Lockstep(hat_config(), splitter, ROWS)
        for texts in (TEXTS[:ROWS], TEXTS[-ROWS:]):
            assert_equal_nats(texts, hat_config(), rows)
    words = [int(patches.split(array(text)).starts.sum()) for text in TEXTS]
    assert len(TEXTS) < sum(words) < sum(map(len, TEXTS))  # neither one word nor one a byte
    assert_chunks_equal(rows, TEXTS[5] + TEXTS[7], [1, 7, 10**9])


def test_the_model_past_its_window_is_as_inside_it(patches):
    """A period longer than the window: the words of a long text repeat, and a text that begins
    late is split as a part of it once both have filled the windows of both layers."""
    text = TEXT[:37] * 40
    starts = patches.split(array(text)).starts
    late = patches.split(array(text[370:])).starts
    settled = 2 * WINDOW + 7  # what two layers see, and the longest word
    rises = patches.rises(array(text))
    np.testing.assert_allclose(rises[370 + settled :], patches.rises(array(text[370:]))[settled:],
                               rtol=0, atol=2e-4)  # fmt: skip
    assert starts[:370].sum() > 10 and late.sum() > 10
    assert ratio(patches, [rises]) == pytest.approx(ratio(patches, [rises[:370]]), rel=0.1)


def test_a_threshold_for_every_number_of_bytes(patches):
    rises = [patches.rises(array(TEXT)), patches.rises(array(b"x, and y = z"))]
    ratios = []
    for wanted in (1.0, 1.5, 2.5, 4.0, 6.0, 7.0):
        found = find_threshold(patches, rises, wanted)
        ratios.append(ratio(found, rises))
        assert ratios[-1] == pytest.approx(wanted, rel=0.2)
    assert ratios == sorted(ratios) and ratios[0] == 1
    for wanted in (0.5, 7.5):
        with pytest.raises(UserError, match="words have 1 to 7"):
            find_threshold(patches, rises, wanted)


def test_files(tmp_path, patches):
    patches.save(tmp_path / "a.npz")
    loaded = make_splitter(f"entropy:{tmp_path / 'a.npz'}")
    assert loaded.name == patches.name and "global" in loaded.name
    np.testing.assert_array_equal(loaded.rises(array(TEXT)), patches.rises(array(TEXT)))
    other = dataclasses.replace(patches, model=patches.model._replace(norm=2 * patches.model.norm))
    assert len({patches.name, other.name, dataclasses.replace(patches, window=9).name}) == 3
    (tmp_path / "b.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="holds no entropy patches"):
        load_patches(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", x=np.zeros(3))
    with pytest.raises(UserError, match="holds no entropy patches"):
        load_patches(tmp_path / "c.npz")
    with pytest.raises(UserError, match="No such file"):
        make_splitter(f"entropy:{tmp_path / 'none.npz'}")


def test_a_run_keeps_its_splitter(tmp_path, patches):
    spec = f"entropy:{tmp_path / 'a.npz'}"
    patches.save(tmp_path / "a.npz")
    write_run(tmp_path / "run", hat_config(), splitter=spec)
    keep_splitter(spec, tmp_path / "run")
    (tmp_path / "a.npz").unlink()
    assert load_rule(tmp_path / "run").name == patches.name


def test_the_command(tmp_path, run, capsys):
    text = tmp_path / "text.txt"
    text.write_bytes(TEXT)
    out = tmp_path / "p.npz"
    command = ["patches", str(run), "--text", str(text), "--max-word-bytes", "9", "--out", str(out)]
    assert main([*command, "--bytes-per-word", "3"]) == 0
    assert "bytes a word" in capsys.readouterr().out
    assert ratio(load_patches(out), [load_patches(out).rises(array(TEXT))]) == pytest.approx(3, rel=0.1)
    assert main([*command, "--threshold", "-1"]) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*command, "--threshold", "-1", "--force"]) == 0
    assert "almost every byte becomes a word: 1.00 bytes a word" in capsys.readouterr().err
    assert main([*command, "--bytes-per-word", "99", "--force"]) == 2
    assert "words have 1 to 9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "data", "message"),
    [
        (hat_config(), {}, "no flat byte model"),
        (llama_config(), {"tokenizer": "bytes"}, "need a model with a window"),
        (llama(stack={"logit_softcap": 3.0}), {"tokenizer": "bytes"}, "know no model.stack.logit_"),
        (llama(stack={"qkv_bias": True}), {"tokenizer": "bytes"}, "know no model.stack.qkv_bias"),
    ],
)
def test_models_that_are_refused(tmp_path, config, data, message):
    write_run(tmp_path / "run", config, **data)
    with pytest.raises(UserError, match=message):
        byte_model(load_run(tmp_path / "run"))


def test_rules_that_cannot_be(patches):
    with pytest.raises(UserError, match="kind 'local' are unknown"):
        dataclasses.replace(patches, kind="local")
    with pytest.raises(UserError, match="at most 0 bytes"):
        dataclasses.replace(patches, max_word_bytes=0)
