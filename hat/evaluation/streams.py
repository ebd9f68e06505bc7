"""Random numbers that depend on what they are for, and on nothing else.

A stream is addressed by labels, such as the seed, the name of a perturbation and the id of an item.
Number i of a lane is a function of (labels, lane, i): the order of items, their batches and the
number of workers cannot change it. Only the raw output of Philox is used, which NumPy keeps the
same from version to version, as it does not keep the methods of its Generator.
"""

from __future__ import annotations

import hashlib

import numpy as np


class Stream:
    """The numbers of one address. Lanes are independent of one another."""

    def __init__(self, *labels: str | int):
        digest = hashlib.blake2b(digest_size=16)
        for label in labels:
            encoded = f"{type(label).__name__}:{label}".encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        self._key = np.frombuffer(digest.digest(), "<u8")

    def uniform(self, lane: int, count: int) -> np.ndarray:
        """float64[count] in [0, 1)."""
        philox = np.random.Philox(key=self._key, counter=[0, 0, 0, lane])
        return (philox.random_raw(count) >> np.uint64(11)) * 2.0**-53

    def below(self, lane: int, count: int, bound: int | np.ndarray) -> np.ndarray:
        """int64[count] in [0, bound); bound: below 2**53, one for all or one for each."""
        return (self.uniform(lane, count) * bound).astype(np.int64)
