"""What a report is made of, before it is HTML or Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from hat.evaluation.report.svg import Style


@dataclasses.dataclass(frozen=True)
class Heading:
    text: str


@dataclasses.dataclass(frozen=True)
class Paragraph:
    text: str


@dataclasses.dataclass(frozen=True)
class Bullets:
    items: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells of text; the first column names the row."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Figure:
    """Drawings side by side with one legend, whose numbers stand in the tables as well."""

    drawings: Sequence[str]  # SVG
    caption: str
    legend: Sequence[tuple[str, Style]] = ()


# "same": unedited; "deleted" and "inserted": an edit; "gap": left out; "continuation": what follows
Kind = Literal["same", "deleted", "inserted", "gap", "continuation"]


@dataclasses.dataclass(frozen=True)
class Passage:
    """A text with its edits, in pieces that are safe to show (`examples.visible`)."""

    title: str
    pieces: Sequence[tuple[Kind, str]]
    note: str


@dataclasses.dataclass(frozen=True)
class Folded:
    """Blocks that a reader opens."""

    title: str
    blocks: Sequence[Block]


Block = Heading | Paragraph | Bullets | Table | Figure | Passage | Folded
