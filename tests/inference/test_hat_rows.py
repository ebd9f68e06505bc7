"""Rows in memory give the numbers of one pass over the whole document, any bytes, any rule."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hat.errors import UserError
from hat.inference.hat_rows import CHUNKS, hat_rows
from hat.inference.memory import SMALLEST_BUFFER
from hat.inference.stepping import open_reader
from hat.inference.word_ends import NO_END, first_end, next_ends, read_words
from hat.models.hat_learned import LearnedHatConfig
from hat.text.ids import BOS, EOT
from hat.text.split_tables import initial_state
from hat.text.splitters import Causality, make_splitter
from tests.inference.helpers import (
    BOUNDARIES,
    WINDOW,
    WORDS_OF,
    Lockstep,
    built,
    hat_batch,
    hat_config,
    incremental_nats,
    splitters,
    whole_nats,
)

# fp32 sums in another order: the largest difference seen in 640 documents is 5e-6 nats.
TOLERANCE = 1e-4
LENGTH = 64  # of a row: texts of up to 62 bytes, almost eight windows
ROWS = 16  # at once, so that each function is compiled once

TEXTS = [
    b"",
    b"a",
    b"\x00",
    b"\xc0",
    b"\xc0\x00\xc0\xc0\x00",
    b"Hello, world! It's a lovely day in 1999.",
    b"def foo(x: int) -> str:\n    return f\"{x}\"\n\n",
    "สวัสดีชาวโลก abc".encode(),
    "你好吗 世界 hello".encode(),
    "🤖🍕 👨‍👩‍👧 🇩🇪🇫🇷 👍🏽".encode(),
    "für Élise, naïve café".encode(),
    "हिन्दी भाषा".encode(),
    "text cut 世".encode()[:-1],
    "text cut 🤖".encode()[:-2],
    b"\xf0\x9f\xa4a\xe4\xbd\xe4\xbdb\xf0\x9f\x8d",
    b"\xed\xa0\x80 \xf4\x90\x80\x80 \xff\xfe",
    b"\n\n\r\n \t  \n",
    b"antidisestablishmentarianism" * 2,
    b"camelCaseHTTPServerError iPhone",
    bytes(range(128, 190)),
]

FRAGMENTS = [
    b"the ", b"word", b" ", b"\n", b"\r\n", b"  ", b"fooBar", b"1,234.5", b"x=", b"(", b"'s ",
    b"\x00", b"\xc0", b"\xff", b"\xe4\xbd", b"\xf0\x9f", b"\x80", "é".encode(), "世界".encode(),
    "ไทย".encode(), "🤖".encode(), "👩‍👧".encode(), "🇩🇪".encode(), "한국".encode(),
]
any_bytes = st.binary(max_size=LENGTH - 2)
mixed = st.lists(st.sampled_from(FRAGMENTS), max_size=20).map(b"".join)
documents = st.one_of(any_bytes, mixed, st.text(max_size=30).map(str.encode))
batches = st.lists(
    documents.map(lambda text: text[: LENGTH - 2]), min_size=ROWS, max_size=ROWS
)


WORDS = make_splitter("words")


# "cosine" differs from "mlp" in how words are scored alone, of which any bytes are read below.
@pytest.fixture(scope="module", params=["words", "mlp"])
def config(request):
    return WORDS_OF[request.param]


@pytest.fixture(scope="module")
def lockstep(config):
    return Lockstep(config, WORDS, ROWS)


@functools.partial(jax.jit, static_argnums=0)
def margin(model, params, batch) -> jax.Array:
    """How near a chance that decides comes to one half."""
    drawn = model.module(params).draw_and_write(batch)[1]
    return jnp.min(jnp.where(drawn.may, jnp.abs(drawn.chance - 0.5), 0.5))


def assert_equal_nats(texts, config, rows, length=LENGTH):
    assert len(texts) == ROWS
    whole = whole_nats(*built(config), hat_batch(texts, rows.rule, length))
    incremental = incremental_nats(rows, texts, length)
    np.testing.assert_allclose(incremental, whole, rtol=0, atol=TOLERANCE)
    assert np.count_nonzero(whole) == sum(len(text) + 1 for text in texts)  # all are charged


@pytest.mark.parametrize(
    ("config", "splitter"),
    [pytest.param(hat_config(), splitter, id=splitter.name) for splitter in splitters()]
    + [pytest.param(WORDS_OF[name], WORDS, id=name) for name in BOUNDARIES],
)
def test_incremental_equals_teacher_forced_on_any_bytes(config, splitter):
    rows = Lockstep(config, splitter, ROWS)
    for texts in (TEXTS[:ROWS], TEXTS[-ROWS:]):
        assert_equal_nats(texts, config, rows)

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    @given(batches)
    def check(texts):  # 8 x 16 documents
        if isinstance(config, LearnedHatConfig):  # rounding is not to decide where words start
            assume(margin(*built(config), hat_batch(texts, splitter, LENGTH)) > 1e-5)
        assert_equal_nats(texts, config, rows)

    check()


@pytest.mark.parametrize("closing", [1, ROWS])
def test_words_go_through_the_backbone_one_by_one_or_all_at_once(config, closing):
    rows = Lockstep(config, WORDS, ROWS, closing)
    assert_equal_nats(TEXTS[:ROWS], config, rows)


def test_guides_matter():
    """The equality above would prove nothing if the words did not reach the bytes."""
    model, params = built(hat_config())
    batch = hat_batch([b"one two three four"], WORDS, LENGTH)
    first = dict(batch, guide=np.minimum(batch["guide"], 0))
    difference = whole_nats(model, params, batch) - whole_nats(model, params, first)
    assert np.abs(difference).max() > 0.1


def test_every_option_of_the_stacks():
    options = dict(qk_norm=True, logit_softcap=5.0, qkv_bias=True)
    base = hat_config()
    config = hat_config(
        encoder=dataclasses.replace(base.encoder, **options),
        connector=dataclasses.replace(base.connector, qk_norm=True),
        backbone=dataclasses.replace(base.backbone, window=3, **options),
        decoder=dataclasses.replace(base.decoder, window=None, **options),
    )
    rows = Lockstep(config, WORDS, ROWS)
    assert_equal_nats(TEXTS[:ROWS], config, rows)
    assert_chunks_equal(rows, TEXTS[5] + TEXTS[7], [5, 64])


def assert_chunks_equal(rows, text, sizes):
    """The logits after a prompt, however it was cut, and after four bytes more."""
    ids, more = [BOS, *text], b"x y\n"
    rows.start()
    for byte in text:
        expected = rows.push([byte] * rows.rows)[0]
    after = [rows.push([byte] * rows.rows)[0] for byte in more]
    for size in sizes:
        logits = rows.start(ids, size)
        np.testing.assert_allclose(logits[0], expected, rtol=0, atol=TOLERANCE)
        for byte, one in zip(more, after):
            got = rows.push([byte] * rows.rows)[0]
            np.testing.assert_allclose(got, one, rtol=0, atol=TOLERANCE)


def test_prompts_in_chunks_are_as_byte_by_byte(lockstep):
    """Chunks end in the middle of words and characters, and words are longer than chunks."""
    for text in (*TEXTS[1:15], b"x" * 150 + b" y", b"", b"\n" * 70):
        assert_chunks_equal(lockstep, text or b"a", [1, 7, 10**9])


def test_every_prompt_fits_its_chunks():
    """More words than a chunk has room for; more bytes than one has."""
    lockstep = Lockstep(hat_config(), WORDS, ROWS)
    text = b"a\n" * CHUNKS[-1]
    prompt = read_words(WORDS, np.array([BOS, *text], np.int32))
    state, at, chunks = lockstep.kind.empty(lockstep.params, 1), 0, 0
    while at < len(prompt.ids):
        state, _, at = lockstep.kind.read_chunk(lockstep.params, state, prompt, at, 10**9)
        chunks += 1
    assert int(state.words[0]) == prompt.complete[-1] == len(text) + 1 and chunks >= 4


def test_every_id_of_a_chunk_ends_a_word(config):
    """And two the last, if it ends a turn: a word for every id, and that before the chunk. Against
    one pass over the whole."""
    rows = Lockstep(config, WORDS, 1)
    ids = [BOS, *b"a", EOT, EOT, *b"b\n", *[EOT] * 70, *"x世y".encode(), EOT, *b"\x80z\n"]
    shape = (1, len(ids))
    prompt = read_words(WORDS, np.array(ids, np.int32))
    batch = dict(
        bytes=np.array([ids]), segment=np.ones(shape, int), position=np.arange(len(ids))[None],
        word=prompt.word[None], guide=prompt.complete[None] - 1,
        word_segment=(np.arange(len(ids)) <= prompt.word[-1]).astype(int)[None],
        word_position=np.arange(len(ids))[None],
    )  # fmt: skip
    model, params = built(config)
    expected = np.asarray(jax.jit(model.logits)(params, batch))[0, -1]
    for most in (1, 3, 64, 10**9):
        found = rows.start(ids, most)[0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_long_documents_wrap_the_rings_and_grow_the_buffers(config, lockstep):
    lines = SMALLEST_BUFFER // 2 + 20 if config == hat_config() else SMALLEST_BUFFER + 44
    texts = [
        b"some words and " * 12 + "文字".encode() * 8,  # windows wrapped
        b"lead in " * 4 + b"x" * 148 + b" end of it",  # a word longer than the rule allows
        b"a\n" * lines,  # the backbone grown
        *TEXTS[: ROWS - 3],
    ]
    assert_equal_nats(texts, config, lockstep, max(map(len, texts)) + 2)
    state = lockstep.state
    sizes = {memory.size for memory in (*state.encoder, *state.decoder)}
    longest = WORDS.max_word_bytes + 3 if config == hat_config() else 9
    assert sizes == {WINDOW} and state.connector.size == longest + 1
    assert state.backbone[0].size > SMALLEST_BUFFER


def test_memory_of_the_byte_stacks_is_that_of_their_windows(lockstep):
    """At 1 kB and at 1 MB: the shapes that the step gives back are those it took."""
    rows, step = lockstep.kind, jax.eval_shape
    lockstep.start()
    state = lockstep.state
    for position in (1_000, 1_000_000):
        there = state._replace(position=np.full(ROWS, position), words=np.full(ROWS, 100))
        after, _ = step(
            lambda s: rows.step(lockstep.params, s, np.int32(position), np.zeros(ROWS, np.int32),
                                np.ones(ROWS, bool), 4), there)  # fmt: skip
        assert jax.tree.map(np.shape, rows.rings(after)) == jax.tree.map(np.shape, rows.rings(state))


def test_bfloat16_stays_near():
    """Not an equality: bf16 rounds at other places. It guards dtypes and gross errors."""
    config = hat_config(dtype="bfloat16")
    texts = TEXTS[:ROWS]
    whole = whole_nats(*built(config), hat_batch(texts, WORDS, LENGTH))
    difference = np.abs(incremental_nats(Lockstep(config, WORDS, ROWS), texts, LENGTH) - whole)
    assert difference.mean() < 0.1


@settings(max_examples=27, deadline=None)
@given(documents, st.integers(0, LENGTH))
def test_ends_of_words_are_those_of_the_split(text, cut):
    """Byte by byte from the tables, begun anywhere in the text, against the whole document."""
    for splitter in splitters():
        data = np.frombuffer(text, np.uint8)
        split = splitter.split(data)
        bounds = [0, *(np.flatnonzero(split.starts) + 1), len(text) + 1]
        ids = np.array([BOS, *text], np.int32)
        prompt = read_words(splitter, ids[: 1 + min(cut, len(text))])
        read = len(prompt.ids)
        words, begin, state = int(prompt.complete[-1]), prompt.begin, prompt.split
        assert words == 1 + (split.known[read - 2] if read > 1 else 0)
        assert begin == bounds[words]
        if read == 1:
            assert state == (0, 0, initial_state(int(splitter.tables.max_word_bytes)).length)
        for position in range(read, len(ids)):
            state, ends = next_ends(
                splitter.tables, jax.tree.map(np.atleast_1d, state), np.array([position]),
                ids[position : position + 1],
            )  # fmt: skip
            while (end := int(first_end(ends, np.array([begin]))[0])) < NO_END:
                words, begin = words + 1, end
                assert begin == bounds[words]
            assert words - 1 == split.known[position - 1]


def test_an_end_of_turn_completes_every_word():
    ids = np.array([BOS, *b"one tw", EOT, *"o 世".encode()[:-1], EOT, *b"x"], np.int32)
    prompt = read_words(WORDS, ids)
    assert prompt.complete.tolist() == [1, 1, 1, 1, 2, 2, 2, 4, 4, 5, 5, 5, 8, 8]
    assert prompt.word.tolist() == [0, 1, 1, 1, 2, 2, 2, 3, 4, 5, 5, 6, 7, 8]
    assert prompt.begin == len(ids) - 1


def test_a_reader_branches(config, lockstep):
    lockstep.start()
    for byte in b"on":
        lockstep.push([byte] * ROWS)
    reader = open_reader(*built(config), WORDS, BOS).push(ord("o")).push(ord("n"))
    for branch in (b"e two", b"\n"):
        text = reader
        for byte in branch:
            text = text.push(byte)
        expected = lockstep.start([BOS, *b"on", *branch])[0]
        np.testing.assert_allclose(text.logits[0], expected, rtol=0, atol=TOLERANCE)


def test_what_cannot_be_generated_from_is_refused():
    with pytest.raises(UserError, match="released"):
        hat_rows(hat_config(guide="released").build())
    looking_ahead = make_splitter("words")
    object.__setattr__(looking_ahead, "causality", Causality("lookahead", 3))
    with pytest.raises(UserError, match="byte-causal"):
        Lockstep(hat_config(), looking_ahead, 1)
