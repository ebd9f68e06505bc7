"""What the models of `hat reproduce equal-info` read: one text, in every spelling."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from hat.compression import range_coder
from hat.compression.probabilities import NUM_BYTES, cumulative, weights_of
from hat.data.sources import Skipped, Source
from hat.errors import UserError
from hat.inference.run import Run
from hat.text.ids import BOS
from hat.text.tokenizers import Tokenizer

CDF_BITS = 16
ROWS = 64  # of M1, at once, when a text is coded as one stream
HELDOUT_DOCUMENT = 15_000  # bytes of a held-out document at most, so that there are several
TRAINED_BYTES = 1_500_000  # of the text that vocabularies are trained on


@dataclasses.dataclass(frozen=True)
class Texts:
    train: list[bytes]
    heldout: list[bytes]


def draw_texts(source: str, train_bytes: int, heldout_bytes: int, seed: int) -> Texts:
    """Documents of a source in an order drawn by the seed: the first for training, the next held
    out."""
    documents = [d.data for d in Source(source).documents(Skipped()) if d.data]
    order = np.random.default_rng(seed).permutation(len(documents))
    texts, sizes = Texts([], []), [0, 0]
    for number in order.tolist():
        data = documents[number]
        if sizes[0] < train_bytes:
            data = data[: train_bytes - sizes[0]]
            texts.train.append(data)
            sizes[0] += len(data)
        elif sizes[1] < heldout_bytes:
            data = data[: min(HELDOUT_DOCUMENT, heldout_bytes - sizes[1])]
            texts.heldout.append(data)
            sizes[1] += len(data)
    if not texts.heldout:
        raise UserError(f"{source} has {sum(map(len, documents)):,} bytes in {len(documents)} "
                        f"documents; give one of more than {train_bytes:,} bytes")
    return texts


def write_documents(path: Path, documents: Sequence[bytes]) -> None:
    """An ArrayRecord file, a document a record; nothing where it is there."""
    if path.exists():
        return
    from array_record.python.array_record_module import ArrayRecordWriter

    partial = path.with_name(path.name + ".part")
    writer = ArrayRecordWriter(str(partial), "group_size:64")
    for document in documents:
        writer.write(document)
    writer.close()
    partial.replace(path)


def first(documents: Sequence[bytes]) -> Iterator[bytes]:
    """As many documents as vocabularies are trained on."""
    size = 0
    for document in documents:
        if size < TRAINED_BYTES:
            yield document
        size += len(document)


def in_halves(tokenizer: Tokenizer, documents: Sequence[bytes]) -> list[bytes]:
    """Documents as codes of 16 bits, each two bytes, the high one first: tokens of 8 bits."""
    return [tokenizer.encode(document).astype(">u2").tobytes() for document in documents]


def save_tokenizer(path: Path, make: Callable[[], Tokenizer]) -> Path:
    """A folder with a tokenizer; nothing where it is there."""
    if not path.exists():
        from hat.data.records import appearing

        tokenizer = make()
        with appearing(path) as folder:
            tokenizer.save(folder)
    return path


# --- plain arithmetic coding ----------------------------------------------------------------------


def as_streams(m1: Run, documents: Sequence[bytes], say: Callable[[int], None]) -> list[bytes]:
    """Documents as plain arithmetic coding under M1 writes them, a stream each; M1 begins anew
    where a row of its training would end.

    By passes over whole rows, which is quicker than a coder that has to be undone, and rounds
    otherwise: for learning from, not for decoding.
    """
    length = m1.experiment.data.row_length - 1
    pieces = [(number, data[i : i + length]) for number, data in enumerate(documents)
              for i in range(0, len(data), length)]  # fmt: skip
    cells: list[list[np.ndarray]] = [[] for _ in documents]
    done = 0
    for begin in range(0, len(pieces), ROWS):
        batch = pieces[begin : begin + ROWS]
        ids = np.zeros((ROWS, length + 1), np.int32)
        ids[:, 0] = BOS
        for row, (_, data) in enumerate(batch):
            ids[row, 1 : len(data) + 1] = np.frombuffer(data, np.uint8)
        tables = cumulative(weights_of(_probabilities(m1.model, m1.params, ids)), CDF_BITS)
        for row, (number, data) in enumerate(batch):
            symbols = np.frombuffer(data, np.uint8).astype(np.int64)
            at = np.arange(len(symbols))
            cells[number].append(np.stack([tables[row, at, symbols], tables[row, at, symbols + 1]]))
        done += sum(len(data) for _, data in batch)
        say(done)
    joined = (np.concatenate(its, axis=1) for its in cells)
    return [range_coder.encode(low, high, CDF_BITS) for low, high in joined]


@functools.partial(jax.jit, static_argnums=0)
def _probabilities(model, params, ids) -> jax.Array:
    """ids int [B, T] -> float32 [B, T, 256] of the byte after each."""
    ones = jnp.ones_like(ids)
    position = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    batch = {"tokens": ids, "segment": ones, "position": position}
    return jax.nn.softmax(model.logits(params, batch)[..., :NUM_BYTES])
