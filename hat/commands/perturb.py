"""Shows what a perturbation does: the perturbed text on standard output, byte for byte, and what
it came to on standard error.

The rate is the share of units (see --list) that are edited; the realised rate is Damerau edits of
bytes over the bytes of the file, and the one to compare perturbations by. Perturbations come in
these families, all of them described by --list:

  hat            the HAT paper's: permute, replace, delete, upper-case; and eval-framework's editor
  byt5-blt       of ByT5 and BLT: drop, repeat, antspeak, upper-case, random case
  typing         slips on three keyboards, swapped and omitted letters
  lookalikes     OCR, homoglyphs, leetspeak, diacritics taken and added
  misspellings   real ones, from a list (--misspellings)
  casing, repetition, whitespace, graphemes
  styling, normal-forms   Unicode styles; NFC, NFD, NFKC, NFKD
  invalid-bytes, encoding   flipped, dropped, overlong bytes; NUL, CRLF, byte order mark, mojibake
  segmentation   word boundaries moved, the text unchanged: shown as words set apart by "|"

--traps N takes FILE for a list of words and prints a task for hat evaluate robustness: pairs of
words that run together to the same letters ("moves table", "move stable").
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hat.commands.arguments import positive_int
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
    parser.add_argument("--compat", choices=("eval-framework",),
                        help="the released form of the four of family hat, for parity: all numbers "
                        "from one generator (their seed: 42)")
    parser.add_argument("--traps", metavar="N", type=positive_int,
                        help="print up to N traps made of the words of FILE, one a line")
    parser.add_argument("--tokenizer", metavar="FILE", type=Path,
                        help="of --traps: only those whose right boundary this tokenizer loses")
    parser.add_argument("--show-edits", action="store_true",
                        help="list the edits on standard error")
    parser.add_argument("--list", action="store_true", help="list the perturbations")


def run(arguments: argparse.Namespace) -> dict:
    if arguments.list:
        return list_perturbations()
    if arguments.tokenizer is not None and arguments.traps is None:
        raise UserError("--tokenizer is of --traps N; add that, or leave it out")
    if arguments.file is None or (arguments.name is None and arguments.traps is None):
        raise UserError("hat perturb needs a FILE and --name NAME; hat perturb --list shows names")
    from hat.evaluation.perturbations import find_words, perturb

    try:
        text = arguments.file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {arguments.file}: {error.strerror}") from None
    if arguments.traps is not None:
        return print_traps(arguments, decoded(text, arguments.file))
    if arguments.compat is not None:
        return as_released(arguments, decoded(text, arguments.file))
    if (arguments.name or "").startswith("jitter-"):
        return show_words(arguments, text)
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


def decoded(text: bytes, path: Path) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); convert it") from None


def print_traps(arguments: argparse.Namespace, words: str) -> dict:
    """Items of choices: which two words were run together, told beforehand."""
    import json

    from hat.evaluation.perturbations.traps import find_traps, items

    tokenizer, drawn = None, arguments.traps
    if arguments.tokenizer is not None:
        from hat.text.tokenizers import load_tokenizer

        tokenizer, drawn = load_tokenizer(arguments.tokenizer), 20 * drawn
    traps = find_traps(words.split(), drawn, arguments.seed)
    lines = items(traps, arguments.seed, tokenizer)[: arguments.traps]
    if not lines:
        raise UserError(f"the words of {arguments.file} make no trap; give a longer list")
    for line in lines:
        print(json.dumps(line, ensure_ascii=False))
    return {"traps": lines}


def as_released(arguments: argparse.Namespace, text: str) -> dict:
    """The text as eval-framework's editor leaves it, the first of its task."""
    from hat.evaluation.perturbations.eval_framework import EvalFrameworkEditor

    if not 0 <= arguments.rate <= 1:
        raise UserError(f"rate {arguments.rate} is no share; give a number from 0 to 1")
    editor = EvalFrameworkEditor(arguments.name.removeprefix("hat-"), arguments.seed)
    edited = editor.edit(text, arguments.rate, arguments.protect)
    sys.stdout.write(edited)
    return {"name": arguments.name, "compat": arguments.compat, "rate": arguments.rate,
            "seed": arguments.seed, "text": edited}


def show_words(arguments: argparse.Namespace, text: bytes) -> dict:
    """The words of HAT's word rule with their boundaries moved."""
    import numpy as np

    from hat.evaluation.perturbations.segmentation import jitter
    from hat.text.splitters import make_splitter

    split = make_splitter("words").split(np.frombuffer(text, np.uint8))
    item_id = arguments.file.name if arguments.item_id is None else arguments.item_id
    mode = arguments.name.removeprefix("jitter-")
    moved = jitter(text, split, mode, arguments.rate, arguments.seed, item_id)
    starts = np.flatnonzero(moved.starts).tolist()
    words = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)])]
    sys.stdout.flush()
    sys.stdout.buffer.write(b"|".join(words))
    sys.stdout.flush()
    print(f"{arguments.name} at rate {arguments.rate:g}: {int(split.starts.sum()):,} words became "
          f"{len(words):,}", file=sys.stderr)
    return {"name": arguments.name, "rate": arguments.rate, "seed": arguments.seed,
            "words": int(split.starts.sum()), "words_after": len(words), "starts": starts}


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
    from hat.evaluation.perturbations.segmentation import JITTERS

    known = [*REGISTRY.values(), misspellings.misspell({}), *JITTERS]
    for family in dict.fromkeys(p.family for p in known):
        print(family)
        for p in known:
            if p.family == family:
                marks = "" if p.keeps_words else "; may change the number of words"
                marks += "" if p.valid_utf8 else "; leaves invalid UTF-8"
                print(f"  {p.name:<20} {p.summary} [each {p.unit}{marks}; {p.source}]")
    fields = ("name", "family", "unit", "summary", "source", "keeps_words", "valid_utf8")
    return {"perturbations": [{field: getattr(p, field) for field in fields} for p in known]}
