"""The items that suffered most, with their edits: what a reader should look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hat.evaluation.perturbations.core import Perturbation
from hat.evaluation.results import Example
from hat.evaluation.robustness import noised_item
from hat.evaluation.table import Table
from hat.evaluation.tasks import Task, pair


def worst_examples(
    model: str,
    tasks: Sequence[Task],
    tables: Mapping[tuple[str, str], Table],
    perturbations: Sequence[Perturbation],
    rates: Sequence[float],
    apply_to: str,
) -> list[Example]:
    """For every perturbation and task of a model, the item whose right continuation became most
    unlikely, in nats per byte, the worst first. No item comes twice for a model: the next takes
    its place. The noise is made again, from its seed."""
    found = []
    for task in tasks:
        table, used = tables[model, task.name], set()
        if not table.scored:
            continue
        clean = table.gold_nats(table.clean)
        for perturbation, blocks in zip(perturbations, table.noised):
            noised = np.stack([table.gold_nats(block) for block in blocks])  # [rates, n, seeds]
            cost = np.stack([table.cost(block) / table.gold_bytes(block) for block in blocks])
            for flat in np.argsort(-cost, axis=None, kind="stable"):
                rate, item, seed = map(int, np.unravel_index(flat, cost.shape))
                if item not in used:
                    break
            else:
                continue
            used.add(item)
            found.append((float(cost[rate, item, seed]), _example(
                model, task, item, perturbation, rates[rate], seed,
                float(clean[item, 0]), float(noised[rate, item, seed]), apply_to,
            )))  # fmt: skip
    found.sort(key=lambda entry: -entry[0])
    return [example for cost, example in found if cost > 0]


def _example(model, task, index, perturbation, rate, seed, clean, noised, apply_to) -> Example:
    item = task.items[index]
    (context, continuation) = item.pairs()[item.gold]
    under_noise = noised_item(task, item, perturbation, rate, seed, apply_to)
    edits = [tuple((edit.start, edit.end, edit.replacement) for edit in part.edits)
             for part in pair(under_noise.contexts, under_noise.continuations)[item.gold]]
    return Example(
        model, task.name, item.id, perturbation.name, rate, seed, context, edits[0], continuation,
        edits[1], clean, noised,
    )  # fmt: skip
