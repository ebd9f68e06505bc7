"""What the model tests stand on: a slow float64 HAT and a slow builder of batches.

Both are written from the description of the architecture (arXiv 2603.15953 and the contract of a
batch), not from hat/models: one document at a time, one query and one head at a time, no packing,
no padding, no masks. What a position may see is a slice of what is there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BOS, EOT, PAD = 256, 257, 258
PREDICTED = [*range(256), EOT]  # the ids that a model gives probability to


class Document(NamedTuple):
    """The bytes of a document and its words, as a splitter gives them (bool [n], int [n]).

    `closed`: whether the document ends here (EOT follows), or is a piece of a longer one.
    """

    data: bytes
    starts: np.ndarray
    known: np.ndarray
    closed: bool = True


class Layout(NamedTuple):
    """The ids of a document, and for each its word and its guide, counted from the document's
    first word, which is BOS."""

    ids: list[int]
    word: list[int]
    guide: list[int]


def layout(document: Document) -> Layout:
    ids, word, guide = [BOS], [0], [0]  # BOS is complete at once, so it guides itself
    for byte, start, known in zip(document.data, document.starts, document.known, strict=True):
        ids.append(byte)
        word.append(word[-1] + int(start))
        guide.append(int(known))  # `known` words are complete beside BOS, the last is number known
    if document.closed:
        ids.append(EOT)
        word.append(word[-1] + 1)
        guide.append(word[-1])
    return Layout(ids, word, guide)


def build_batch(rows: Sequence[Sequence[Document]], T: int, N: int) -> dict[str, np.ndarray]:
    """The contract of a HAT batch: rows of documents, B = len(rows), int32."""
    batch = {
        "bytes": np.full((len(rows), T), PAD, np.int32),
        "segment": np.zeros((len(rows), T), np.int32),
        "position": np.zeros((len(rows), T), np.int32),
        "word": np.full((len(rows), T), N, np.int32),
        "guide": np.full((len(rows), T), -1, np.int32),
        "word_segment": np.zeros((len(rows), N), np.int32),
        "word_position": np.zeros((len(rows), N), np.int32),
    }
    for b, documents in enumerate(rows):
        t = n = 0
        for s, document in enumerate(documents, start=1):
            ids, word, guide = layout(document)
            for i in range(len(ids)):
                batch["bytes"][b, t + i] = ids[i]
                batch["segment"][b, t + i] = s
                batch["position"][b, t + i] = i
                batch["word"][b, t + i] = n + word[i]
                batch["guide"][b, t + i] = n + guide[i]
            for j in range(word[-1] + 1):
                batch["word_segment"][b, n + j] = s
                batch["word_position"][b, n + j] = j
            t, n = t + len(ids), n + word[-1] + 1
    return batch


def spans(rows: Sequence[Sequence[Document]]) -> list[list[slice]]:
    """Where `build_batch` puts every document inside its row."""
    result = []
    for documents in rows:
        ends = np.cumsum([0] + [len(layout(document).ids) for document in documents])
        result.append([slice(a, b) for a, b in zip(ends, ends[1:], strict=False)])
    return result


def hat_logits(config, params, document: Document) -> np.ndarray:
    """float64 [T, ids] of one document: row t scores the id after position t."""
    params = float64(params)
    ids, word, known = layout(document)
    T, N = len(ids), word[-1] + 1

    # 1, 2: embedding and encoder; no norm at the end
    x = params["encoder"]["embedding"]["table"][ids]
    x = run_stack(config.encoder, params["encoder"]["layers"], x)

    # 3: one learned query pools the bytes of each word
    p, eps = params["connector"], config.encoder.norm_eps
    heads = config.connector.num_heads
    size = config.connector.hidden_size // heads
    frequencies = rope_frequencies(size, config.encoder)
    words = []
    for n in range(N):
        inside = [t for t in range(T) if word[t] == n]
        pooled = []
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            q = p["query"] @ p["q"]["kernel"][:, part]
            k = x[inside] @ p["k"]["kernel"][:, part]
            v = x[inside] @ p["v"]["kernel"][:, part]
            if config.connector.qk_norm:
                q = rms_norm(q, p["q_norm"]["scale"], eps)
                k = rms_norm(k, p["k_norm"]["scale"], eps)
            q = rotate(q, n, frequencies)
            k = np.stack([rotate(k[i], t, frequencies) for i, t in enumerate(inside)])
            pooled.append(attention(q, k, v))
        words.append(np.concatenate(pooled) @ p["o"]["kernel"])

    # 4: the backbone over words; no norm at the end
    words = run_stack(config.backbone, params["backbone"]["layers"], np.stack(words))

    # 5: the guide of every byte
    p = params["decoder"]
    guides = []
    for t in range(T):
        n = known[t] if config.guide == "earliest" else word[t] - 1
        guides.append(words[n] if n >= 0 else p["first_guide"])

    # 6: the decoder continues the encoder's activations, a guide before every layer
    layers, eps = p["layers"], config.decoder.norm_eps
    for i in range(config.decoder.num_layers):
        for t in range(T):
            guide = rms_norm(guides[t], layers["guide_norm"]["scale"][i], eps)
            x[t] += guide @ layers["guide_v"]["kernel"][i] @ layers["guide_o"]["kernel"][i]
        x = block(config.decoder, layers["block"], i, x)

    # 7: head
    p = params["head"]
    return rms_norm(x, p["norm"]["scale"], eps) @ p["projection"]["kernel"]


def nats(logits: np.ndarray, document: Document) -> np.ndarray:
    """float64 [T - 1]: the surprise of every id of a document after BOS, of its logits [T, ids]."""
    surprises = []
    for scores, following in zip(logits, layout(document).ids[1:], strict=False):
        total = math.log(sum(math.exp(scores[i]) for i in PREDICTED))
        surprises.append(total - scores[following])
    return np.array(surprises)


def run_stack(config, params, x: np.ndarray) -> np.ndarray:
    for i in range(config.num_layers):
        x = block(config, params, i, x)
    return x


def block(config, params, i: int, x: np.ndarray) -> np.ndarray:
    """Layer i of a stack on x [T, d]; position t of x is position t of the document."""

    def linear(p, x):
        return x @ p["kernel"][i] + (p["bias"][i] if "bias" in p else 0.0)

    T = len(x)
    size = config.head_dim or config.hidden_size // config.num_heads
    groups = config.num_kv_heads or config.num_heads
    frequencies = rope_frequencies(size, config)

    p = params["attention"]
    normed = rms_norm(x, params["attention_norm"]["scale"][i], config.norm_eps)
    q = linear(p["q"], normed).reshape(T, config.num_heads, size)
    k = linear(p["k"], normed).reshape(T, groups, size)
    v = linear(p["v"], normed).reshape(T, groups, size)
    if config.qk_norm:
        q = rms_norm(q, p["q_norm"]["scale"][i], config.norm_eps)
        k = rms_norm(k, p["k_norm"]["scale"][i], config.norm_eps)
    q = np.stack([rotate(q[t], t, frequencies) for t in range(T)])
    k = np.stack([rotate(k[t], t, frequencies) for t in range(T)])
    out = np.zeros((T, config.num_heads, size))
    for t in range(T):
        seen = slice(0 if config.window is None else max(0, t - config.window + 1), t + 1)
        for h in range(config.num_heads):
            g = h // (config.num_heads // groups)
            out[t, h] = attention(q[t, h], k[seen, g], v[seen, g], config.logit_softcap)
    x = x + linear(p["o"], out.reshape(T, -1))

    p = params["mlp"]
    normed = rms_norm(x, params["mlp_norm"]["scale"][i], config.norm_eps)
    gate, up = linear(p["gate"], normed), linear(p["up"], normed)
    return x + linear(p["down"], gate / (1 + np.exp(-gate)) * up)


def attention(q, keys, values, softcap=None) -> np.ndarray:
    """One head of one query [K] over keys [S, K] and values [S, K], all of which it sees."""
    scores = keys @ q / math.sqrt(len(q))
    if softcap is not None:
        scores = softcap * np.tanh(scores / softcap)
    weights = np.exp(scores - scores.max())
    return weights / weights.sum() @ values


def rms_norm(x, scale, eps) -> np.ndarray:
    """Over the last axis."""
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * scale


def rope_frequencies(size: int, config) -> list[float]:
    """Radians per position of every pair, with the rule of Llama 3.1 in its branching form."""
    frequencies = []
    for i in range(size // 2):
        frequency = config.rope_theta ** (-2 * i / size)
        rule = config.rope_scaling
        if rule is not None:
            wavelength = 2 * math.pi / frequency
            if wavelength > rule.original_max_positions / rule.low_freq_factor:
                frequency = frequency / rule.factor
            elif wavelength > rule.original_max_positions / rule.high_freq_factor:
                smooth = rule.original_max_positions / wavelength - rule.low_freq_factor
                smooth = smooth / (rule.high_freq_factor - rule.low_freq_factor)
                frequency = (1 - smooth) * frequency / rule.factor + smooth * frequency
        frequencies.append(frequency)
    return frequencies


def rotate(x: np.ndarray, position: int, frequencies: list[float]) -> np.ndarray:
    """x [..., K]: the pairs (i, i + K / 2) as complex numbers, turned."""
    half = x.shape[-1] // 2
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * position * np.array(frequencies))
    return np.concatenate([turned.real, turned.imag], axis=-1)


def float64(tree):
    if isinstance(tree, dict):
        return {name: float64(leaf) for name, leaf in tree.items()}
    return np.asarray(tree, np.float64)
