"""The window code with the model running: for windows too wide for a table, and other contexts.

Texts are encoded side by side, each row of the predictor one text, and a row that is free takes the
next. Where the model begins anew in every window, as in arXiv 2404.03626, windows decode side by
side in any order. A window that ends costs no step: what the model says before a first byte is
known, so the byte that did not fit opens the next window within the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

from hat.compression import limbs
from hat.compression.predictor import Predictor
from hat.compression.probabilities import cumulative
from hat.compression.windows import CDF_BITS, UNIFORM, WindowConfig
from hat.errors import UserError

# When the model begins anew (table 9 of the paper): in every window, in every other one, or at the
# beginning of a text alone.
Reset = Literal["window", "other", "never"]
RESETS = ("window", "other", "never")
Progress = Callable[[int], None]  # bytes done


class LiveCoder:
    """Stop-cell windows of a predictor. Holds the predictor's rows; not for two threads."""

    def __init__(self, predictor: Predictor, config: WindowConfig, reset: Reset = "window"):
        if config.mode != "stop-cell":
            raise UserError(f"mode {config.mode} has no live coder: build a table, or stop-cell")
        if reset not in RESETS:
            raise UserError(f"reset {reset!r}: choose from {', '.join(RESETS)}")
        if not predictor.windowed:
            raise UserError("this model cannot begin anew in a window: give a flat byte-level one")
        self._predictor, self._config, self.reset = predictor, config, reset
        self._root_table = config.root_table(predictor.root)

    def encode(
        self, texts: Sequence[bytes], progress: Progress = lambda done: None
    ) -> list[list[int]]:
        """The codes of each text: numbers below 2^W."""
        rows, queue = _Rows(self, len(texts)), iter(range(len(texts)))
        found: list[list[int]] = [[] for _ in texts]
        at = np.zeros(rows.count, np.int64)
        done = 0
        while True:
            for row in np.flatnonzero(rows.text < 0):
                text = next((text for text in queue if texts[text]), None)
                if text is not None:
                    rows.begin_text(row, text)
                    at[row] = 0
            active = np.flatnonzero(rows.text >= 0)
            if not len(active):
                return found
            symbols = np.zeros(rows.count, np.uint8)
            symbols[active] = [texts[rows.text[row]][at[row]] for row in active]
            child, fits = rows.descend(symbols)
            closing = active[~fits[active]]
            if len(closing):
                for row, code in zip(closing, rows.codes(closing)):
                    found[rows.text[row]].append(code)
                rows.begin_window(closing)
                child, _ = rows.descend(symbols)
            rows.advance(child, symbols)
            at[active] += 1
            done += len(active)
            progress(done)
            ended = np.array([r for r in active if at[r] == len(texts[rows.text[r]])], np.int64)
            if len(ended):
                for row, code in zip(ended, rows.codes(ended)):
                    found[rows.text[row]].append(code)
                rows.text[ended] = -1

    def decode(
        self, coded: Sequence[Sequence[int]], progress: Progress = lambda done: None
    ) -> list[bytes]:
        """The texts of lists of codes. UserError: a code of more than W bits."""
        for code in (code for codes in coded for code in codes):
            if not 0 <= code < 1 << self._config.bits:
                raise UserError(f"code {code} has more than {self._config.bits} bits")
        if self.reset == "window":  # every window a text of its own: all at once
            windows = self._decode([[code] for codes in coded for code in codes], progress)
            parts = iter(windows)
            return [b"".join(next(parts) for _ in codes) for codes in coded]
        return self._decode(coded, progress)

    def _decode(self, coded: Sequence[Sequence[int]], progress: Progress) -> list[bytes]:
        rows, queue = _Rows(self, len(coded)), iter(range(len(coded)))
        found = [bytearray() for _ in coded]
        codes: list[Iterator[int]] = [iter(())] * rows.count
        wanted = np.zeros_like(rows.nodes.size)
        done = 0
        while True:
            ended = np.flatnonzero(rows.text < 0)  # rows that need a code; at first, a text
            byte = np.zeros(rows.count, np.int64)
            while True:
                for row in ended:
                    code = next(codes[row], None)
                    fresh = code is None
                    while code is None and (text := next(queue, None)) is not None:
                        codes[row] = iter(coded[text])
                        code = next(codes[row], None)
                    if code is None:
                        rows.text[row] = -1
                        continue
                    if fresh:
                        rows.begin_text(row, text)
                    else:
                        rows.begin_window(np.array([row]))
                    wanted[row] = limbs.to_limbs(np.array([code], object), self._config.bits)[0]
                byte, ends = limbs.find(rows.nodes, rows.tables().astype(np.uint32), wanted)
                ended = np.flatnonzero(ends & (rows.text >= 0))
                if not len(ended):
                    break
            active = np.flatnonzero(rows.text >= 0)
            if not len(active):
                return [bytes(text) for text in found]
            symbols = np.where(rows.text >= 0, byte, 0).astype(np.uint8)
            child, _ = rows.descend(symbols)
            rows.advance(child, symbols)
            for row in active:
                found[rows.text[row]].append(symbols[row])
            done += len(active)
            progress(done)


class _Rows:
    """The windows that the predictor's rows are in.

    text: int64 [B], of each row, -1 where it has none. The tables of a row follow from what its
    model has read, and from whether its window is empty, or longer than the context.
    """

    def __init__(self, coder: LiveCoder, texts: int):
        self._coder, self._config = coder, coder._config
        self._predictor = coder._predictor
        self.count = self._predictor.rows
        self.text = np.full(self.count, -1, np.int64)
        self.nodes = limbs.roots(self._config, self.count)
        self._roots = limbs.roots(self._config, self.count)
        self._length = np.zeros(self.count, np.int64)  # of the window
        self._windows = np.zeros(self.count, np.int64)  # of the text, that have begun
        self._restart = np.ones(self.count, bool)
        self._weights = self._predictor.begin()
        self._tables: np.ndarray | None = None

    def begin_text(self, row: int, text: int) -> None:
        self.text[row] = text
        self._windows[row] = -1
        self._open(np.array([row]), True)

    def begin_window(self, rows: np.ndarray) -> None:
        reset = self._coder.reset
        again = self._windows[rows] % 2 == 1 if reset == "other" else reset == "window"
        self._open(rows, again)

    def _open(self, rows: np.ndarray, again) -> None:
        for old, new in zip(self.nodes, self._roots):
            old[rows] = new[rows]
        self._windows[rows] += 1
        self._length[rows] = 0
        again = np.broadcast_to(again, rows.shape)
        self._restart[rows] |= again
        self._weights[rows[again]] = self._predictor.root
        self._tables = None

    def tables(self) -> np.ndarray:
        """int64 [B, 257]."""
        if self._tables is None:
            self._tables = cumulative(self._weights, CDF_BITS)
            self._tables[self._length >= self._config.context] = UNIFORM
            empty = np.flatnonzero(self._length == 0)
            if len(empty):
                self._tables[empty] = self._config.root_table(self._weights[empty])
        return self._tables

    def descend(self, symbols: np.ndarray):
        tables, rows = self.tables().astype(np.uint32), np.arange(self.count)
        symbols = symbols.astype(np.int64)  # 255 + 1 is no uint8
        return limbs.descend(self.nodes, tables[rows, symbols], tables[rows, symbols + 1])

    def codes(self, rows: np.ndarray) -> list[int]:
        nodes = limbs.Nodes(*(array[rows] for array in self.nodes))
        return limbs.to_ints(limbs.codes(nodes)).tolist()

    def advance(self, child: limbs.Nodes, symbols: np.ndarray) -> None:
        """Every row by its byte. Rows without a text go along, and mean nothing."""
        self.nodes, self._length = child, self._length + 1
        self._weights = self._predictor.push(symbols, self._restart)
        self._restart = np.zeros(self.count, bool)
        self._tables = None
