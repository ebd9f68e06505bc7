"""A page that shows how a model read a text: every character coloured by its surprise.

One HTML file with nothing beside it: no script, no font, no address. What is in the text is
escaped, and the same scores make the same bytes.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from hat.inference.scoring import DocumentScore
from hat.text.splitters import Splitter
from hat.text.tokenizers import Tokenizer

# A character of at least so many bits has this colour; from pale to dark, at ever wider steps.
LEVELS = (0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 4.5, 6.0, 8.0, 11.0)
COLOURS = ("#ffffff", "#fff7e8", "#ffedca", "#ffdfa5", "#fecb7c", "#fbb058", "#f39141", "#e4702f",
           "#cc4f27", "#a83324")  # fmt: skip
DARK = 7  # from this level on the letters are white

STYLE = """\
body{font:16px/1.5 system-ui,sans-serif;color:#1f2933;background:#fff;max-width:60em;margin:2em auto;
padding:0 1em}
h1{font-size:1.3em}h2{font-size:1.1em;margin:2em 0 0;overflow-wrap:anywhere}p{margin:.3em 0;color:#52606d}
.text{font:15px/2 ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere;margin:1em 0}
.w{border-left:1px solid #9aa5b1;padding:.15em 0}
.x{color:#7b8794;font-size:.8em}
.key span{font:13px ui-monospace,monospace;padding:.2em .5em;border:1px solid #e4e7eb}
"""


class Scored(NamedTuple):
    """A document as the page shows it. bits float [n]: of every byte; end: of the end of the text;
    starts int [words]: where words begin."""

    name: str
    data: bytes
    bits: np.ndarray
    end: float
    starts: np.ndarray


def page(title: str, unit: str, documents: Sequence[Scored]) -> str:
    """The page. unit: what the rule makes, "words" or "tokens"."""
    colours = "".join(
        f".s{level}{{background:{colour}{';color:#fff' if level >= DARK else ''}}}\n"
        for level, colour in enumerate(COLOURS)
    )
    parts = [
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{STYLE}{colours}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n"
        f'<p class="key">bits a character: {_key()}</p>\n'
        f"<p>A line stands before each of the {html.escape(unit)}; the pointer over one shows its "
        "bits. \u21b5 is a new line, \u2192 a tab, \\x and two digits a byte that is no UTF-8.</p>\n"
    ]
    parts += [_section(document, unit) for document in documents]
    return "".join(parts) + "</body>\n</html>\n"


def _key() -> str:
    return "".join(
        f'<span class="s{level}">{"&lt; " + format(LEVELS[1], "g") if not level else f"{bits:g}+"}'
        "</span>"
        for level, bits in enumerate(LEVELS)
    )


def _section(document: Scored, unit: str) -> str:
    total = float(document.bits.sum(dtype=np.float64)) + document.end
    count = len(document.data)
    bounds = [*map(int, document.starts), count]
    words = "".join(
        _word(document, start, end) for start, end in zip(bounds, bounds[1:]) if end > start
    )
    return (
        f"<h2>{html.escape(document.name)}</h2>\n"
        f"<p>{total / count:.4f} bits per byte: {total:.1f} bits, {count:,} bytes, "
        f"{len(document.starts):,} {html.escape(unit)}, {document.end:.1f} bits for the end</p>\n"
        f'<div class="text">{words}</div>\n'
    )


def _word(document: Scored, start: int, end: int) -> str:
    """One word or token: the characters that begin in it, those of one level together."""
    bits = float(document.bits[start:end].sum(dtype=np.float64))
    runs: list[tuple[int, list[str]]] = []
    for shown, cost in characters(document, start, end):
        level = max(index for index, least in enumerate(LEVELS) if max(cost, 0.0) >= least)
        if not runs or runs[-1][0] != level:
            runs.append((level, []))
        runs[-1][1].append(shown)
    inside = "".join(f'<span class="s{level}">{"".join(shown)}</span>' for level, shown in runs)
    size = end - start
    title = f"{bits:.1f} bits, {size} byte{'s' if size > 1 else ''}"
    return f'<span class="w" title="{title}">{inside}</span>'


def characters(document: Scored, start: int, end: int) -> Iterator[tuple[str, float]]:
    """(HTML, bits) of every character of which the first byte is in [start, end), and of every byte
    there that belongs to none.

    A character that the end of the word cuts through is shown byte by byte: its bytes are parts of
    different words.
    """
    while start < end:
        size = _character_size(document.data, start, end)
        piece = document.data[start : start + size]
        cost = float(document.bits[start : start + size].sum(dtype=np.float64))
        yield _shown(piece), cost
        start += size


def _character_size(data: bytes, start: int, end: int) -> int:
    """Bytes of the UTF-8 character at `start`; 1 where there is none that ends before `end`."""
    lead = data[start]
    size = 1 + (lead >= 0xC2) + (lead >= 0xE0) + (lead >= 0xF0)
    try:
        data[start : start + size].decode()
    except UnicodeDecodeError:
        return 1
    return size if start + size <= end else 1


def _shown(piece: bytes) -> str:
    if len(piece) == 1 and piece[0] >= 0x80:
        return f'<span class="x">\\x{piece[0]:02x}</span>'
    text = piece.decode()
    if text == "\n":
        return '<span class="x">\u21b5</span>\n'
    if text == "\t":
        return '<span class="x">\u2192</span>\t'
    if not text.isprintable() and text != " ":
        return f'<span class="x">{html.escape(ascii(text)[1:-1])}</span>'
    return html.escape(text)


def word_starts(rule: Splitter | Tokenizer, data: bytes) -> np.ndarray:
    """int64: the byte with which every word of a text begins, or every token."""
    if isinstance(rule, Tokenizer):
        sizes = rule.byte_lengths[rule.encode(data)].astype(np.int64)
        return np.cumsum(sizes) - sizes
    return np.flatnonzero(rule.split(np.frombuffer(data, np.uint8)).starts)


def scored(name: str, data: bytes, score: DocumentScore, starts: np.ndarray) -> Scored:
    """A document for the page. Of a token, whose bytes no model scores one by one, every byte gets
    an equal share."""
    bits = score.nats.astype(np.float64) / math.log(2)
    of_bytes, end = bits[:-1], float(bits[-1])
    if len(of_bytes) != len(data):
        sizes = np.diff(np.append(starts, len(data)))
        of_bytes = np.repeat(of_bytes / sizes, sizes)
    return Scored(name, data, of_bytes, end, starts)
