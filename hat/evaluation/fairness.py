"""What the same sentences cost in different languages, under a splitter or a tokenizer.

Cost is counted three ways over parallel text: bytes, which the encoder and the decoder of a HAT
read one by one; words between white space, which is the text's own unit; and positions, the steps
of the backbone: words of a splitter, tokens of a tokenizer. A premium is the cost of a language
over that of a reference language (Petrov et al., arXiv 2305.15425), as a ratio of sums.

Counts are exact, but of these sentences: the intervals are those of resampled sentences, the same
in every language, as line i of one says what line i of any other does.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hat.errors import UserError
from hat.evaluation.statistics import Interval, percentile_interval, resampled_sums
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
    premiums: dict[str, Interval]  # by COSTS; 1.0 for the reference
    bytes_per_position: Interval  # the compression of the rule


@dataclasses.dataclass(frozen=True)
class Dispersion:
    """How unequal the premiums of the languages are. All equal: 1, 0 and 0."""

    max_over_min: Interval
    log_deviation: Interval  # standard deviation of the natural logarithms
    gini: Interval


@dataclasses.dataclass(frozen=True)
class Fairness:
    """One rule over all languages. scripts: geometric mean of the premiums of a script's
    languages, by script and by COSTS. n of every interval: sentences."""

    languages: list[Language]
    scripts: dict[str, dict[str, Interval]]
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
    names = list(texts)
    counted = [_count(rule, lines) for lines in texts.values()]
    counts = np.stack([counts for counts, _ in counted], axis=1)  # [sentences, languages, 3]
    n, shape = len(counts), counts.shape[1:]
    # One estimate, then all draws: float64 [1 + draws, languages, 3].
    drawn = resampled_sums(counts.reshape(n, -1)).reshape(-1, *shape)
    sums = np.concatenate([counts.sum(axis=0)[None], drawn])
    premiums = sums / sums[:, [names.index(reference)]]

    def interval(values: np.ndarray) -> Interval:
        return percentile_interval(float(values[0]), values[1:], n)

    def by_cost(values: np.ndarray) -> dict[str, Interval]:
        """Of float64 [1 + draws, 3]."""
        return {cost: interval(column) for cost, column in zip(COSTS, values.T)}

    languages = [
        Language(name, *map(int, sums[0, i]), counted[i][1], by_cost(premiums[:, i]),
                 interval(sums[:, i, 0] / sums[:, i, 2]))
        for i, name in enumerate(names)
    ]  # fmt: skip
    scripts = {}
    for script in sorted({name[-4:] for name in names}):
        members = [i for i, name in enumerate(names) if name.endswith(script)]
        scripts[script] = by_cost(np.exp(np.log(premiums[:, members]).mean(axis=1)))
    spread = {cost: Dispersion(*map(interval, dispersion(premiums[:, :, c])))
              for c, cost in enumerate(COSTS)}  # fmt: skip
    return Fairness(languages, scripts, spread)


def dispersion(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The fields of Dispersion, each float64 [...], of positive numbers [..., languages]."""
    values = np.sort(np.asarray(values, np.float64), axis=-1)
    n = values.shape[-1]
    # The mean difference of all pairs over twice the mean, from the order of the values.
    gini = values @ (2.0 * np.arange(1, n + 1) - n - 1) / (n * values.sum(axis=-1))
    return values[..., -1] / values[..., 0], np.std(np.log(values), axis=-1), gini


def _count(rule: Splitter | Tokenizer, lines: Sequence[bytes]) -> tuple[np.ndarray, int]:
    """float64 [sentences, 3]: bytes, words between white space and positions; and the bytes of the
    longest position."""
    counts, longest = np.empty((len(lines), len(COSTS))), 0
    for i, line in enumerate(lines):
        if isinstance(rule, Tokenizer):
            lengths = rule.byte_lengths[rule.encode(line)]
        else:
            starts = rule.split(np.frombuffer(line, np.uint8)).starts
            lengths = np.diff(np.append(np.flatnonzero(starts), len(line)))
        counts[i] = len(line), len(line.decode().split()), len(lengths)
        longest = max(longest, int(lengths.max(initial=0)))
    return counts, longest


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
