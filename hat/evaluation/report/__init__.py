"""Reports that people want to read, from stored results alone: no model, no network.

    for name, text in render(results).items(): ...   # report.html, report.md, results.json

The same results give the same bytes. `content` says what a report holds, as blocks that `html` and
`markdown` write down; `svg` draws.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hat.errors import UserError
from hat.evaluation.report import content, html, markdown
from hat.evaluation.results import Results, to_json


def render(results: Results | None, fairness: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The files of a report, by name: report.html, report.md and, with results, results.json.

    fairness: what `hat evaluate fairness --json` prints, for a section on languages. One of the
    two is enough.
    """
    blocks = [] if results is None else content.robustness(results)
    blocks += [] if fairness is None else content.fairness(fairness)
    title = content.TITLE
    if results is None:
        title, blocks = content.FAIRNESS_TITLE, blocks[1:]  # its heading
    files = {"report.html": html.page(title, blocks), "report.md": markdown.page(title, blocks)}
    return files if results is None else files | {"results.json": to_json(results)}


def read_fairness(path: Path) -> dict[str, Any]:
    """What `hat evaluate fairness --json` printed into a file. UserError: it holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        # The last look at every field, so that a file that is cut short is one line, not a trace.
        html.page("", content.fairness(found))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise UserError(
            f"{path} holds no costs of languages; give the output of hat evaluate fairness --json"
        ) from None
    return found
