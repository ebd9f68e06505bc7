"""What the same sentences cost in different languages, under splitters and tokenizers.

The folder of --parallel holds a file for each language, such as eng_Latn.dev and deu_Latn.dev,
with one sentence a line, the same in every file, as FLORES-200 has it. Words stand between white
space; positions are the steps of a model's backbone: the words of a splitter, the tokens of a
tokenizer. A premium is a language's cost over that of the reference; brackets hold its 95 %
interval, from resampled sentences. hat evaluate report --fairness draws what --json prints.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hat.errors import UserError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer.table")
SUFFIXES = (".json", ".model")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rules", metavar="RULE", nargs="+",
                        help='a splitter ("words", "spacebyte", "stride:8"), "bytes", a tokenizer '
                        "file, or the output folder of hat train")
    parser.add_argument("--parallel", metavar="DIR", type=Path, required=True,
                        help="parallel text: files LANG_Script.dev")
    parser.add_argument("--reference", metavar="LANG", default="eng_Latn",
                        help="the language whose premium is 1 (default: eng_Latn)")


def run(arguments: argparse.Namespace) -> dict:
    from hat.evaluation.fairness import measure, read_parallel
    from hat.evaluation.results import plain

    rules = {name: load_rule(name) for name in arguments.rules}
    texts = read_parallel(arguments.parallel)
    results = {}
    for name, rule in rules.items():
        fairness = measure(rule, texts, arguments.reference)
        print(f"{name}\n{table(fairness)}\n")
        results[name] = {"rule": rule.name, **plain(fairness)}
    sentences = len(texts[arguments.reference])
    return {"reference": arguments.reference, "sentences": sentences, "rules": results}


def load_rule(name: str):
    """The splitter or tokenizer that RULE names."""
    from hat.text.splitters import make_splitter
    from hat.text.tokenizers import ByteTokenizer, load_tokenizer

    path = Path(name)
    if path.is_dir() and not any((path / file).is_file() for file in TOKENIZER_FILES):
        from hat.inference import run

        return run.load_rule(path)
    if path.exists() or path.suffix in SUFFIXES:
        return load_tokenizer(path)
    if name == "bytes":
        return ByteTokenizer()
    try:
        return make_splitter(name)
    except UserError as error:
        raise UserError(f"{name} is no file or folder, and as a splitter: {error}") from None


def table(fairness) -> str:
    """The languages by their position premium, then the scripts and the dispersion."""
    def three(values) -> str:
        return "".join(f"{f'{x.estimate:.2f} [{x.low:.2f}, {x.high:.2f}]':>22}" for x in values)

    lines = [f"{'language':<12}{'bytes':>11}{'words':>9}{'positions':>11}{'longest':>10}"
             f"{'byte x':>22}{'word x':>22}{'position x':>22}{'B/position':>22}"]
    for x in sorted(fairness.languages, key=lambda x: (x.premiums["position"].estimate, x.name)):
        lines.append(f"{x.name:<12}{x.bytes:>11,}{x.words:>9,}{x.positions:>11,}{x.longest:>8,} B"
                     + three([*x.premiums.values(), x.bytes_per_position]))
    lines.append("geometric mean of a script")
    lines += [f"{script:<53}{three(premiums.values())}"
              for script, premiums in fairness.scripts.items()]
    lines.append("dispersion of all languages")
    names = {"max_over_min": "largest / smallest", "log_deviation": "deviation of the logarithm",
             "gini": "Gini coefficient"}  # fmt: skip
    lines += [f"{name:<53}{three(getattr(d, field) for d in fairness.dispersion.values())}"
              for field, name in names.items()]
    return "\n".join(lines)
