"""Model probabilities as integers.

A predictor gives every byte a weight, a whole number; `cumulative` makes of the weights a table of
2^bits cells, in whole numbers alone, so that who has the same weights has the same table. Every
byte owns `floor` cells at least; so no byte is impossible, and the code always makes progress.
"""

from __future__ import annotations

import numpy as np

from hat.errors import UserError

NUM_BYTES = 256
WEIGHT_BITS = 24  # of a float32 probability that is made a weight: its whole mantissa


def weights_of(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities [..., 256] -> weights int64 [..., 256]: times 2^24, cut off.

    The scaling is exact and the cutting too, so equal probabilities give equal weights.
    """
    scaled = np.asarray(probabilities, np.float64) * (1 << WEIGHT_BITS)
    if not np.isfinite(scaled).all() or (scaled < 0).any():
        raise UserError(
            "the model gives probabilities that are no numbers: it cannot be used to compress"
        )
    return scaled.astype(np.int64)


def cumulative(weights: np.ndarray, bits: int, floor: int = 1) -> np.ndarray:
    """Weights int64 [..., 256], each 0 to 2^31 -> cells below each byte, int64 [..., 257].

    The first is 0, the last 2^bits, and each is at least `floor` above the one before. What the
    divisions leave over goes to the likeliest byte, the first of equals. ValueError where 256
    floors are more than there are cells.
    """
    total = 1 << bits
    spare = total - NUM_BYTES * floor
    if not 1 <= floor or spare < 0 or bits > 31:
        raise ValueError(f"2^{bits} cells cannot give {floor} to each of 256 bytes")
    weights = np.asarray(weights, np.int64)
    mass = np.maximum(weights.sum(axis=-1, keepdims=True), 1)
    cells = floor + weights * spare // mass
    left = total - cells.sum(axis=-1)
    likeliest = weights.argmax(axis=-1)
    np.put_along_axis(
        cells, likeliest[..., None],
        np.take_along_axis(cells, likeliest[..., None], -1) + left[..., None], -1,
    )  # fmt: skip
    table = np.zeros((*cells.shape[:-1], NUM_BYTES + 1), np.int64)
    np.cumsum(cells, axis=-1, out=table[..., 1:])
    return table
