"""Words that are tokens: of any bytes, and kept in the folder of a run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hat.errors import UserError
from hat.text.splitters import keep_splitter, kept_splitter, make_splitter
from hat.text.tokenizers import train_bpe

TEXT = b"the cat sat on the mat, then the hat of the cat was that of the rat.\nthe end\n" * 4
TOKENIZER = train_bpe([TEXT], 280)


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    TOKENIZER.save(folder)
    return f"tokens:{folder}"


@given(st.one_of(st.binary(max_size=80), st.text("the cat\u20ac", max_size=60).map(str.encode)))
def test_every_word_is_a_token(spec, data):
    found = make_splitter(spec).split(np.frombuffer(data, np.uint8))
    begins = np.flatnonzero(found.starts).tolist()
    words = [data[a:b] for a, b in zip(begins, [*begins[1:], len(data)])]
    assert words == [TOKENIZER.token_bytes(token) for token in TOKENIZER.encode(data).tolist()]
    assert found.known.tolist() == [sum(begin <= t for begin in begins) - 1 for t in range(len(data))]


def test_a_run_keeps_its_tokenizer(spec, tmp_path):
    keep_splitter(spec, tmp_path)
    kept, given = kept_splitter("tokens:nowhere", tmp_path), make_splitter(spec)
    assert kept.name == given.name == f"tokens-v1-{TOKENIZER.name}"
    assert kept.max_word_bytes == max(len(TOKENIZER.token_bytes(i)) for i in range(280))


@pytest.mark.parametrize("wrong, said", [
    ("tokens:nowhere", "nowhere: no such file or folder"), ("{}+merges=3", "not byte-causal"),
])  # fmt: skip
def test_what_cannot_be(spec, wrong, said):
    with pytest.raises(UserError, match=said):
        make_splitter(wrong.format(spec))
