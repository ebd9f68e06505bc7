"""What the same sentences cost in different languages, under a splitter or a tokenizer.

Cost is counted three ways over parallel text: bytes, which the encoder and the decoder of a HAT
read one by one; words between white space, which is the text's own unit; and positions, the steps
of the backbone: words of a splitter, tokens of a tokenizer. A premium is the cost of a language
over that of a reference language (Petrov et al., arXiv 2305.15425), as a ratio of sums.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hat.errors import UserError
from hat.text.splitters import Splitter
from hat.text.tokenizers import Tokenizer

_FILE = re.compile(r"([a-z]{3}_[A-Z][a-z]{3})(\..+)?")
COSTS = ("byte", "word", "position")


@dataclasses.dataclass(frozen=True)
class Language:
    """Sums over all sentences. longest: bytes of the longest position."""

    name: str  # such as deu_Latn
    bytes: int
    words: int
    positions: int
    longest: int
    premiums: dict[str, float]  # by COSTS; 1.0 for the reference
    bytes_per_position: float  # the compression of the rule


@dataclasses.dataclass(frozen=True)
class Dispersion:
    """How unequal the premiums of the languages are. All equal: 1, 0 and 0."""

    max_over_min: float
    log_deviation: float  # standard deviation of the natural logarithms
    gini: float


@dataclasses.dataclass(frozen=True)
class Fairness:
    """One rule over all languages. scripts: geometric mean of the premiums of a script's
    languages, by script and by COSTS."""

    languages: list[Language]
    scripts: dict[str, dict[str, float]]
    dispersion: dict[str, Dispersion]  # by COSTS


def read_parallel(folder: Path) -> dict[str, list[bytes]]:
    """The sentences of every language, from files such as eng_Latn.dev with one sentence a line,
    line i of one being line i of any other (as in FLORES-200). Other files are left alone.

    UserError: no such folder, fewer than two languages, two files of one language, a file that is
    empty or not UTF-8, unequal numbers of lines.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if _FILE.fullmatch(path.name))
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from None
    texts: dict[str, list[bytes]] = {}
    for path in paths:
        language = _FILE.fullmatch(path.name)[1]
        if language in texts:
            raise UserError(f"{folder} holds two files of {language}; keep one in the folder")
        texts[language] = _read_lines(path)
    if len(texts) < 2:
        raise UserError(
            f"{folder} holds {len(texts)} languages; give a folder of files like eng_Latn.dev"
        )
    (first, lines), *others = texts.items()
    for language, other in others:
        if len(other) != len(lines):
            raise UserError(
                f"{folder}: {language} has {len(other)} lines and {first} {len(lines)}; parallel "
                "text has one sentence a line, as many in every file"
            )
    return texts


def measure(
    rule: Splitter | Tokenizer, texts: Mapping[str, Sequence[bytes]], reference: str
) -> Fairness:
    """Counts every language under a splitter or tokenizer. UserError: no such reference."""
    if reference not in texts:
        raise UserError(f"no language {reference!r}; choose from {', '.join(texts)}")
    counts = {language: _count(rule, lines) for language, lines in texts.items()}
    base = counts[reference]
    languages = []
    for name, (num_bytes, words, positions, longest) in counts.items():
        costs = zip(COSTS, (num_bytes, words, positions), base)
        premiums = {cost: own / its for cost, own, its in costs}
        languages.append(
            Language(name, num_bytes, words, positions, longest, premiums, num_bytes / positions)
        )
    scripts = {script: [x for x in languages if x.name.endswith(script)]
               for script in sorted({language.name[-4:] for language in languages})}
    return Fairness(
        languages,
        {script: {cost: _geometric_mean([x.premiums[cost] for x in members]) for cost in COSTS}
         for script, members in scripts.items()},
        {cost: dispersion([x.premiums[cost] for x in languages]) for cost in COSTS},
    )  # fmt: skip


def dispersion(values: Sequence[float]) -> Dispersion:
    """Of positive numbers, one for each language."""
    values = np.sort(np.asarray(values, np.float64))
    n = len(values)
    # The mean difference of all pairs over twice the mean, from the order of the values.
    gini = float(np.dot(2 * np.arange(1, n + 1) - n - 1, values) / (n * values.sum()))
    return Dispersion(float(values[-1] / values[0]), float(np.std(np.log(values))), gini)


def _count(rule: Splitter | Tokenizer, lines: Sequence[bytes]) -> tuple[int, int, int, int]:
    """Bytes, words between white space, positions, and bytes of the longest position."""
    positions = longest = 0
    for line in lines:
        if isinstance(rule, Tokenizer):
            lengths = rule.byte_lengths[rule.encode(line)]
        else:
            starts = rule.split(np.frombuffer(line, np.uint8)).starts
            lengths = np.diff(np.append(np.flatnonzero(starts), len(line)))
        positions += len(lengths)
        longest = max(longest, int(lengths.max(initial=0)))
    return sum(map(len, lines)), sum(len(x.decode().split()) for x in lines), positions, longest


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def _read_lines(path: Path) -> list[bytes]:
    try:
        data = path.read_bytes()
        data.decode()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); convert the file") from None
    if not data.strip():
        raise UserError(f"{path} holds no text; give sentences, or remove the file")
    lines = data.removesuffix(b"\n").split(b"\n")
    return [line.removesuffix(b"\r") for line in lines]
