"""Preference pairs in rows: chosen and rejected side by side, two segments that are never parted.

The first segment of a row is a chosen answer after its prompt, the second the rejected one after
the same prompt, the third is chosen again: segment s belongs to pair (s - 1) // 2 of its row. So a
pair is in one row of one batch whatever the mesh, and a batch of pairs has the shapes of any other.
"""

from __future__ import annotations

from collections.abc import Sequence

from hat.text.rows import Packer, Row, Units, word_bounds


class PairPacker(Packer):
    """Packs pairs best-fit into rows; cuts none."""

    def fits(self, pair: Sequence[Units]) -> bool:
        """Whether an empty row holds the pair."""
        ids, words = self._needs(pair)
        return ids <= self._length and words <= self._words

    def add(self, pair: Sequence[Units]) -> list[Row]:
        """The rows that this pair, which fits one, finishes."""
        pieces = []
        for units in pair:
            bounds = word_bounds(units)
            pieces.append(self._piece(units, bounds, 0, len(bounds) - 1))
        finished: list[Row] = []
        self._put(self._needs(pair), pieces, finished)
        return finished

    def _needs(self, pair: Sequence[Units]) -> tuple[int, int]:
        """Ids and words of both, each with BOS and EOT."""
        specials = 2 * len(pair)
        ids = sum(len(units.ids) for units in pair)
        words = sum(len(word_bounds(units)) - 1 for units in pair)
        return ids + specials, words + specials
