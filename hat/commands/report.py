"""Writes a report from stored results: report.html, report.md and results.json in DIR.

RESULTS is the results.json of hat evaluate robustness. The HTML is one file that needs no network,
and the same results give the same bytes. With --fairness FILE, the output of hat evaluate fairness
--json, it has a section on languages; that may also stand alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hat.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", metavar="RESULTS", type=Path, nargs="?", help="results.json")
    parser.add_argument("--fairness", metavar="FILE", type=Path,
                        help="what hat evaluate fairness --json printed")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True)
    parser.add_argument("--overwrite", action="store_true",
                        help="replace another report that lies in DIR")


def run(arguments: argparse.Namespace) -> dict:
    if arguments.results is None and arguments.fairness is None:
        raise UserError("nothing to report; give RESULTS, --fairness FILE or both")
    from hat.evaluation import results
    from hat.evaluation.report import read_fairness, render

    found = None if arguments.results is None else results.read(arguments.results)
    fairness = None if arguments.fairness is None else read_fairness(arguments.fairness)
    paths = write_report(render(found, fairness), arguments.out, overwrite=arguments.overwrite)
    for path in paths:
        print(path)
    return {"files": [str(path) for path in paths]}


def write_report(files: dict[str, str], out: Path, *, overwrite: bool = False) -> list[Path]:
    """Writes the files of `hat.evaluation.report.render`. UserError, before any is written: one is
    there with other content, unless `overwrite`."""
    from hat.data.records import write_file

    paths = {out / name: text for name, text in files.items()}
    for path, text in paths.items():
        if path.exists() and not overwrite and path.read_bytes() != text.encode():
            raise UserError(f"{path} is there already; choose another --out or add --overwrite")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"{out} is a file; choose another --out") from None
    for path, text in paths.items():
        write_file(path, text.encode())
    return list(paths)
