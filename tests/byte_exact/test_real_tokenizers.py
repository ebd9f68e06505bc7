"""Real tokenizers, where shared/data is beside the repository; tests/byte_exact/families.py has the
same kinds, trained on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hat.byte_exact.canonical import Canonical
from hat.byte_exact.token_bytes import Vocabulary
from hat.byte_exact.trees import build_tree
from hat.text.tokenizers import SentencePieceTokenizer, load_tokenizer
from tests.byte_exact.families import TEXT

FOLDER = next(
    (parent / "shared" / "data" / "tokenizers" for parent in Path(__file__).resolve().parents
     if (parent / "shared" / "data" / "tokenizers").is_dir()),
    None,
)  # fmt: skip
TEXTS = [TEXT.encode()[:500], np.random.default_rng(0).bytes(60), TEXT.encode()[-120:],
         "한국어 ગુજરાતી اللغة العربية ქართული\n\n\t\t\r\n  'tis 1,234,567.89".encode()]  # fmt: skip


@pytest.mark.skipif(FOLDER is None, reason="shared/data/tokenizers is not beside the repository")
@pytest.mark.parametrize("name", ["gpt2_tokenizer.json", "mistral_tokenizer.model.v1"])
def test_the_tree_holds_the_encoding_alone(name):
    """Of the nodes at the end of a text one may end it: the encoding, with about a node a byte."""
    path = FOLDER / name
    its = load_tokenizer(path) if path.suffix == ".json" else SentencePieceTokenizer(path.read_bytes())
    vocabulary = Vocabulary(its, its.num_ids)
    rule = Canonical(vocabulary)
    for text in TEXTS:
        tree = build_tree(text, vocabulary, rule)
        assert len(tree.tokens) - 1 < 1.25 * len(text) + 2
        at_end = np.flatnonzero(tree.ends == len(text)).tolist()
        (node,) = [n for n in at_end if rule.may_end(int(tree.configurations[n]))]
        way = []
        while node > 0:
            way.append(int(tree.tokens[node]))
            node = int(tree.parents[node])
        assert way[::-1] == its.encode(text).tolist()
