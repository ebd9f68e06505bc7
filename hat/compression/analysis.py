"""What compressed text is like (arXiv 2404.03626, section 6): information per window, stability of
tokens under edits, and how far its bits are from random ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numba
import numpy as np

from hat.compression.codec import encode_group
from hat.compression.predictor import Predictor
from hat.compression.probabilities import cumulative
from hat.compression.windows import CDF_BITS, UNIFORM, WindowConfig
from hat.text.tokenizers import Tokenizer


def information(
    predictor: Predictor, config: WindowConfig, windows: Sequence[bytes]
) -> np.ndarray:
    """Bits float64 [n] of each window under the integer probabilities of its model."""
    found = np.zeros(len(windows))
    for begin in range(0, len(windows), predictor.rows):
        group = windows[begin : begin + predictor.rows]
        weights = predictor.begin()
        for step in range(max(map(len, group))):
            tables = config.root_table(weights) if step == 0 else cumulative(weights, CDF_BITS)
            if step >= config.context:
                tables = np.tile(UNIFORM, (predictor.rows, 1))
            symbols = np.zeros(predictor.rows, np.int64)
            for row, window in enumerate(group):
                if step < len(window):
                    symbols[row] = byte = window[step]
                    cells = int(tables[row, byte + 1] - tables[row, byte])
                    found[begin + row] += CDF_BITS - math.log2(cells)
            weights = predictor.push(symbols.astype(np.uint8), np.full(predictor.rows, step == 0))
    return found


def instability(tokenize, texts: Sequence[bytes]) -> float:
    """How much the tokens of texts that end alike differ: the mean edit distance of all pairs, over
    the length of the longer one. tokenize: bytes -> int [n]."""
    ids = [np.asarray(tokenize(text), np.int64) for text in texts]
    shares = [
        edit_distance(a, b) / max(len(a), len(b), 1)
        for i, a in enumerate(ids) for b in ids[:i]
    ]  # fmt: skip
    return float(np.mean(shares))


@numba.njit(cache=True)
def edit_distance(a, b):
    """Levenshtein's, of int arrays."""
    row = np.arange(len(b) + 1)
    for i in range(len(a)):
        diagonal, row[0] = row[0], i + 1
        for j in range(len(b)):
            change = diagonal + (a[i] != b[j])
            diagonal = row[j + 1]
            row[j + 1] = min(change, row[j] + 1, row[j + 1] + 1)
    return row[-1]


def bits_of(content: bytes) -> np.ndarray:
    """uint8 [8 n], the highest bit of a byte first."""
    return np.unpackbits(np.frombuffer(content, np.uint8))


def window_bits(codes: np.ndarray, bits: int) -> np.ndarray:
    """uint8 [n * bits] of codes, each with its highest bit first."""
    return ((codes[:, None].astype(np.int64) >> np.arange(bits)[::-1]) & 1).astype(np.uint8).ravel()


def distance_from_uniform(bits: np.ndarray, length: int) -> float:
    """Bits that n-grams of so many bits, at every place, lack of their greatest entropy: the
    Kullback-Leibler divergence of their frequencies from equal ones. Random bits have some too."""
    weights = 1 << np.arange(length)[::-1]
    grams = np.lib.stride_tricks.sliding_window_view(bits, length) @ weights
    shares = np.bincount(grams, minlength=1 << length) / len(grams)
    shares = shares[shares > 0]
    return float(length + (shares * np.log2(shares)).sum())


def as_stream(predictor: Predictor, text: bytes) -> bytes:
    """Plain arithmetic coding, the rows of the predictor one after another."""
    size = -(-len(text) // predictor.rows)
    parts = [text[i : i + size] for i in range(0, len(text), size)]
    return b"".join(encode_group(predictor, parts)[0])


def spelling(tokenizer: Tokenizer, documents: Sequence[bytes]) -> dict[str, float]:
    """What the tokens of documents are worth without a model. `unigram`: their own entropy, which
    leaves out the cost of a table of frequencies; `uniform`: log2 of the vocabulary each."""
    ids = np.concatenate([tokenizer.encode(document) for document in documents])
    num_bytes = sum(map(len, documents))
    shares = np.bincount(ids) / len(ids)
    shares = shares[shares > 0]
    return {
        "vocabulary": tokenizer.vocab_size,
        "bytes_per_token": num_bytes / len(ids),
        "uniform_bits_per_byte": math.log2(tokenizer.vocab_size) * len(ids) / num_bytes,
        "unigram_bits_per_byte": -float((shares * np.log2(shares)).sum()) * len(ids) / num_bytes,
        "tokens_seen": int(len(shares)),
    }
