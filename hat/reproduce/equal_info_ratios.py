"""How much text each code of a trained M1 holds: the order of the paper's section 4 on real text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hat.compression import codec
from hat.compression.build import build_table
from hat.compression.live import LiveCoder
from hat.compression.run import load_m1
from hat.compression.windows import WindowConfig
from hat.text.window_table import TableTokenizer

ROWS = 128
WIDTHS = (16, 32, 64, 128)


def ratios(m1: Path, documents: Sequence[bytes], most_bytes: int) -> dict[str, float]:
    """Bytes of text for 8 bits of code: of windows of each width, "stop-16" and so on, with the
    model begun anew in each; of the published code, "greedy-16"; of plain arithmetic coding.

    The text is cut into pieces of one length, the same for every code, which run side by side; a
    last window that is not full counts as a whole one.
    """
    predictor, context = load_m1(m1, ROWS)
    text = b"".join(documents)[:most_bytes]
    size = -(-len(text) // ROWS)
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    found = {}
    for bits in WIDTHS:
        codes = LiveCoder(predictor, WindowConfig(bits, context=context)).encode(pieces)
        found[f"stop-{bits}"] = 8 * len(text) / (bits * sum(map(len, codes)))
    greedy = TableTokenizer(build_table(predictor, WindowConfig(16, "paper", context)))
    found["greedy-16"] = 8 * len(text) / (16 * sum(len(greedy.encode(piece)) for piece in pieces))
    streams, _ = codec.encode_group(predictor, pieces)
    found["arithmetic"] = len(text) / sum(map(len, streams))
    return found


def sentence(found: dict[str, float]) -> str:
    """Whether the order of the paper holds, and what stop cells cost."""
    order = [*(f"stop-{bits}" for bits in WIDTHS), "arithmetic"]
    values = [found[name] for name in order]
    holds = all(a < b for a, b in zip(values, values[1:]))
    listed = ", ".join(f"{name} {found[name]:.2f}" for name in order)
    cost = found["stop-16"] / found["greedy-16"] - 1
    return (
        f"Bytes of held-out text for 8 bits of code under this M1: {listed}; the order of the paper "
        f"{'holds' if holds else 'does not hold'}. Stop cells hold {cost:+.1%} of text against the "
        f"published code at 16 bits ({found['greedy-16']:.2f})."
    )
