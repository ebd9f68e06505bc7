"""A report as Markdown: the same words and numbers, without the drawings."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hat.evaluation.report.blocks import (
    Block,
    Bullets,
    Figure,
    Folded,
    Heading,
    Paragraph,
    Passage,
    Table,
)

MARKS = {"deleted": ("[-", "-]"), "inserted": ("{+", "+}"), "same": ("", ""), "gap": ("", ""),
         "continuation": (" | ", "")}  # fmt: skip


def page(title: str, blocks: Sequence[Block]) -> str:
    """The whole file."""
    parts = [f"# {_escape(title)}", *(_block(block, 2) for block in blocks)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: Block, level: int) -> str:
    match block:
        case Heading(text):
            return f"{'#' * level} {_escape(text)}"
        case Paragraph(text):
            return _escape(text)
        case Bullets(items):
            return "\n".join(f"- {_escape(item)}" for item in items)
        case Table(header, rows):
            lines = [[_escape(cell) for cell in line] for line in (header, *rows)]
            lines.insert(1, ["---"] * len(header))
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)
        case Figure(_, caption):
            return f"*{_escape(caption)}*"
        case Passage(title, pieces, note):
            text = "".join(f"{MARKS[kind][0]}{said}{MARKS[kind][1]}" for kind, said in pieces)
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            return f"**{_escape(title)}**\n\n{fence}\n{text}\n{fence}\n\n{_escape(note)}"
        case Folded(title, blocks):
            inner = [_block(inner, level + 1) for inner in blocks]
            return "\n\n".join([f"{'#' * (level + 1)} {_escape(title)}", *inner])
    raise TypeError(f"no block: {block!r}")


def _escape(text: str) -> str:
    """Text that Markdown shows as it is, in one line and in one cell of a table."""
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", " ".join(text.splitlines()))
