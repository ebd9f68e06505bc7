"""Noise in the contexts of test items, and what a model makes of them.

Unless asked otherwise, continuations and choices stay as they are, so that what is scored is the
same bytes for every model and under every noise. Noise in continuations (`apply_to`) makes other
texts of them, still the same for every model, with a number of bytes of their own. Jitter of
segmentation changes no byte at all, but where a model's words or tokens begin. An item has its own
random numbers, addressed by task and item: its noise depends on neither the model nor the other
items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from hat.errors import UserError
from hat.evaluation.edits import Perturbed
from hat.evaluation.perturbations import APPLY_TO, REGISTRY, find, find_words, perturb
from hat.evaluation.perturbations.core import Perturbation
from hat.evaluation.perturbations.segmentation import JITTERS, Jitter
from hat.evaluation.scores import Cell, Key, ScoreFile
from hat.evaluation.scoring import Score, Scorer
from hat.evaluation.statistics import FEWEST_SEEDS
from hat.evaluation.tasks import Item, Task, pair

RATES = (0.02, 0.05, 0.1, 0.2, 0.4)
# A few of every origin and of every kind of damage; all others by name, by family or by "all".
NAMES = (
    "hat-permute", "hat-replace", "hat-delete", "hat-uppercase", "drop", "repeat-blt",
    "antspeak-blt", "random-case", "keyboard", "ocr", "homoglyph", "add-diacritics",
    "merge-words", "split-words", "bit-flip",
)  # fmt: skip
Noise = Perturbation | Jitter
ANSWER_BYTES = 64  # the longest generated answer


def choose_perturbations(
    names: Sequence[str], misspelling: Perturbation | None = None
) -> list[Noise]:
    """The perturbations of these names, each once, in order. A name may be that of a family, or
    "all": those of text. misspelling: the one that is made from a list. UserError: an unknown name.
    """
    known: dict[str, Noise] = dict(REGISTRY)
    if misspelling is not None:
        known[misspelling.name] = misspelling
    everything = list(known.values())
    known.update({jitter.name: jitter for jitter in JITTERS})
    chosen: dict[str, Noise] = {}
    for name in names:
        family = everything if name == "all" else [p for p in known.values() if p.family == name]
        for p in [known[name]] if name in known else family or [find(name)]:
            chosen[p.name] = p
    return list(chosen.values())


def check_plan(
    tasks: Sequence[Task], rates: Sequence[float], seeds: int, apply_to: str = "context"
) -> None:
    """UserError: rates that do not rise within 0 to 1, too few seeds, items without context where
    that alone is noised, answers that would be noised, an unknown part."""
    if apply_to not in APPLY_TO:
        raise UserError(f"apply_to {apply_to!r} is not known; choose from {', '.join(APPLY_TO)}")
    if not rates or any(not 0 < rate <= 1 for rate in rates):
        raise UserError(f"rates {list(rates)}: give shares above 0, at most 1")
    if any(b <= a for a, b in zip(rates, rates[1:])):
        raise UserError(f"rates {list(rates)} do not rise; give each once, from low to high")
    if seeds < FEWEST_SEEDS:
        raise UserError(f"{seeds} perturbation seeds say too little about the noise; give at least "
                        f"{FEWEST_SEEDS}")
    for task in tasks:
        if task.kind == "generation" and apply_to != "context":
            raise UserError(f"the answers of task {task.name} are generated, and there is no "
                            "continuation to put noise into; leave it out, or --apply-to context")
        if apply_to == "context" and not any(any(item.contexts) for item in task.items):
            raise UserError(f"task {task.name} has no contexts to put noise into; leave it out")


class Noised(NamedTuple):
    """An item under noise: its contexts and its continuations, those that are left alone without
    edits. edit_distance: of those that noise was put into. spared: continuations that stayed clean,
    as noise would have left nothing of them to score."""

    contexts: list[Perturbed]
    continuations: list[Perturbed]
    edit_distance: int
    spared: int


def noised_item(
    task: Task,
    item: Item,
    perturbation: Noise | None,
    rate: float,
    seed: int,
    apply_to: str = "context",
) -> Noised:
    """The item under noise in the part `apply_to`; None: the item itself. Contexts of one item
    share their numbers, and so do its continuations, so that a beginning that they share is
    damaged alike; a context becomes the same whether continuations are noised too or not. Protected
    words stay."""
    if perturbation is None or isinstance(perturbation, Jitter):
        return Noised(_untouched(item.contexts), _untouched(item.continuations), 0, 0)

    def noised(texts: Sequence[bytes], item_id: str) -> list[Perturbed]:
        return [perturb(text, perturbation, rate, seed, item_id,
                        protect=find_words(text, item.protect))
                for text in texts]  # fmt: skip

    item_id, spared = f"{task.name}/{item.id}", 0
    contexts, continuations = _untouched(item.contexts), _untouched(item.continuations)
    if apply_to in ("context", "both"):
        contexts = noised(item.contexts, item_id)
    if apply_to in ("continuation", "both"):
        noisy = noised(item.continuations, f"{item_id}/continuation")
        spared = sum(not its.text for its in noisy)
        continuations = [its if its.text else clean for its, clean in zip(noisy, continuations)]
    distance = sum(its.edit_distance for its in (*contexts, *continuations))
    return Noised(contexts, continuations, distance, spared)


def _untouched(texts: Sequence[bytes]) -> list[Perturbed]:
    return [Perturbed(text, ()) for text in texts]


def cell_keys(
    tasks: Sequence[Task], perturbations: Sequence[Noise], rates: Sequence[float], seeds: int
) -> list[Key]:
    """Every cell of an evaluation; the clean text first, then by perturbation and rate."""
    return [(task.name, None, 0.0, 0) for task in tasks] + [
        (task.name, p.name, rate, seed)
        for p in perturbations for rate in rates for task in tasks for seed in range(seeds)
    ]  # fmt: skip


def score_cells(
    scorer: Scorer,
    file: ScoreFile,
    tasks: Sequence[Task],
    perturbations: Sequence[Noise],
    rates: Sequence[float],
    seeds: int,
    done: Callable[[int], object] = lambda _: None,
) -> None:
    """Scores every cell that the file does not hold, and adds it: all seeds of a rate together. The
    part of the items that is noised is the file's. done: told how many of the cells are there.
    UserError: jitter of the words of a model that has none, of generated answers, or of a part."""
    for jitter in (p for p in perturbations if isinstance(p, Jitter)):
        _check_jitter(scorer, jitter, tasks, file.scores.apply_to)
    keys = cell_keys(tasks, perturbations, rates, seeds)
    missing: dict[tuple, list[Key]] = {}
    for key in keys:
        if key not in file.scores.cells:
            missing.setdefault(key[:3], []).append(key)
    by_name = {p.name: p for p in perturbations}
    tasks_by_name = {task.name: task for task in tasks}
    count = sum(key in file.scores.cells for key in keys)
    known: dict = {}  # of one perturbation: the same text may come at many rates and seeds
    latest = None
    for (task, name, rate), its_keys in missing.items():
        if name != latest:
            known, latest = {}, name
        noise, seeds_of_it = by_name.get(name), [key[3] for key in its_keys]
        file.add(_score(scorer, tasks_by_name[task], noise, rate, seeds_of_it, known,
                        file.scores.apply_to))
        count += len(its_keys)
        done(count)


def _check_jitter(scorer: Scorer, jitter: Jitter, tasks: Sequence[Task], apply_to: str) -> None:
    """UserError: a model, a task or a part that it cannot be asked of."""
    if apply_to != "context":
        raise UserError(f"{jitter.name} moves boundaries of the whole text, whose bytes stay; leave "
                        "it out, or --apply-to")
    if scorer.kind != "hat" and jitter.mode != "split":
        raise UserError(f"{jitter.name} is of words, and tokens have only jitter-split; leave it "
                        "out, or evaluate this model by itself")
    for task in tasks:
        if task.kind == "generation":
            raise UserError(f"{jitter.name} is for items that are scored, and task {task.name} is "
                            "generated; leave one of the two out")


def _score(
    scorer: Scorer,
    task: Task,
    noise: Noise | None,
    rate: float,
    seeds: Sequence[int],
    known: dict[tuple[bytes, bytes], Score],
    apply_to: str,
) -> list[Cell]:
    """A cell for each seed, scored in one go. known: scores by pair, which it adds to."""
    noised = [[noised_item(task, item, noise, rate, seed, apply_to) for item in task.items]
              for seed in seeds]  # fmt: skip
    if isinstance(noise, Jitter):
        scored = _score_jittered(scorer, task, noise, rate, seeds)
    elif task.kind == "generation":
        scored = _generate(scorer, task, noised)
    else:
        scored = _score_continuations(scorer, noised, known)
    name = None if noise is None else noise.name
    return [
        Cell(task=task.name, perturbation=name, rate=rate, seed=seed,
             edit_distance=[its.edit_distance for its in items],
             spared=sum(its.spared for its in items), **fields)
        for seed, items, fields in zip(seeds, noised, scored)
    ]  # fmt: skip


def _score_continuations(scorer, noised: list[list[Noised]], known):
    """The fields of every cell, of items that are scored."""
    pairs = [
        [pair([its.text for its in item.contexts], [its.text for its in item.continuations])
         for item in items]
        for items in noised
    ]  # fmt: skip
    new = [p for cell in pairs for item in cell for p in item if p not in known]
    known.update(zip(new, scorer.continuations(new)))
    for cell in pairs:
        items = [[known[p] for p in item] for item in cell]
        yield {
            "nats": [[score.nats for score in item] for item in items],
            "likeliest": [[score.likeliest for score in item] for item in items],
            "positions": [[score.positions for score in item] for item in items],
            "num_bytes": [[len(continuation) for _, continuation in item] for item in cell],
            "correct": [],
            "truncated": _count(items, lambda score: score.truncated),
            "straddled": _count(items, lambda score: score.straddled),
        }


def _score_jittered(scorer, task: Task, jitter: Jitter, rate: float, seeds: Sequence[int]):
    """The fields of every cell: the same texts for every seed, read with other boundaries."""
    clean = [[noised_item(task, item, None, 0.0, 0) for item in task.items]]
    for seed in seeds:
        yield from _score_continuations(scorer.jittered(jitter.mode, rate, seed), clean, {})


def _count(items: Iterable[Iterable[Score]], test: Callable[[Score], bool]) -> int:
    return sum(test(score) for item in items for score in item)


def _generate(scorer, task: Task, noised: list[list[Noised]]):
    """The fields of every cell, of items that are generated."""
    for items in noised:
        prompts = [item.contexts[0].text for item in items]
        # A stop may differ between items; the answers are few enough to cut each by its own.
        texts = scorer.complete(prompts, ANSWER_BYTES)
        correct = [
            text.partition(item.stop)[0].strip() in [a.strip() for a in item.continuations]
            for text, item in zip(texts, task.items)
        ]
        empty = [[] for _ in task.items]
        yield {"nats": empty, "likeliest": empty, "positions": empty, "num_bytes": empty,
               "correct": correct, "truncated": 0, "straddled": 0}  # fmt: skip
