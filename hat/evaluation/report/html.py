"""A report as one HTML file: nothing in it is loaded from anywhere, and nothing runs."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

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
from hat.evaluation.report.svg import Style

# The policy has the browser refuse whatever a name or a text of an item might smuggle in.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
CSS = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; background: #fff;
       max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: .8rem 0; font-size: 13px; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #e4e7eb; text-align: right;
         font-variant-numeric: tabular-nums; }
th { border-bottom: 2px solid #9aa5b1; vertical-align: bottom; }
th:first-child, td:first-child, .words { text-align: left; }
td:first-child { font-weight: 600; }
td:not(.words) { white-space: nowrap; }
.wide { overflow-x: auto; }
figure { margin: 1rem 0; } figcaption { color: #66727f; font-size: 13px; max-width: 800px; }
.panels { display: flex; flex-wrap: wrap; gap: .6rem; overflow-x: auto; }
.legend span { margin-right: 1.2rem; font-size: 13px; }
.legend svg { vertical-align: middle; margin-right: .35rem; }
details { margin: .4rem 0; } summary { cursor: pointer; }
.passage { border-left: 3px solid #cbd2d9; padding: .1rem .9rem; margin: 1rem 0; }
.passage h3 { font-size: 14px; margin: .3rem 0; }
.passage p.text { font: 14px/1.7 ui-monospace, monospace; white-space: pre-wrap;
                  overflow-wrap: anywhere; margin: .3rem 0; }
.passage p.note { color: #66727f; font-size: 13px; margin: .3rem 0; }
del { background: #fde2e1; color: #8c2d04; } ins { background: #d8f3e3; color: #05603a; }
.gap { color: #9aa5b1; }
""".strip()
TAGS = {"deleted": ("<del>", "</del>"), "inserted": ("<ins>", "</ins>"), "same": ("", ""),
        "gap": ('<span class="gap">', "</span>"), "continuation": ("<b>", "</b>")}  # fmt: skip


def page(title: str, blocks: Sequence[Block]) -> str:
    """The whole file."""
    body = "\n".join([f"<h1>{escape(title)}</h1>", *map(_block, blocks)])
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{CSS}\n</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _block(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{escape(text)}</h2>"
        case Paragraph(text):
            return f"<p>{escape(text)}</p>"
        case Bullets(items):
            return "<ul>\n" + "\n".join(f"<li>{escape(item)}</li>" for item in items) + "\n</ul>"
        case Table():
            return _table(block)
        case Figure(drawings, caption, legend):
            panels = "\n".join(drawings)
            return (f'<figure>\n{_legend(legend)}<div class="panels">\n{panels}\n</div>\n'
                    f"<figcaption>{escape(caption)}</figcaption>\n</figure>")
        case Passage(title, pieces, note):
            text = "".join(f"{TAGS[kind][0]}{escape(said)}{TAGS[kind][1]}" for kind, said in pieces)
            return (f'<div class="passage">\n<h3>{escape(title)}</h3>\n'
                    f'<p class="text"><bdi>{text}</bdi></p>\n<p class="note">{escape(note)}</p>\n'
                    "</div>")
        case Folded(title, blocks):
            inner = "\n".join(map(_block, blocks))
            return f"<details>\n<summary>{escape(title)}</summary>\n{inner}\n</details>"
    raise TypeError(f"no block: {block!r}")


def _table(table: Table) -> str:
    columns = list(zip(*table.rows)) or [()] * len(table.header)
    kinds = [' class="words"' if any(map(_is_words, column)) else "" for column in columns]
    head = "".join(f'<th scope="col"{kind}>{escape(cell)}</th>'
                   for kind, cell in zip(kinds, table.header))  # fmt: skip
    rows = "\n".join(
        f"<tr>{''.join(f'<td{kind}>{escape(cell)}</td>' for kind, cell in zip(kinds, row))}</tr>"
        for row in table.rows
    )
    return (f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n'
            "</tbody>\n</table></div>")


def _is_words(text: str) -> bool:
    """Numbers, and what stands for a missing one, are set to the right; columns of words are not."""
    return bool(text) and not (text[0].isdigit() or text[0] in "-–")


def _legend(entries: Sequence[tuple[str, Style]]) -> str:
    if not entries:
        return ""
    said = []
    for label, style in entries:
        dash = f' stroke-dasharray="{style.dash}"' if style.dash else ""
        said.append(f'<span><svg width="26" height="8" aria-hidden="true"><line x1="0" y1="4" '
                    f'x2="26" y2="4" stroke="{style.colour}" stroke-width="3"{dash}/></svg>'
                    f"{escape(label)}</span>")
    return f'<div class="legend">{"".join(said)}</div>\n'
