"""Drawings as SVG text: lines with bands, a heat map, bars.

Written here, not by a plotting library, so that the same numbers give the same few kilobytes on
every machine, and so that a reader can select and search what stands in them.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from html import escape

# Okabe and Ito's colours, told apart by all kinds of colour vision; the dashes go on after them.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1f2933")
DASHES = ("", "6 3", "2 3")
INK, MUTED, GRID, EMPTY = "#1f2933", "#66727f", "#e4e7eb", "#f3f4f6"
PALE, DEEP = (0xFF, 0xF4, 0xE8), (0x8C, 0x2D, 0x04)  # of a heat map: nothing lost, most lost
CHARACTER = 6.2  # mean width of a character at 11 px


@dataclasses.dataclass(frozen=True)
class Style:
    colour: str
    dash: str = ""


def style(index: int) -> Style:
    """That of model number `index`, the same in every drawing."""
    return Style(COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)])


@dataclasses.dataclass(frozen=True)
class Curve:
    """y over x with the band from low to high; points where y is NaN are left out."""

    label: str
    style: Style
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Cell:
    """A square of a heat map. shade: from 0 (pale) to 1 (deep), None where there is no number."""

    text: str
    shade: float | None
    title: str = ""


@dataclasses.dataclass(frozen=True)
class Bar:
    """A bar from 0 to value, with a whisker from low to high where they are given."""

    label: str
    style: Style
    value: float
    text: str
    low: float | None = None
    high: float | None = None


def curves(
    title: str, lines: Sequence[Curve], x_label: str, y_label: str, width=330, height=220
) -> str:
    """Lines with their bands over one pair of axes; y always shows 0."""
    left, right, top, bottom = 52, 12, 28, 40
    points = [(x, y, low, high) for line in lines
              for x, y, low, high in zip(line.x, line.y, line.low, line.high)
              if math.isfinite(y)]  # fmt: skip
    inner_width, inner_height = width - left - right, height - top - bottom
    parts = [_text(left, 16, title, size=12, weight=600)]
    if not points:
        return _svg(width, height, title, [*parts, _text(left, top + 20, "no numbers", MUTED)])
    most_x = max(x for x, *_ in points) or 1.0
    bounds = [b for point in points for b in point[1:] if math.isfinite(b)]
    y_ticks = ticks(min(0.0, *bounds), max(0.0, *bounds))
    bottom_y, top_y = y_ticks[0], y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        share = (y - bottom_y) / (top_y - bottom_y)
        return left + inner_width * x / most_x, top + inner_height * (1 - share)

    for tick in y_ticks:
        _, y = place(0, tick)
        parts.append(_line(left, y, width - right, y, INK if tick == 0 else GRID))
        parts.append(_text(left - 6, y + 4, number(tick), MUTED, anchor="end"))
    for tick in [t for t in ticks(0.0, most_x) if t <= most_x * 1.0001]:
        x, _ = place(tick, bottom_y)
        parts.append(_text(x, height - bottom + 15, number(tick), MUTED, anchor="middle"))
    parts.append(_text(left + inner_width / 2, height - 6, x_label, MUTED, anchor="middle"))
    parts.append(_text(0, 0, y_label, MUTED, anchor="middle",
                       more=f' transform="translate(11 {fixed(top + inner_height / 2)}) rotate(-90)"'))
    for line in lines:
        kept = [p for p in zip(line.x, line.y, line.low, line.high) if math.isfinite(p[1])]
        if not kept:
            continue
        edge = [place(x, high) for x, _, _, high in kept if math.isfinite(high)]
        edge += [place(x, low) for x, _, low, _ in reversed(kept) if math.isfinite(low)]
        if len(edge) > 2:
            parts.append(f'<polygon points="{_points(edge)}" fill="{line.style.colour}" '
                         'fill-opacity="0.15"/>')
        middle = [place(x, y) for x, y, *_ in kept]
        dash = f' stroke-dasharray="{line.style.dash}"' if line.style.dash else ""
        parts.append(f'<polyline points="{_points(middle)}" fill="none" '
                     f'stroke="{line.style.colour}" stroke-width="2"{dash}/>')
        for (cx, cy), (x, y, low, high) in zip(middle, kept):
            said = f"{line.label} at {number(x)}: {number(y)} [{number(low)}, {number(high)}]"
            parts.append(f'<circle cx="{fixed(cx)}" cy="{fixed(cy)}" r="3" '
                         f'fill="{line.style.colour}"><title>{escape(said)}</title></circle>')
    return _svg(width, height, title, parts)


def heat_map(
    title: str, rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[Cell]]
) -> str:
    """A square for each row and column, its number written in it."""
    left = 16 + CHARACTER * max(map(len, rows), default=0)
    cell_width = max(64.0, 14 + CHARACTER * max(map(len, columns), default=0))
    cell_height, top = 24, 30
    width, height = left + cell_width * len(columns) + 4, top + cell_height * len(rows) + 4
    parts = [
        _text(left + cell_width * (j + 0.5), 20, column, weight=600, anchor="middle")
        for j, column in enumerate(columns)
    ]
    for i, (row, its_cells) in enumerate(zip(rows, cells)):
        y = top + cell_height * i
        parts.append(_text(left - 8, y + 16, row, anchor="end"))
        for j, cell in enumerate(its_cells):
            x = left + cell_width * j
            fill = EMPTY if cell.shade is None else blend(cell.shade)
            ink = "#ffffff" if cell.shade is not None and cell.shade > 0.55 else INK
            hint = f"<title>{escape(cell.title)}</title>" if cell.title else ""
            parts.append(f'<rect x="{fixed(x + 1)}" y="{fixed(y + 1)}" '
                         f'width="{fixed(cell_width - 2)}" height="{cell_height - 2}" '
                         f'fill="{fill}">{hint}</rect>')
            parts.append(_text(x + cell_width / 2, y + 16, cell.text, ink, anchor="middle"))
    return _svg(width, height, title, parts)


def bars(title: str, groups: Sequence[tuple[str, Sequence[Bar]]], width=640) -> str:
    """Horizontal bars in named groups, all from 0 on one scale, each with its number behind it."""
    every = [bar for _, group in groups for bar in group]
    left = 16 + CHARACTER * max((len(name) for name, _ in groups), default=0)
    behind = 12 + CHARACTER * max((len(bar.text) for bar in every), default=0)
    reach = [b for bar in every for b in (bar.value, bar.high) if b is not None and math.isfinite(b)]
    scale = (width - left - behind) / (max(reach, default=1.0) or 1.0)
    thick, gap = 12, 8
    parts, y = [], 6.0
    for name, group in groups:
        parts.append(_text(left - 8, y + thick * len(group) / 2 + 4, name, anchor="end"))
        for bar in group:
            value = bar.value if math.isfinite(bar.value) else 0.0
            end = left + scale * max(value, 0.0)
            parts.append(f'<rect x="{fixed(left)}" y="{fixed(y + 1)}" width="{fixed(end - left)}" '
                         f'height="{thick - 2}" fill="{bar.style.colour}">'
                         f"<title>{escape(f'{bar.label}: {bar.text}')}</title></rect>")
            if bar.low is not None and bar.high is not None:
                low, high = left + scale * max(bar.low, 0.0), left + scale * max(bar.high, 0.0)
                parts.append(_line(low, y + thick / 2, high, y + thick / 2, INK))
                end = max(end, high)
            parts.append(_text(end + 5, y + thick - 2, bar.text, MUTED, size=10))
            y += thick
        y += gap
    return _svg(width, y, title, parts)


def sheet(
    title: str, drawings: Sequence[str], legend: Sequence[tuple[str, Style]], columns: int = 3
) -> str:
    """Drawings in rows of `columns`, with their legend above them, as one drawing: for a page that
    shows pictures alone."""
    gap, top = 10, 26.0 if legend else 0.0
    pattern = re.compile(r'<svg [^>]*?width="([\d.]+)" height="([\d.]+)"')
    sizes = [tuple(map(float, pattern.match(drawing).groups())) for drawing in drawings]
    parts, x = [], 8.0
    for label, its in legend:
        dash = f' stroke-dasharray="{its.dash}"' if its.dash else ""
        parts.append(f'<path d="M{fixed(x)} 12h26" stroke="{its.colour}" stroke-width="3"{dash}/>')
        parts.append(_text(x + 32, 16, label))
        x += 52 + CHARACTER * len(label)
    width, y = x, top
    for row in range(0, len(drawings), columns):
        x = 0.0
        for drawing, size in list(zip(drawings, sizes))[row : row + columns]:
            place = f'<svg x="{fixed(x)}" y="{fixed(y)}" '
            parts.append(place + drawing.removeprefix('<svg xmlns="http://www.w3.org/2000/svg" '))
            x += size[0] + gap
        width = max(width, x - gap)
        y += max(height for _, height in sizes[row : row + columns]) + gap
    paper = f'<rect width="{fixed(width)}" height="{fixed(y)}" fill="#fff"/>'
    return _svg(width, y, title, [paper, *parts])


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from at most `low` to at least `high`: multiples of 1, 2 or 5 times a power of
    ten, at most `most` steps apart."""
    if not high > low:
        high = low + 1.0
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def blend(shade: float) -> str:
    """The colour at 0 (pale) to 1 (deep)."""
    shade = min(max(shade, 0.0), 1.0)
    return "#" + "".join(f"{round(a + (b - a) * shade):02x}" for a, b in zip(PALE, DEEP))


def number(value: float) -> str:
    """Three significant digits, without trailing zeros."""
    return f"{value:.3g}" if math.isfinite(value) else "none"


def fixed(value: float) -> str:
    """A coordinate: a tenth of a pixel is enough, and the same on every machine."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{fixed(x)},{fixed(y)}" for x, y in points)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return (f'<line x1="{fixed(x1)}" y1="{fixed(y1)}" x2="{fixed(x2)}" y2="{fixed(y2)}" '
            f'stroke="{colour}"/>')


def _text(x, y, text, colour=INK, *, size=11, weight=400, anchor="start", more="") -> str:
    return (f'<text x="{fixed(x)}" y="{fixed(y)}" fill="{colour}" font-size="{size}" '
            f'font-weight="{weight}" text-anchor="{anchor}"{more}>{escape(text)}</text>')


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    size = f'width="{fixed(width)}" height="{fixed(height)}"'
    return (f'<svg xmlns="http://www.w3.org/2000/svg" {size} '
            f'viewBox="0 0 {fixed(width)} {fixed(height)}" role="img" '
            f'aria-label="{escape(title, quote=True)}" font-family="sans-serif">'
            f"{''.join(parts)}</svg>")
