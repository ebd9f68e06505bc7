"""Small models, a small splitter and batches by the contract, for the tests of inference."""

from __future__ import annotations

import dataclasses
import functools
import json

import jax
import numpy as np

from hat import config as configs
from hat.data.config import DataConfig
from hat.inference.kinds import rows_of
from hat.models.hat import ConnectorConfig, HatConfig
from hat.models.hat_2025 import Hat2025Config
from hat.models.hat_learned import BoundaryConfig, LearnedHatConfig
from hat.models.layers import StackConfig
from hat.models.llama import LlamaConfig
from hat.text.ids import BOS, EOT, PAD
from hat.text.splitters import BYTE_CAUSAL, Revealed, Split, make_splitter
from hat.training.checkpoints import Checkpoints
from hat.training.config import TrainingConfig
from hat.training.experiment import Experiment

WINDOW = 8


def hat_config(**changes) -> HatConfig:
    def stack(size, **more):
        return StackConfig(
            hidden_size=size, num_layers=2, num_heads=4, num_kv_heads=2,
            intermediate_size=2 * size, residual_init=1.0, **more,
        )

    defaults = dict(
        encoder=stack(16, window=WINDOW),
        connector=ConnectorConfig(hidden_size=32, num_heads=2),
        backbone=stack(32),
        decoder=stack(16, window=WINDOW),
        embedding_std=1.0,
        dtype="float32",
    )
    return HatConfig(**{**defaults, **changes})


BOUNDARIES = {
    "cosine": BoundaryConfig(max_word_bytes=9),
    "mlp": BoundaryConfig(
        "mlp", scripts=(("han", 6.0), ("thai", 8.0), ("latin", 5.0)), mlp_size=5, max_word_bytes=9
    ),
}


def learned_config(boundaries: str) -> LearnedHatConfig:
    return LearnedHatConfig(**vars(hat_config()), boundaries=BOUNDARIES[boundaries])


def hat_2025_config() -> Hat2025Config:
    hat = hat_config()
    byte_stack = dataclasses.replace(hat.encoder, window=None)
    return Hat2025Config(
        byte_stack, hat.backbone, byte_stack, word_bytes=70, embedding_std=1.0, dtype="float32"
    )


# Of every kind that is fed a byte at a time: found by a splitter, or by the model.
WORDS_OF = {"words": hat_config()} | {name: learned_config(name) for name in BOUNDARIES}


def llama_config(**changes) -> LlamaConfig:
    stack = StackConfig(
        hidden_size=16, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=32,
        residual_init=1.0, window=changes.pop("window", None),
    )
    defaults = dict(stack=stack, num_tokens=256, embedding_std=1.0, dtype="float32")
    return LlamaConfig(**{**defaults, **changes})


@functools.cache
def built(config):
    """The model of a config, and random parameters: norms and biases too, so that none of them
    can be left out unseen. Drawn by numpy, as compiling `model.init` would take longer."""
    model = config.build()
    generator = np.random.default_rng(3)

    def draw(path, leaf):
        noise = generator.standard_normal(leaf.shape, np.float32)
        kind = path[-1].key
        if kind == "kernel":
            return noise / np.sqrt(leaf.shape[-2], dtype=np.float32)
        return {"scale": 1 + 0.2 * noise, "bias": 0.2 * noise}.get(kind, noise)

    return model, jax.tree_util.tree_map_with_path(draw, model.abstract_params())


def write_run(folder, model_config, **data) -> dict:
    """A run as training leaves it, of the random parameters that are returned."""
    experiment = Experiment(
        "test", model_config, DataConfig(**data), TrainingConfig(steps=1, batch_size=1)
    )
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(configs.to_dict(experiment)))
    params = jax.tree.map(jax.numpy.asarray, built(model_config)[1])
    checkpoints = Checkpoints(folder)
    checkpoints.save(1, {"step": np.int32(1), "params": params}, {}, force=True)
    checkpoints.close()
    return params


class SmallSplitter:
    """A rule with every kind of revelation: a word starts after a space or a newline, at every
    character that is not ASCII and at every invalid byte.

    A newline closes its word at once; other words end when the next one is known to start. A
    multi-byte character is known only with its last byte, and a broken one reveals all its bytes
    together with the byte that breaks it.
    """

    name = "small"
    causality = BYTE_CAUSAL

    def split(self, data: np.ndarray) -> Split:
        stream = self.stream()
        starts, known = np.zeros(len(data), bool), np.zeros(len(data), np.int32)
        for t, byte in enumerate(data):
            revealed = stream.push(int(byte))
            starts[list(revealed.starts)] = True
            known[t] = revealed.known
        starts[stream.pending] = True  # an unfinished character is invalid bytes
        return Split(starts, known)

    def stream(self) -> SmallStream:
        return SmallStream()


class SmallStream:
    def __init__(self):
        self.length = 0
        self.pending: list[int] = []  # indices of an unfinished character's bytes
        self.missing = 0  # how many more it needs
        self.opens = True  # whether the next ASCII byte starts a word
        self.num_starts = 0
        self.known = 0

    def push(self, byte: int) -> Revealed:
        index = self.length
        self.length += 1
        starts: list[int] = []
        if self.missing and 0x80 <= byte < 0xC0:
            self.pending.append(index)
            self.missing -= 1
            if self.missing == 0:
                starts, self.pending, self.opens = self.pending[:1], [], False
        else:
            if self.missing:
                starts, self.pending, self.missing, self.opens = self.pending, [], 0, True
            if 0xC2 <= byte < 0xF5:
                self.missing, self.pending = 1 + (byte >= 0xE0) + (byte >= 0xF0), [index]
            elif self.opens or byte >= 0x80:
                starts = [*starts, index]
            self.opens = byte in b" \n"
        self.num_starts += len(starts)
        self.known = max(self.known, self.num_starts - 1 + (byte == 10))
        return Revealed(tuple(starts), self.known)

    def finish(self) -> tuple[int, ...]:
        return tuple(self.pending)


def splitters() -> list:
    """Every rule of the library; some with a cap that short texts reach."""
    specs = "words", "words:6", "whitespace:9", "stride:4", "spacebyte:9", "words:20,han=6,thai=12"
    return [make_splitter(spec) for spec in specs]


class ByteTokens:
    """A tokenizer of 256 tokens, the bytes."""

    bos, eot, pad = BOS, EOT, PAD
    byte_lengths = np.array([1] * 256 + [0] * 8, np.int32)

    def encode(self, text: bytes) -> np.ndarray:
        return np.frombuffer(text, np.uint8).astype(np.int32)

    def token_bytes(self, id: int) -> bytes:
        return bytes([id]) if id < 256 else b""


def hat_batch(texts: list[bytes], splitter, length: int) -> dict[str, np.ndarray]:
    """One document per row, by the contract of the batch: T = length ids, as many words."""
    assert max(map(len, texts)) + 2 <= length
    shape = (len(texts), length)
    batch = {
        "bytes": np.full(shape, PAD, np.int32),
        "word": np.full(shape, length, np.int32),
        "guide": np.full(shape, -1, np.int32),
    }
    for name in ("segment", "position", "word_segment", "word_position"):
        batch[name] = np.zeros(shape, np.int32)
    for row, text in enumerate(texts):
        data = np.frombuffer(text, np.uint8)
        split = splitter.split(data)
        size, words = len(data) + 2, int(split.starts.sum()) + 2
        batch["bytes"][row, :size] = [BOS, *text, EOT]
        batch["segment"][row, :size] = 1
        batch["position"][row, :size] = np.arange(size)
        batch["word"][row, :size] = [0, *np.cumsum(split.starts), words - 1]
        batch["guide"][row, :size] = [0, *split.known, words - 1]
        batch["word_segment"][row, :words] = 1
        batch["word_position"][row, :words] = np.arange(words)
    return batch


def token_batch(texts: list[bytes], length: int) -> dict[str, np.ndarray]:
    """One document per row of byte tokens."""
    batch = hat_batch(texts, SmallSplitter(), length)
    return {
        "tokens": batch["bytes"],
        "segment": batch["segment"],
        "position": batch["position"],
        "token_bytes": (batch["bytes"] < 256).astype(np.int32),
    }


@functools.partial(jax.jit, static_argnums=0)
def whole_nats(model, params, batch) -> jax.Array:
    """Nats float32 [B, T] of one teacher-forced pass."""
    return model.nats(params, batch)[0]


class Lockstep:
    """Rows that read an id each, all at the same time, with the programs of the engine."""

    def __init__(self, config, rule, rows: int, closing: int = 4):
        self.kind = rows_of(built(config)[0])
        self.params = self.kind.prepare(built(config)[1], rule)
        self.rule, self.rows, self.closing = rule, rows, closing

    def start(self, ids=(BOS,), most=10**9, clock=0):
        """All rows with these ids read, in chunks of at most `most`."""
        prompt = self.kind.read(self.rule, np.array(ids, np.int32))
        state, at = self.kind.empty(self.params, 1), 0
        while at < len(ids):
            state, logits, at = self.kind.read_chunk(self.params, state, prompt, at, most)
        state, self.clock = self.kind.at_end(state, prompt), 0
        self.state, logits = jax.tree.map(lambda x: np.repeat(x, self.rows, 0), (state, logits))
        return logits

    def push(self, ids) -> np.ndarray:
        used = int(np.max(self.kind.slots(self.state)))
        state = self.kind.with_room(self.state, used + self.kind.slots_per_step)
        self.state, logits = _push(
            self.kind, self.params, state, np.int32(self.clock), np.array(ids, np.int32),
            self.closing,
        )  # fmt: skip
        self.clock += 1
        return np.asarray(logits)


@functools.partial(jax.jit, static_argnums=(0, 5))
def _push(kind, params, state, clock, ids, closing):
    return kind.step(params, state, clock, ids, np.ones(len(ids), bool), closing)


def incremental_nats(rows: Lockstep, texts: list[bytes], length: int) -> np.ndarray:
    """The same, one id at a time; a row for each text."""
    nats = np.zeros((len(texts), length), np.float32)
    logits = rows.start()
    for t in range(max(map(len, texts)) + 1):
        following = [text[t] if t < len(text) else EOT for text in texts]
        going = np.array([t <= len(text) for text in texts])
        logits = np.asarray(logits, np.float64)
        top = logits.max(axis=1, keepdims=True)
        total = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
        nats[:, t] = np.where(going, total - logits[np.arange(len(texts)), following], 0)
        logits = rows.push([id if id < 256 else 0 for id in following])
    return nats
