"""Which model bears noise: HAT, subword Llama and flat byte Llama of equal training FLOPs.

Trains the three quickstart models on the same text, each until it has spent --flops; puts every
perturbation into the contexts of held-out text; and, given a text in another language (--second),
goes on training each on it, to see how fast it is learnt and how much of the first is lost.

About 36 minutes of processor time. Whatever is finished is not repeated: the same command resumes. OUT
holds models/ and adapted/ (runs of hat train), text/, measured/ (nats of held-out text during
adaptation), and what `hat evaluate robustness` writes.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hat.commands.arguments import positive_int
from hat.commands.report import write_report
from hat.commands.robustness import load, score, table
from hat.config import load as load_config
from hat.data.loader import Loader
from hat.data.records import write_file
from hat.data.sources import Skipped, Source
from hat.data.splits import plan_splits
from hat.errors import UserError
from hat.evaluation import robustness
from hat.evaluation.adaptation import Curve, bits_per_byte, cut, piece_nats
from hat.evaluation.adaptation import summarize as summarize_adaptation
from hat.evaluation.report import figures, render, svg
from hat.evaluation.results import Adaptation, Results
from hat.evaluation.scores import ITEMS_FILE, ScoreFile, Scores, items_text, score_path
from hat.evaluation.scoring import Scorer
from hat.evaluation.streams import Stream
from hat.evaluation.summary import summarize
from hat.evaluation.tasks import Item, Task
from hat.inference.run import load_run
from hat.models.flops import TRAINING_FACTOR
from hat.reproduce.finish import finish
from hat.training.config import OptimizerConfig, ScheduleConfig
from hat.training.experiment import Experiment
from hat.training.loop import prepare_corpus
from hat.training.progress import warn

MODELS = {"hat": "quickstart", "subword": "quickstart_bpe", "bytes": "quickstart_bytes"}
HELDOUT = 0.05  # of the first text; of the second twice as much, as it is shorter
CONTEXT_CHARACTERS, CONTINUATION_CHARACTERS = 96, 32
MEASURED_BYTES = 20_000  # of each held-out text, at every point of the adaptation
POINTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # of the adaptation, shares of its bytes
SAMPLED_BATCHES = 24  # whose FLOPs and bytes stand for those of all
ADAPTATION_RATE = 0.25  # of the learning rate's peak, constant


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("runs", "robustness"),
                        help="(default: runs/robustness)")
    parser.add_argument("--text", metavar="SOURCE", default="stdlib",
                        help="what the models are trained on, as of hat train (default: stdlib)")
    parser.add_argument("--second", metavar="SOURCE",
                        help="text in another language, to go on with (default: none)")
    parser.add_argument("--configs", metavar="DIR", type=Path, default=Path("configs"),
                        help="the folder of the quickstart configs (default: configs)")
    parser.add_argument("--flops", metavar="N", type=float, default=5e12,
                        help="training FLOPs of each model (default: 5e12)")
    parser.add_argument("--items", metavar="N", type=positive_int, default=40,
                        help="pieces of held-out text (default: 40)")
    parser.add_argument("--names", metavar="NAME", nargs="+", default=["all"],
                        help="perturbations (default: all of text)")
    parser.add_argument("--adapt-bytes", metavar="N", type=positive_int, default=300_000,
                        help="of the second text that each model goes on with (default: 300,000)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of training (default: 0)")
    parser.add_argument("--smoke", action="store_true",
                        help="tiny models, few steps, items and perturbations: does it run at all?")


def run(arguments: argparse.Namespace) -> dict:
    """Trains, scores, adapts, writes the results and prints the tables."""
    if arguments.smoke:
        arguments.flops, arguments.items, arguments.adapt_bytes = 4e8, 6, 4_000
        arguments.names = ["keyboard", "drop"]
    points = POINTS[-1:] if arguments.smoke else POINTS
    out: Path = arguments.out
    require_same(arguments, out)
    first = divide(arguments.text, HELDOUT, out / "text" / "first")
    task = make_task(first.heldout, arguments.items)
    spent = {}
    for name, config in MODELS.items():
        experiment = load_config(arguments.configs / f"{config}.py")
        experiment = shrink(experiment) if arguments.smoke else experiment
        experiment = on_text(experiment, first.train, arguments.seed)
        spent[name] = train_to(experiment, arguments.flops, out / "models" / name)
    found = evaluate(out, task, arguments.names)
    notes = [f"{name}: {x['flops']:.3g} training FLOPs in {x['steps']:,} steps on "
             f"{x['bytes'] / 1e6:.2f} MB of text" for name, x in spent.items()]
    if arguments.second:
        second = divide(arguments.second, 2 * HELDOUT, out / "text" / "second")
        language = Path(arguments.second).stem
        adaptations = adapt(out, first, second, arguments.adapt_bytes, points, language)
        found = dataclasses.replace(found, adaptations=adaptations)
    found = dataclasses.replace(found, notes=tuple(notes))
    files = write_report({**render(found), **pictures(found)}, out, overwrite=True)
    print("\n".join([*notes, table(found), *map(told, found.adaptations), *map(str, files)]))
    return {"files": [str(path) for path in files], "spent": spent,
            "adaptations": [dataclasses.asdict(a) for a in found.adaptations]}  # fmt: skip


def require_same(arguments: argparse.Namespace, out: Path) -> None:
    """UserError where OUT holds the same experiment with other numbers."""
    fixed = ("text", "second", "flops", "items", "adapt_bytes", "seed", "smoke")
    now = {name: getattr(arguments, name) for name in fixed}
    path = out / "arguments.json"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        for name, value in now.items():
            if before.get(name) != value:
                raise UserError(f"{out} was made with --{name.replace('_', '-')} "
                                f"{before.get(name)}, not {value}; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_file(path, (json.dumps(now, indent=1) + "\n").encode())


# --- text and items -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Divided:
    """A text, the last of its bytes held out. train: a JSONL file of documents."""

    train: Path
    heldout: list[bytes]


def divide(source: str, heldout: float, folder: Path) -> Divided:
    """The documents of a source that are UTF-8. The file is written once."""
    documents = [d.data for d in Source(source).documents(Skipped())]
    documents = [data for data in documents if _is_utf8(data)]
    plan = plan_splits([len(data) for data in documents], heldout, 0.0)
    parts: dict[str, list[bytes]] = {"train": [], "heldout": []}
    for number, data in enumerate(documents):
        for split, part in plan.divide(number, data):
            parts[split].append(part)
    for split, texts in parts.items():
        if not texts:
            raise UserError(f"{source} leaves no {split} text; give more of it")
    train_file = folder / "train.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": text.decode()}) + "\n" for text in parts["train"]]
    content = "".join(lines).encode()
    if not train_file.exists() or train_file.read_bytes() != content:
        write_file(train_file, content)
    return Divided(train_file, parts["heldout"])


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def make_task(heldout: list[bytes], count: int) -> Task:
    """Pieces of held-out text, drawn by a fixed seed: a context of at least CONTEXT_CHARACTERS up
    to white space, and a continuation of at least CONTINUATION_CHARACTERS up to the next."""
    text = b"\n\n".join(heldout).decode()
    size = CONTEXT_CHARACTERS + CONTINUATION_CHARACTERS
    places = Stream(0, "reproduce robustness").below(0, 20 * count, max(1, len(text) - 2 * size))
    items: dict[tuple[bytes, bytes], Item] = {}
    for place in places.tolist():
        start = _next_space(text, place)
        middle = _next_space(text, start + CONTEXT_CHARACTERS)
        end = _next_space(text, middle + CONTINUATION_CHARACTERS)
        context, continuation = text[start:middle].lstrip(), text[middle:end]
        letters = sum(map(str.isalnum, context))
        if end < len(text) and letters > len(context) / 2 and len(items) < count:
            pair = context.encode(), continuation.encode()
            items[pair] = Item(str(place), (pair[0],), (pair[1],))
    if len(items) < count:
        raise UserError(f"the held-out text yields only {len(items)} items of {count}; give a "
                        "longer --text, or fewer --items")
    return Task("heldout", "continuation", tuple(items.values()))


def _next_space(text: str, place: int) -> int:
    """The first white space at or after a place."""
    found = (i for i in range(place, len(text)) if text[i].isspace())
    return next(found, len(text))


# --- training -----------------------------------------------------------------------------------


def on_text(experiment: Experiment, source: Path, seed: int) -> Experiment:
    """The experiment on another text, of which nothing more is held out."""
    data = dataclasses.replace(
        experiment.data, source=str(source), heldout_fraction=0.0, validation_fraction=0.0
    )
    training = dataclasses.replace(experiment.training, seed=seed)
    return dataclasses.replace(experiment, data=data, training=training)


def with_steps(experiment: Experiment, steps: int, **changes) -> Experiment:
    training = dataclasses.replace(experiment.training, steps=steps, seconds=None, **changes)
    return dataclasses.replace(experiment, training=training)


def shrink(experiment: Experiment) -> Experiment:
    """The same kind of model, one layer deep and narrow, with a small vocabulary, short rows and
    an optimizer that compiles fast; a batch that eight devices can share."""

    def small(stack):
        return dataclasses.replace(stack, num_layers=1, hidden_size=16, intermediate_size=16)

    model = experiment.model
    data = dataclasses.replace(experiment.data, row_length=256, row_words=80)
    if data.tokenizer is None:
        connector = dataclasses.replace(model.connector, hidden_size=16)
        model = dataclasses.replace(
            model, encoder=small(model.encoder), connector=connector,
            backbone=small(model.backbone), decoder=small(model.decoder),
        )  # fmt: skip
    else:
        model = dataclasses.replace(model, stack=small(model.stack))
        if data.tokenizer != "bytes":
            model = dataclasses.replace(model, num_tokens=270)
            data = dataclasses.replace(data, tokenizer="bpe:270")
    optimizer = OptimizerConfig(learning_rate=experiment.training.optimizer.learning_rate)
    training = dataclasses.replace(experiment.training, batch_size=8, optimizer=optimizer)
    return dataclasses.replace(experiment, model=model, data=data, training=training)


def mean_step(experiment: Experiment) -> tuple[float, float]:
    """Training FLOPs and real bytes of a step, the means of the first batches."""
    corpus = prepare_corpus(experiment)
    loader = Loader(corpus, experiment.training.batch_size, experiment.training.seed)
    model = experiment.model.build()
    flops, num_bytes = [], []
    for index in range(SAMPLED_BATCHES):
        batch = loader.batch(index)
        flops.append(TRAINING_FACTOR * sum(model.batch_flops(batch).values()))
        targets = model.targets(batch)
        num_bytes.append(int(np.where(targets.mask, targets.bytes, 0).sum()))
    return float(np.mean(flops)), float(np.mean(num_bytes))


def train_to(experiment: Experiment, flops: float, folder: Path) -> dict[str, float]:
    """Trains a run until it has spent so many FLOPs; what it took."""
    each, num_bytes = mean_step(experiment)
    steps = max(1, round(flops / each))
    finish(with_steps(experiment, steps), folder)
    return {"steps": steps, "flops": steps * each, "bytes": steps * num_bytes}


# --- noise --------------------------------------------------------------------------------------


def evaluate(out: Path, task: Task, names: list[str]) -> Results:
    """Every model under every perturbation, at the five rates and five seeds."""
    perturbations = robustness.choose_perturbations(names)
    rates, seeds = robustness.RATES, 5
    write_file(out / ITEMS_FILE, items_text([task]).encode())
    all_scores = []
    for name in MODELS:
        scorer, model = load(out / "models" / name, name, batch_size=8)
        head = Scores(model, {task.name: task.fingerprint}, None, {})
        with ScoreFile(score_path(out, name), head) as file:
            score(scorer, file, [task], perturbations, rates, seeds)
            all_scores.append(file.scores)
    return summarize([task], all_scores, perturbations, rates, seeds)


# --- another language ---------------------------------------------------------------------------


def adapt(
    out: Path,
    first: Divided,
    second: Divided,
    num_bytes: int,
    points: Sequence[float],
    language: str,
) -> tuple[Adaptation, ...]:
    """Continued training of every model on the second text, and both languages at every point, a
    share of num_bytes.

    What counts as recovered is the level that all models reach: that of the worst of them at the
    end.
    """
    texts = [cut(divided.heldout, MEASURED_BYTES) for divided in (second, first)]
    sizes = [np.array(list(map(len, pieces)), np.float64) for pieces in texts]

    def measure(folder: Path) -> list[np.ndarray]:
        """float64 [n]: nats of every piece, of the second and of the first text."""
        scorer = Scorer.of_run(load_run(folder))
        return [piece_nats(scorer, pieces) for pieces in texts]

    curves = {}
    for name in MODELS:
        base, adapted = out / "models" / name, out / "adapted" / name
        experiment = adaptation(base, second.train)
        _, each = mean_step(experiment)
        steps = [0, *(max(1, round(share * num_bytes / each)) for share in points)]
        measured = []
        for its_steps in steps:
            # A run that went on is no longer what it was at this point, so points are kept.
            kept = out / "measured" / f"{name}-{its_steps}.npz"
            if not kept.exists():
                if its_steps:
                    finish(with_steps(experiment, its_steps), adapted)
                keep_arrays(kept, *measure(adapted if its_steps else base))
            with np.load(kept) as arrays:
                measured.append([arrays[key] for key in arrays.files])
        new, old = (Curve(np.stack(nats, axis=1), its) for nats, its in zip(zip(*measured), sizes))
        curves[name] = [int(n * each) for n in steps], new, old
        for trained, *bits in zip(curves[name][0], bits_per_byte(new), bits_per_byte(old)):
            warn(f"{name}: after {trained:,} bytes of {language}, bits per byte {bits[0]:.3f}, of "
                 f"the first text {bits[1]:.3f}")
    target = max(bits_per_byte(new)[-1] for _, new, _ in curves.values())
    return tuple(summarize_adaptation(name, language, *found, target)
                 for name, found in curves.items())


def keep_arrays(path: Path, *arrays: np.ndarray) -> None:
    file = io.BytesIO()
    np.savez(file, *arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, file.getvalue())


def adaptation(base: Path, source: Path) -> Experiment:
    """Going on from a run, with its tokenizer, at a constant low rate. Stops do not show in it: the
    rate does not depend on where the run ends."""
    experiment = load_run(base).experiment
    data, training = experiment.data, experiment.training
    if data.tokenizer not in (None, "bytes"):
        data = dataclasses.replace(data, tokenizer=str(base))
    optimizer = dataclasses.replace(
        training.optimizer, learning_rate=ADAPTATION_RATE * training.optimizer.learning_rate
    )
    schedule = ScheduleConfig(name="constant", warmup_fraction=0.0)
    return dataclasses.replace(
        experiment, init=str(base), data=dataclasses.replace(data, source=str(source)),
        training=dataclasses.replace(training, optimizer=optimizer, schedule=schedule),
    )  # fmt: skip


# --- pictures -----------------------------------------------------------------------------------


def pictures(found: Results) -> dict[str, str]:
    """The drawings of the report that a text about the experiment shows, by file name."""
    (task,) = found.tasks
    few = [noise for noise in found.perturbations if noise.name in robustness.NAMES]
    drawn = {
        "heat_map.svg": figures.heat_map(found, task.name, "mean_noise_cost"),
        "severity.svg": figures.severity(
            dataclasses.replace(found, perturbations=tuple(few)), task.name, "noise_cost"
        ),
        "adaptation.svg": figures.adaptation(found),
    }
    return {name: svg.sheet(name, figure.drawings, figure.legend)
            for name, figure in drawn.items() if figure}  # fmt: skip


def told(adaptation: Adaptation) -> str:
    new, first = ((x[0].estimate, x[-1].estimate) for x in (adaptation.new, adaptation.first))
    return (f"{adaptation.model}: {adaptation.language} {new[0]:.3f} -> {new[1]:.3f} bits per byte "
            f"in {adaptation.bytes[-1]:,} bytes; {adaptation.target:.3f} after "
            f"{adaptation.bytes_to_recover.estimate:,.0f}; first text {first[0]:.3f} -> "
            f"{first[1]:.3f}")
