"""What was read before: rows kept after their prompts, for prompts that begin alike."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any

import numpy as np

SHORTEST = 32  # ids; a shorter start is read as fast as it is found
RECENT = 16  # prompts whose common starts with a new one are looked for


class Prefixes:
    """Rows by the ids that they have read, the `capacity` latest used of them.

    Two kinds of start are worth keeping: whole prompts, which are asked again or continued, and
    what a prompt has in common with a recent one, such as instructions that many share. The second
    is found by the second prompt that has it, and spares the third and all after it.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._rows: OrderedDict[bytes, Any] = OrderedDict()
        self._recent: deque[np.ndarray] = deque(maxlen=RECENT)

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, ids: np.ndarray) -> tuple[int, Any]:
        """The longest start of ids int32 [n] that is kept, as a number of ids, and its row; 0 and
        None if there is none."""
        whole = ids.tobytes()
        key = max((key for key in self._rows if whole.startswith(key)), key=len, default=None)
        if key is None:
            return 0, None
        self._rows.move_to_end(key)
        return len(key) // ids.itemsize, self._rows[key]

    def keep(self, ids: np.ndarray, row: Any) -> None:
        if self.capacity:
            self._rows[ids.tobytes()] = row
            self._rows.move_to_end(ids.tobytes())
            while len(self._rows) > self.capacity:
                self._rows.popitem(last=False)

    def shared(self, ids: np.ndarray) -> int:
        """How many ids the prompt has in common with a recent one, if they are worth keeping; else
        0. The prompt is a recent one from now on."""
        if not self.capacity:
            return 0
        longest = max((common_start(ids, other) for other in self._recent), default=0)
        self._recent.append(ids)
        return longest if longest >= SHORTEST else 0


def common_start(a: np.ndarray, b: np.ndarray) -> int:
    """How many ids two texts begin with in common."""
    size = min(len(a), len(b))
    differ = np.flatnonzero(a[:size] != b[:size])
    return int(differ[0]) if len(differ) else size
