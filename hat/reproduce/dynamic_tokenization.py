"""What merged tokens cost a subword model: bits per byte against positions saved.

Trains a Llama over 4,096 byte-pair tokens (configs/quickstart_bpe.py) on --text; on top of it a
hypernetwork (configs/hypernetwork.py), and two models that go on to learn with merge counts sampled
per step (configs/dynamic_adaptation.py), one with means of parts, one with the hypernetwork's rows.
Held-out text is then read at rising reductions by five: the base with means, with embeddings of last
parts and with the hypernetwork, and the two adapted ones. The table of merges is that of the training
text and is owed nothing (scope corpus); beside it, texts with tables of their own (scope example),
what those cost added. With --parallel DIR (a file a language, as FLORES-200 or UDHR have it) the same
per language.

The published shape to confirm or refute (arXiv 2411.18553): means fall off, while a hypernetwork with
sampled merges is nearly flat up to 15 to 20 % fewer positions. Half an hour on two cores or less; whatever is
finished is not repeated: the same command resumes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from hat.commands.arguments import positive_int
from hat.config import load as load_config
from hat.dynamic_tokenization.base import fit_to_base, load_base, load_hypernetwork
from hat.dynamic_tokenization.boundaries import encode
from hat.dynamic_tokenization.embeddings import KnownSpellings, RowCache, source_of, untrained
from hat.dynamic_tokenization.measure import Reader, costs, together
from hat.dynamic_tokenization.merging import largest_reduction, learn
from hat.dynamic_tokenization.objective import Dynamic
from hat.errors import UserError
from hat.inference.run import Run
from hat.reproduce.finish import finish, kept, settle
from hat.reproduce.robustness import divide, on_text, shrink, with_steps
from hat.training.experiment import Experiment
from hat.training.objectives import Openers
from hat.training.progress import warn

HELDOUT = 0.02
REDUCTIONS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25)
ARMS = {  # by name: the run that reads, and what its rows of merged tokens are
    "mean": ("base", "mean"),
    "last": ("base", "last"),
    "hypernetwork": ("base", "hypernetwork"),
    "adapted, mean": ("adapted-mean", "mean"),
    "adapted, hypernetwork": ("adapted-hypernetwork", "hypernetwork"),
}
FLAT = 0.02  # a curve that has risen by less is called flat
MOST_PARTS = 4  # base tokens of a merged one, as in the configs
AT = 0.15  # the reduction at which curves are judged


@dataclasses.dataclass(frozen=True)
class Size:
    """steps: of the base; more_steps: of the hypernetwork, and of each adaptation. pieces: of
    held-out text, and their bytes; table_bytes: of training text that the table is learned on."""

    steps: int = 3000
    more_steps: int = 400
    most_merges: int = 512
    pieces: int = 24
    piece: int = 2000
    table_bytes: int = 1_000_000


SMOKE = Size(4, 2, 32, 3, 300, 20_000)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("runs", "dynamic"),
                        help="(default: runs/dynamic)")
    parser.add_argument("--text", metavar="SOURCE", default="stdlib",
                        help="as of hat train (default: stdlib)")
    parser.add_argument("--parallel", metavar="DIR", type=Path,
                        help="a folder of parallel texts, a file a language (default: none)")
    parser.add_argument("--boundary", default="sentence",
                        help="of merging: pretoken, word, word-hyphen, sentence (default: sentence)")
    parser.add_argument("--configs", metavar="DIR", type=Path, default=Path("configs"),
                        help="the folder of the three configs (default: configs)")
    parser.add_argument("--steps", metavar="N", type=positive_int, default=Size.steps,
                        help=f"of the base (default: {Size.steps})")
    parser.add_argument("--more-steps", metavar="N", type=positive_int, default=Size.more_steps,
                        help=f"of what is built on it (default: {Size.more_steps})")
    parser.add_argument("--smoke", action="store_true", help="tiny and short: does it run at all?")


def run(arguments: argparse.Namespace) -> dict:
    """Trains, measures, and prints the curves."""
    size = Size(arguments.steps, arguments.more_steps)
    size = SMOKE if arguments.smoke else size
    out: Path = arguments.out
    names = ("text", "parallel", "boundary")
    settle(out, {name: str(getattr(arguments, name)) for name in names} | dataclasses.asdict(size))
    text = divide(arguments.text, HELDOUT, out / "text")
    train(arguments, text.train, out, size)
    pieces = cut(b"\n".join(text.heldout), size)
    example = [line["text"].encode() for line in map(json.loads, head(text.train, size.table_bytes))]

    curves = {}
    for scope in ("corpus", "example"):
        for arm in ARMS:
            name = f"{scope}-{arm.replace(', ', '-')}"
            curves.setdefault(scope, {})[arm] = kept(
                out / f"{name}.json",
                lambda: measure(arguments, out, arm, scope, pieces, example),
            )["points"]
    languages = {}
    for path in sorted(arguments.parallel.iterdir()) if arguments.parallel else []:
        languages[path.stem] = kept(
            out / f"language-{path.stem}.json", lambda: language(arguments, out, path, size)
        )
    result = {"curves": curves, "rise": rises(curves["corpus"]), "languages": languages}
    result["verdict"] = verdict(result["rise"])
    print("\n".join(table(curves, languages)))
    print(f"\n{result['verdict']}")
    return result


# --- training -----------------------------------------------------------------------------------


def train(arguments: argparse.Namespace, text: Path, out: Path, size: Size) -> None:
    """The base, the hypernetwork and the two adapted models, as runs in `out`."""
    base = load_config(arguments.configs / "quickstart_bpe.py")
    base = shrink(base) if arguments.smoke else base
    warn(f"base: {size.steps} steps")
    finish(with_steps(on_text(base, text, 0), size.steps), out / "base")
    warn(f"hypernetwork: {size.more_steps} steps")
    finish(built(arguments, "hypernetwork", text, out, size), out / "hypernetwork", openers())
    for rows in ("mean", "hypernetwork"):
        warn(f"adaptation with rows by {rows}: {size.more_steps} steps")
        experiment = built(arguments, "dynamic_adaptation", text, out, size)
        if rows == "hypernetwork":
            experiment = merging(experiment, hypernetwork=str(out / "hypernetwork"))
        finish(experiment, out / f"adapted-{rows}", openers())


def openers() -> Openers:
    return Openers(dynamic=Dynamic.open)


def built(arguments, name: str, text: Path, out: Path, size: Size) -> Experiment:
    """The config of this name on top of the base."""
    experiment = load_config(arguments.configs / f"{name}.py")
    experiment = dataclasses.replace(experiment, base=str(out / "base"))
    experiment = with_steps(on_text(experiment, text, 0), size.more_steps)
    experiment = merging(experiment, boundary=arguments.boundary, most_merges=size.most_merges)
    if arguments.smoke:
        batch = dataclasses.replace(experiment.training, batch_size=8)
        experiment = dataclasses.replace(experiment, training=batch)
    return fit_to_base(experiment)


def merging(experiment: Experiment, **changes) -> Experiment:
    objective = dataclasses.replace(experiment.training.objective, **changes)
    training = dataclasses.replace(experiment.training, objective=objective)
    return dataclasses.replace(experiment, training=training)


# --- measuring ----------------------------------------------------------------------------------


def cut(text: bytes, size: Size) -> list[bytes]:
    """Pieces of held-out text, evenly apart, that begin at lines."""
    if len(text) < 2 * size.pieces * size.piece:
        size = dataclasses.replace(size, pieces=max(1, len(text) // (2 * size.piece)))
    starts = range(0, len(text) - size.piece, len(text) // size.pieces)
    starts = [text.find(b"\n", start) + 1 for start in starts][: size.pieces]
    return [text[start : start + size.piece].decode("utf-8", "ignore").encode() for start in starts]


def head(path: Path, num_bytes: int) -> list[str]:
    """The first lines of a file, of so many bytes or one more."""
    lines, total = [], 0
    with path.open(encoding="utf-8") as file:
        for line in file:
            lines.append(line)
            total += len(line)
            if total >= num_bytes:
                break
    return lines


def opened(out: Path, arm: str) -> tuple[Run, RowCache]:
    """The run that an arm reads with, and its rows of merged tokens."""
    folder, rows = ARMS[arm]
    loaded = load_base(out / folder)
    if rows == "hypernetwork":
        predictor, _ = load_hypernetwork(out / "hypernetwork", loaded.model, loaded.tokenizer)
        known = KnownSpellings(loaded.tokenizer)
    else:
        predictor, known = untrained(rows, loaded.tokenizer)
    return loaded, RowCache(predictor, source_of(loaded.model, loaded.params), known)


def measure(arguments, out: Path, arm: str, scope: str, pieces, example) -> dict:
    """Bits per byte of the pieces at every reduction that is reached."""
    loaded, rows = opened(out, arm)
    base, its = loaded.model.config.num_ids, loaded.tokenizer
    how = dict(boundary=arguments.boundary, most_parts=MOST_PARTS, scope=scope)
    if scope == "corpus":
        encoded = [encode(text, its, arguments.boundary) for text in example]
        how["table"] = learn(
            encoded, base, most_parts=MOST_PARTS, reduction=max(REDUCTIONS), least_count=2
        )
    reader = Reader(pieces, its, base, **how)
    return {"points": points(loaded, rows, reader, scope, REDUCTIONS)}


def points(loaded: Run, rows: RowCache, reader: Reader, scope: str, reductions) -> list[dict]:
    found = []
    for wanted in reductions:
        try:
            merged = reader.at(wanted)
        except UserError:  # some text has no more to merge
            break
        cost = together(costs(
            loaded.model, loaded.params, loaded.tokenizer, reader.texts, merged, rows, scope=scope,
            row_length=loaded.experiment.data.row_length,
        ))  # fmt: skip
        before, after = (sum(len(x) for x in its) for its in (
            [range(m.base_length) for m in merged], [m.symbols for m in merged]))  # fmt: skip
        found.append({
            "reduction": wanted, "saved": 1 - after / before,
            "merges": sum(len(m.table) for m in merged) / len(merged),
            "bits_per_byte": cost.bits_per_byte, "given_table": cost.given_table,
        })  # fmt: skip
    return found


def language(arguments: argparse.Namespace, out: Path, path: Path, size: Size) -> dict:
    """Of one text, with a table of its own: the share of positions that can be saved, and what a
    half of that costs each arm."""
    text = path.read_bytes()[: size.pieces * size.piece].decode("utf-8", "ignore").encode()
    if not text:
        raise UserError(f"--parallel {path} is empty; remove it")
    found: dict = {"arms": {}}
    for arm in ARMS:
        loaded, rows = opened(out, arm)
        reader = Reader([text], loaded.tokenizer, loaded.model.config.num_ids,
                        boundary=arguments.boundary, most_parts=MOST_PARTS)  # fmt: skip
        most = largest_reduction(reader.tables[0])
        found |= {"bytes": len(text), "largest_reduction": most}
        found["arms"][arm] = points(loaded, rows, reader, "example", (0.0, most / 2))
    return found


# --- the result ---------------------------------------------------------------------------------


def rises(curves: dict[str, list[dict]]) -> dict[str, float | None]:
    """By arm: how much higher than without merges its bits per byte are at AT saved, between two
    points by a straight line. None: not reached."""
    return {arm: rise(its) for arm, its in curves.items()}


def rise(points: list[dict]) -> float | None:
    start = points[0]["bits_per_byte"]
    for before, after in zip(points, points[1:]):
        if before["saved"] <= AT <= after["saved"]:
            share = (AT - before["saved"]) / max(after["saved"] - before["saved"], 1e-9)
            bits = before["bits_per_byte"]
            return (bits + share * (after["bits_per_byte"] - bits)) / start - 1
    return None


def verdict(rise: dict[str, float | None]) -> str:
    mean, best = rise["mean"], rise["adapted, hypernetwork"]
    if mean is None or best is None:
        return f"neither confirmed nor refuted: {AT:.0%} of the positions are not saved"
    said = ", ".join(f"{arm} {value:+.1%}" for arm, value in rise.items() if value is not None)
    shape = "confirmed" if mean > FLAT >= best else "refuted"
    return (f"bits per byte at {AT:.0%} fewer positions, against none: {said}. Published shape (means "
            f"fall off, hypernetwork with sampled merges within {FLAT:.0%}): {shape}")  # fmt: skip


def table(curves: dict, languages: dict) -> list[str]:
    lines = []
    for scope, arms in curves.items():
        lines += [f"scope {scope}" + (": the table's cost included (without it)" if
                                      scope == "example" else ""),
                  f"{'saved':>7} " + " ".join(f"{arm:>22}" for arm in arms)]  # fmt: skip
        for point in zip(*arms.values()):
            cells = [f"{p['bits_per_byte']:.4f}" + (f" ({p['given_table']:.4f})" if
                     scope == "example" else "") for p in point]  # fmt: skip
            lines.append(f"{point[0]['saved']:7.1%} " + " ".join(f"{cell:>22}" for cell in cells))
    for name, its in languages.items():
        half = {arm: points[-1]["bits_per_byte"] / points[0]["bits_per_byte"] - 1
                for arm, points in its["arms"].items()}  # fmt: skip
        lines.append(f"{name}: at most {its['largest_reduction']:.1%} saved; bits per byte at a half "
                     "of it, its table included: "
                     + ", ".join(f"{a} {v:+.1%}" for a, v in half.items()))
    return lines
