"""Shows what a perturbation does: the perturbed text on standard output, byte for byte, and what
it came to on standard error.

The rate is the share of units (see --list) that are edited; the realised rate is Damerau edits of
bytes over the bytes of the file, and the one to compare perturbations by.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hat.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, nargs="?", help="the text, one item")
    parser.add_argument("--name", metavar="NAME", help="the perturbation")
    parser.add_argument("--rate", metavar="R", type=float, default=0.1,
                        help="from 0 to 1 (default: 0.1)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="(default: 0)")
    parser.add_argument("--item-id", metavar="ID",
                        help="another id draws other numbers (default: the name of the file)")
    parser.add_argument("--protect", metavar="WORD", nargs="+", action="extend", default=[],
                        help="words that stay as they are, in any case")
    parser.add_argument("--misspellings", metavar="FILE", type=Path,
                        help="for --name misspelling: lines such as 'recieve->receive'")
    parser.add_argument("--show-edits", action="store_true",
                        help="list the edits on standard error")
    parser.add_argument("--list", action="store_true", help="list the perturbations")


def run(arguments: argparse.Namespace) -> dict:
    if arguments.list:
        return list_perturbations()
    if arguments.file is None or arguments.name is None:
        raise UserError("hat perturb needs a FILE and --name NAME; hat perturb --list shows names")
    from hat.evaluation.perturbations import find_words, perturb

    try:
        text = arguments.file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {arguments.file}: {error.strerror}") from None
    item_id = arguments.file.name if arguments.item_id is None else arguments.item_id
    result = perturb(text, choose(arguments), arguments.rate, arguments.seed, item_id,
                     protect=find_words(text, arguments.protect))
    sys.stdout.flush()
    sys.stdout.buffer.write(result.text)
    sys.stdout.flush()
    summary = {"name": arguments.name, "rate": arguments.rate, "seed": arguments.seed,
               "item_id": item_id, "bytes": len(text),
               "edit_distance": result.edit_distance, "edit_rate": result.edit_rate,
               "words": count_words(text), "words_after": count_words(result.text)}  # fmt: skip
    if arguments.show_edits:
        for start, end, replacement in result.edits:
            print(f"{start:>9}  {readable(text[start:end])} -> {readable(replacement)}",
                  file=sys.stderr)
    print(f"{arguments.name} at rate {arguments.rate:g}: {len(result.edits):,} edits, "
          f"{summary['edit_distance']:,} of {len(text):,} bytes ({result.edit_rate:.2%}); "
          f"{summary['words']:,} words became {summary['words_after']:,}", file=sys.stderr)
    edits = [{"start": e.start, "end": e.end, "replacement_hex": e.replacement.hex()}
             for e in result.edits]
    return summary | {"text": result.text.decode("utf-8", "replace"),
                      "text_hex": result.text.hex(), "edits": edits}


def choose(arguments: argparse.Namespace):
    """The name, or the perturbation that is made from a list."""
    from hat.evaluation.perturbations import misspellings

    if arguments.misspellings is None:
        return arguments.name
    if arguments.name != misspellings.NAME:
        raise UserError(f"--misspellings is for --name {misspellings.NAME}, not {arguments.name}")
    return misspellings.misspell(misspellings.read_misspellings(arguments.misspellings))


def count_words(text: bytes) -> int:
    """The words of HAT's word rule: the steps of a backbone."""
    import numpy as np

    from hat.text.splitters import make_splitter

    return int(make_splitter("words").split(np.frombuffer(text, np.uint8)).starts.sum())


def readable(data: bytes) -> str:
    return repr(data.decode("utf-8", "backslashreplace"))


def list_perturbations() -> dict:
    from hat.evaluation.perturbations import REGISTRY, misspellings

    known = [*REGISTRY.values(), misspellings.misspell({})]
    for family in dict.fromkeys(p.family for p in known):
        print(family)
        for p in known:
            if p.family == family:
                marks = "" if p.keeps_words else "; may change the number of words"
                marks += "" if p.valid_utf8 else "; leaves invalid UTF-8"
                print(f"  {p.name:<20} {p.summary} [each {p.unit}{marks}; {p.source}]")
    fields = ("name", "family", "unit", "summary", "source", "keeps_words", "valid_utf8")
    return {"perturbations": [{field: getattr(p, field) for field in fields} for p in known]}
