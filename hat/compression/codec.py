"""Files through a byte model and a range coder, and back.

A file is cut into chunks that a model reads side by side, each as a text of its own, in steps of
one shape. What is written has been decoded first; a chunk that would grow, or does not come back,
is kept as it is, and so is the whole: it never grows by more than a head of 64 bytes and 8 bytes
for every 2^30. The reader refuses what its model or its arithmetic would not decode.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from hat.compression import container, range_coder
from hat.compression.container import Chunk, Header
from hat.compression.predictor import Predictor, fingerprint
from hat.compression.probabilities import cumulative
from hat.errors import UserError

CDF_BITS = 24
ROWS = (1, 8, 64)  # of a step: as few kinds as will do, since each is compiled
LEAST_CHUNK, MOST_CHUNK = 1 << 12, 1 << 17  # bytes; more is better coded, fewer are quicker
RAW_CHUNK = 1 << 30  # of a file that no model helps

Progress = Callable[[int], None]  # bytes of the original that are through
# A predictor of so many rows.
MakePredictor = Callable[[int], Predictor]


class Packed(NamedTuple):
    """content: of the container; ideal_bits: what the model's own probabilities would cost, over
    the chunks that are coded; coded_bytes: of their streams; raw_chunks: how many are kept as
    they are."""

    content: bytes
    ideal_bits: float
    coded_bytes: int
    raw_chunks: int


def plan(length: int, most_rows: int) -> tuple[int, int]:
    """(rows, bytes of a chunk) for a file."""
    allowed = [rows for rows in ROWS if rows <= most_rows]
    chunks = max(1, -(-length // LEAST_CHUNK))
    rows = next((rows for rows in allowed if rows >= chunks), allowed[-1])
    size = -(-length // rows)
    return rows, min(max(size, LEAST_CHUNK), MOST_CHUNK)


def compress(
    data: bytes, make: MakePredictor, *, portable: bool = False, most_rows: int = ROWS[-1],
    progress: Progress = lambda done: None,
) -> Packed:  # fmt: skip
    """progress: bytes coded and bytes verified, so it ends at twice the length."""
    rows, size = plan(len(data), most_rows)
    predictor = make(rows)
    parts = [data[i : i + size] for i in range(0, len(data), size)]
    chunks, ideal, coded, raw = [], 0.0, 0, 0
    for begin in range(0, len(parts), rows):
        group = parts[begin : begin + rows]
        before = 2 * begin * size
        streams, bits = encode_group(predictor, group, lambda n, b=before: progress(b + n))
        before += sum(map(len, group))
        lengths = [len(part) for part in group]
        back = decode_group(predictor, streams, lengths, lambda n, b=before: progress(b + n))
        for part, stream, its_bits, again in zip(group, streams, bits, back):
            keep = again != part or len(stream) >= len(part)
            chunks.append(Chunk(part if keep else stream, keep, zlib.crc32(part)))
            ideal, coded = ideal + (not keep) * its_bits, coded + (not keep) * len(stream)
            raw += keep
    if sum(len(chunk.stream) for chunk in chunks) + container.ENTRY_BYTES * len(chunks) > len(data):
        size = min(max(len(data), 1), RAW_CHUNK)
        parts = [data[i : i + size] for i in range(0, len(data), size)]
        chunks = [Chunk(part, True, zlib.crc32(part)) for part in parts]
        ideal, coded, raw = 0.0, 0, len(chunks)
    header = Header(
        CDF_BITS, portable, rows, size, len(data), zlib.crc32(data),
        bytes.fromhex(predictor.model_hash)[:16], fingerprint(predictor, portable),
    )  # fmt: skip
    return Packed(container.pack(header, chunks), ideal, coded, raw)


def decompress(
    header: Header, chunks: Sequence[Chunk], make: MakePredictor,
    progress: Progress = lambda done: None,
) -> bytes:  # fmt: skip
    """UserError: another model's or another arithmetic's file; one that is damaged."""
    if header.bits != CDF_BITS or not 1 <= header.rows <= ROWS[-1]:
        raise UserError(f"tables of {header.bits} bits and {header.rows} rows are not of this hat")
    predictor = make(header.rows)
    model = bytes.fromhex(predictor.model_hash)[:16]
    if model != header.model:
        raise UserError(
            f"compressed with another model, {header.model.hex()[:12]}; the one given is "
            f"{model.hex()[:12]}: give that model as --model"
        )
    if any(not chunk.raw for chunk in chunks):
        if fingerprint(predictor, header.portable) != header.arithmetic:
            raise UserError(
                "the model computes other numbers here than where the file was made (another "
                "machine, device or JAX): decompress there, or compress there with --portable"
            )
    parts: list[bytes] = []
    for begin in range(0, len(chunks), header.rows):
        group = chunks[begin : begin + header.rows]
        lengths = [header.chunk_length(begin + i) for i in range(len(group))]
        coded = [i for i, chunk in enumerate(group) if not chunk.raw]
        before = begin * header.chunk_bytes
        found = [chunk.stream for chunk in group]
        if coded:
            # A raw chunk keeps its row, so that the others are in theirs.
            streams = [b"" if chunk.raw else chunk.stream for chunk in group]
            whole = [0 if chunk.raw else n for chunk, n in zip(group, lengths)]
            back = decode_group(predictor, streams, whole, lambda n, b=before: progress(b + n))
            for i in coded:
                found[i] = back[i]
        for i, (chunk, part) in enumerate(zip(group, found)):
            if zlib.crc32(part) != chunk.crc or len(part) != lengths[i]:
                raise UserError(f"damaged: chunk {begin + i} of {len(chunks)} does not come back "
                                "with its checksum")
        parts += found
    data = b"".join(parts)
    if zlib.crc32(data) != header.crc:
        raise UserError("damaged: the whole does not come back with its checksum")
    return data


def encode_group(
    predictor: Predictor, parts: Sequence[bytes], progress: Progress = lambda done: None
) -> tuple[list[bytes], list[float]]:
    """Streams of at most B texts; and the information of each under the weights, bits."""
    lengths = [len(part) for part in parts]
    rows, longest = predictor.rows, max(lengths)
    symbols = np.zeros((rows, longest), np.uint8)
    for row, part in enumerate(parts):
        symbols[row, : len(part)] = np.frombuffer(part, np.uint8)
    low, high = np.zeros((rows, longest), np.int64), np.zeros((rows, longest), np.int64)
    ideal = np.zeros((rows, longest))
    at = np.arange(rows)
    weights = predictor.begin()
    for step in range(longest):
        its = symbols[:, step].astype(np.int64)
        tables = cumulative(weights, CDF_BITS)
        low[:, step], high[:, step] = tables[at, its], tables[at, its + 1]
        ideal[:, step] = weights[at, its] / np.maximum(weights.sum(axis=1), 1)
        if step + 1 < longest:
            weights = predictor.push(symbols[:, step])
        progress(int(np.minimum(lengths, step + 1).sum()))
    streams = [range_coder.encode(low[i, :n], high[i, :n], CDF_BITS) for i, n in enumerate(lengths)]
    # A weight of 0 is less than 2^-24.
    bits = -np.log2(np.maximum(ideal, 2.0**-CDF_BITS))
    return streams, [float(bits[i, :n].sum()) for i, n in enumerate(lengths)]


def decode_group(
    predictor: Predictor, streams: Sequence[bytes], lengths: Sequence[int],
    progress: Progress = lambda done: None,
) -> list[bytes]:  # fmt: skip
    """The texts of at most B streams. A row past its end reads zeros, as its encoder did."""
    rows, longest = predictor.rows, max(lengths)
    decoder = range_coder.open_streams([*streams, *[b""] * (rows - len(streams))])
    ends = np.array([*lengths, *[0] * (rows - len(lengths))])
    symbols = np.zeros((rows, longest), np.uint8)
    weights = predictor.begin()
    for step in range(longest):
        found = range_coder.decode(decoder, cumulative(weights, CDF_BITS), CDF_BITS)
        symbols[:, step] = np.where(step < ends, found, 0)
        if step + 1 < longest:
            weights = predictor.push(symbols[:, step])
        progress(int(np.minimum(lengths, step + 1).sum()))
    return [symbols[row, :n].tobytes() for row, n in enumerate(lengths)]
