"""What a report says, in which order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hat.evaluation.report import figures, tables
from hat.evaluation.report.blocks import Block, Bullets, Folded, Heading, Paragraph
from hat.evaluation.report.examples import passage
from hat.evaluation.report.wording import metric, names, summary, unique
from hat.evaluation.results import ALL_TASKS, COSTS, Results

TITLE = "Robustness report"
FAIRNESS_TITLE = "Cost of languages"
# Metrics of curves that have a heat map.
DRAWN = ("mean_noise_cost", "mean_noised_text_cost", "accuracy_area")

_NOISED = (
    "the bytes that are scored are not those of the clean text, but they are the same for every "
    "model. Under noise, nats and bits are per byte of the noised continuation, on clean text per "
    "byte of the clean one; their difference therefore holds both what noise made unlikely and that "
    "it is another text of another length. It is no cost of context alone."
)
PARTS = {  # what was noised, and what that means for the numbers
    "context": "Noise is put into the context alone; the continuation is the same bytes for every "
               "model, so that models with any tokenizer or none can be compared.",
    "continuation": f"Noise is put into the continuation, after the clean context: {_NOISED}",
    "both": f"Noise is put into context and continuation: {_NOISED}",
}  # fmt: skip


def robustness(results: Results) -> list[Block]:
    """Everything in results.json."""
    blocks: list[Block] = [*_summary(results), *_measured(results)]
    blocks += [Heading("On clean text"), tables.clean(results)]
    blocks += _under_noise(results)
    blocks += _comparisons(results)
    if results.adaptations:
        blocks += [
            Heading("Another language"),
            figures.adaptation(results),
            tables.recovery(results),
            Paragraph("Reached: interpolated between the points below, at which the model was "
                      "measured. Retention: bits per byte of the first language before, over those "
                      "after all training."),
            Folded("Every point, with intervals", [tables.adaptations(results)]),
        ]  # fmt: skip
    if results.examples:
        blocks += [
            Heading("The worst examples"),
            Paragraph("Items that suffered most. Struck out: what noise took from the text; "
                      "underlined: what it put there. The continuation is in bold"
                      + (" and never changes." if results.apply_to == "context" else ".")),
            *map(passage, results.examples),
        ]  # fmt: skip
    details = [
        Folded(noise.name, [Paragraph(f"{noise.summary}."), tables.cells(results, noise.name)])
        for noise in results.perturbations
    ]
    return [*blocks, Heading("Every number"), *details, Heading("How to read it"), _guide(results)]


def fairness(found: Mapping[str, Any]) -> list[Block]:
    """What `hat evaluate fairness --json` printed."""
    details = [Folded(name, [tables.fairness(rule), tables.scripts(rule)])
               for name, rule in found["rules"].items()]
    return [
        Heading(FAIRNESS_TITLE),
        Paragraph(
            f"The same {found['sentences']:,} sentences in every language. Positions are the steps "
            "of a backbone: words of a splitter, tokens of a tokenizer. Brackets hold 95 % "
            f"intervals from resampled sentences, n = {found['sentences']:,}."
        ),
        figures.languages(found, "position"),
        tables.dispersion(found["rules"]),
        *details,
    ]


def _summary(results: Results) -> list[Block]:
    said = summary(results)
    if not said:
        said = ["Nothing is compared here: there is one model, or no items that two have in common."]
    lead = (
        "A case is a paired test on the same items, corrected for all the cases beside it (Holm) at "
        f"{100 * results.level:g} %."
    )
    return [Heading("In short"), Bullets(said), Paragraph(lead)]


def _measured(results: Results) -> list[Block]:
    remarks = list(results.notes)
    for model in results.models:
        for what, counts in (
            ("longer than the context, without their beginning", model.truncated),
            ("with a token of both context and continuation, charged to the latter",
             model.straddled),
        ):  # fmt: skip
            found = [f"{count:,} of {task}" for task, count in counts.items() if count]
            if found:
                remarks.append(f"{model.name}, clean texts {what}: {names(found)}.")
    spared = [f"{task.spared:,} of {task.name}" for task in results.tasks if task.spared]
    if spared:
        remarks.append("Noised continuations of which noise would have left nothing, and which "
                       f"were scored as they are: {names(spared)}.")
    return [
        Heading("What was measured"),
        tables.models(results),
        tables.tasks(results),
        *([Bullets(remarks)] if remarks else []),
        Folded("The perturbations", [tables.noises(results)]),
    ]


def _under_noise(results: Results) -> list[Block]:
    """Heat maps, their numbers and severity curves: of all tasks in one, then task by task."""
    blocks: list[Block] = []
    tasks = unique(c.task for c in [*results.curves, *results.cells])
    for task in sorted(tasks, key=lambda task: task != ALL_TASKS):
        cost = COSTS[results.apply_to]
        drawn = [cost] if task == ALL_TASKS else ["accuracy", "likeliest", "exact_match"]
        if task != ALL_TASKS and not any(c.task == ALL_TASKS for c in results.curves):
            drawn = [cost, *drawn]
        found: list[Block] = []
        for name, table in tables.curve_tables(results, task):
            if name in DRAWN:
                found.append(figures.heat_map(results, task, name))
            found.append(Folded(f"{metric(name).label}, with intervals", [table]))
        curves = [figures.severity(results, task, name) for name in drawn]
        found += [figure for figure in curves if figure is not None]
        if found:
            blocks += [Heading(f"Under noise: {task}"), *found]
    return blocks


def _comparisons(results: Results) -> list[Block]:
    pairs = unique((c.first, c.second, c.metric) for c in results.comparisons)
    if not pairs:
        return []
    folded = []
    for first, second, name in pairs:
        found = [c for c in results.comparisons if (c.first, c.second, c.metric) ==
                 (first, second, name)]  # fmt: skip
        title = f"{second} less {first}, {metric(name).label}"
        folded.append(Folded(title, [tables.comparisons(found, results.level)]))
    return [Heading("Model against model"), *folded]


def _guide(results: Results) -> Bullets:
    level = f"{100 * results.level:g} %"
    return Bullets([
        PARTS[results.apply_to],
        f"A number stands with its {level} interval in brackets and n, the number of items. "
        "Intervals come from resampled items; all perturbation seeds of an item go in or out "
        "together, since they are no independent observations. Rates of clean text, and rates of "
        "0 or 1, have Wilson's interval.",
        "Two models are compared on the same items. Holm's correction adjusts a p-value for all "
        f'perturbations tested together; "is better" means p below {1 - results.level:.2g} after '
        'it, "no difference shown" anything else, which is no proof that there is none.',
        "The same rate of two perturbations is not the same severity; realised edits per byte are "
        "what to compare them by.",
    ])  # fmt: skip
