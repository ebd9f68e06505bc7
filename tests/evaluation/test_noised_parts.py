"""Noise in contexts, continuations or both: what becomes of an item, and of the numbers when the
bytes that are scored are not those of the clean text."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings

from hat.cli import main
from hat.errors import UserError
from hat.evaluation import results, statistics
from hat.evaluation.perturbations import perturb
from hat.evaluation.report import render
from hat.evaluation.report.examples import passage
from hat.evaluation.robustness import check_plan, choose_perturbations, noised_item
from hat.evaluation.scores import Scores, read_scores, require_same_part
from hat.evaluation.summary import summarize
from hat.evaluation.tasks import Item, Task
from tests.evaluation import report_results
from tests.evaluation.test_summary import (
    CHOICES,
    CLOZE,
    NAMES,
    PERTURBATIONS,
    RATES,
    SCORES,
    SEEDS,
    SPOKEN,
    cell,
    gold_nats,
)
from tests.evaluation.texts import multilingual
from tests.inference.helpers import hat_config, llama_config, write_run

(DROP,) = choose_perturbations(["drop"])


# --- items --------------------------------------------------------------------------------------


def texts(parts) -> list[bytes]:
    return [part.text for part in parts]


@given(multilingual, multilingual)
@settings(max_examples=25)
def test_parts_have_numbers_of_their_own(context, continuation):
    context, continuation = context.encode(), continuation.encode()
    item = Item("1", (context,), (continuation,))
    first, second, both = (noised_item(CLOZE, item, DROP, 0.3, 5, part)
                           for part in ("context", "continuation", "both"))  # fmt: skip
    assert texts(first.continuations) == [continuation] and texts(second.contexts) == [context]
    assert (both.contexts, both.continuations) == (first.contexts, second.continuations)
    assert both.edit_distance == first.edit_distance + second.edit_distance
    assert texts(first.contexts) == [perturb(context, "drop", 0.3, 5, "cloze/1").text]
    assert noised_item(CLOZE, item, DROP, 0.3, 5) == first  # unless asked otherwise


def test_protected_words_stay():
    item = Item("1", (b"Question: where?", b"A question?"), (b" Here, question",) * 2,
                protect=("Question",))  # fmt: skip
    noised = noised_item(CLOZE, item, DROP, 1.0, 0, "both")
    assert texts(noised.contexts) == [b"Question", b"question"]
    assert texts(noised.continuations) == [b"question"] * 2


def test_a_continuation_is_never_noised_away():
    item = Item("1", (b"where",), (b" here", b" there, x"), protect=("x",))
    noised = noised_item(CLOZE, item, DROP, 1.0, 0, "both")
    assert texts(noised.contexts) == [b""]
    assert texts(noised.continuations) == [b" here", b"x"] and noised.spared == 1
    assert noised.edit_distance == len(b"where") + len(b" there, ")


def test_plans():
    bare = Task("blimp", "choices", (Item("1", (b"",), (b"a", b"b")),))
    check_plan([bare, CHOICES, CLOZE], RATES, SEEDS, "continuation")
    for plan, message in (
        (([bare], RATES, SEEDS), "blimp has no contexts"),
        (([SPOKEN], RATES, SEEDS, "both"), "the answers of task cute are generated"),
        (([CLOZE], RATES, SEEDS, "all"), "apply_to 'all' is not known; choose from context, "),
    ):
        with pytest.raises(UserError, match=message):
            check_plan(*plan)


# --- numbers ------------------------------------------------------------------------------------

TASKS = (CHOICES, CLOZE)


def with_sizes(scores: Scores, seed: int) -> Scores:
    """The same scores, of noised continuations of other lengths."""
    generator = np.random.default_rng(seed)
    cells = {
        key: dataclasses.replace(its, num_bytes=[
            [int(generator.integers(1, 30)) for _ in row] for row in its.num_bytes
        ], spared=2) if key[1] else its
        for key, its in scores.cells.items() if key[0] != "cute"
    }  # fmt: skip
    tasks = {name: its for name, its in scores.tasks.items() if name != "cute"}
    return dataclasses.replace(scores, cells=cells, tasks=tasks, apply_to="both")


NOISED = with_sizes(SCORES[0], 3)


@pytest.fixture(scope="module")
def found() -> results.Results:
    other = dataclasses.replace(with_sizes(SCORES[1], 3), model=SCORES[1].model)
    return summarize(TASKS, [NOISED, other], PERTURBATIONS, RATES, SEEDS)


def gold_bytes(scores, task, name, rate, seed) -> np.ndarray:
    rows = scores.cells[task.name, name, rate, seed].num_bytes
    return np.array([row[item.gold] for row, item in zip(rows, task.items)])


@pytest.mark.parametrize("task", TASKS)
def test_nats_are_over_the_noised_bytes(found, task):
    before = gold_nats(NOISED, task, None, 0.0, 0)
    clean = before / gold_bytes(NOISED, task, None, 0.0, 0)  # nats per byte
    for name in NAMES:
        sums, sizes = [np.zeros(len(clean))], [SEEDS * gold_bytes(NOISED, task, None, 0.0, 0)]
        for rate in RATES:
            nats, its = (np.array([of(NOISED, task, name, rate, seed) for seed in range(SEEDS)])
                         for of in (gold_nats, gold_bytes))  # fmt: skip
            change = nats / its - clean
            metric = cell(found, "first", task.name, name, rate)
            assert "noise_cost" not in metric
            # Sums of at most 60 float64 in another order.
            cost = metric["noised_text_cost"]
            assert cost.estimate == pytest.approx(np.average(change, weights=its), rel=1e-12)
            assert cost == pytest.approx(
                statistics.cluster_bootstrap((change * its).T, its.T), rel=1e-9)
            bits = nats.sum() / math.log(2) / its.sum()
            assert metric["bits_per_byte"].estimate == pytest.approx(bits, rel=1e-12)
            edits = sum(sum(NOISED.cells[task.name, name, rate, s].edit_distance)
                        for s in range(SEEDS))  # fmt: skip
            clean_bytes = sum(len(text) for item in task.items
                              for text in (*item.contexts, *item.continuations))  # fmt: skip
            assert metric["edit_rate"].estimate == pytest.approx(edits / clean_bytes / SEEDS)
            sums.append((change * its).sum(axis=0))
            sizes.append(its.sum(axis=0))
        (curve,) = [c.metrics for c in found.curves
                    if (c.model, c.task, c.perturbation) == ("first", task.name, name)]
        area = [np.trapezoid(values, [0.0, *RATES], axis=0).sum() for values in (sums, sizes)]
        assert curve["mean_noised_text_cost"].estimate == pytest.approx(area[0] / area[1])
        assert set(curve) <= set(results.CURVE_METRICS) - {"mean_noise_cost"}


def test_accuracy_per_byte_is_over_the_noised_bytes(found):
    right = total = 0
    for seed in range(SEEDS):
        its = NOISED.cells["copa", "drop", 0.4, seed]
        for nats, sizes, item in zip(its.nats, its.num_bytes, CHOICES.items):
            right += int(np.argmin(np.array(nats) / sizes)) == item.gold
            total += 1
    metric = cell(found, "first", "copa", "drop", 0.4)["accuracy_per_byte"]
    assert metric.estimate == pytest.approx(right / total)


def test_the_worst_examples_have_both_parts(found):
    examples = [e for e in found.examples if e.model == "first"]
    tasks, costs = {task.name: task for task in TASKS}, []
    for e in examples:
        task = tasks[e.task]
        index = [item.id for item in task.items].index(e.item)
        item, where = task.items[index], (e.perturbation, e.rate, e.seed)
        (noise,) = choose_perturbations([e.perturbation])
        parts = noised_item(task, item, noise, e.rate, e.seed, "both")
        assert e.edits == tuple(map(tuple, parts.contexts[0].edits))
        assert e.continuation_edits == tuple(map(tuple, parts.continuations[item.gold].edits))
        assert e.noised_nats == gold_nats(NOISED, task, *where)[index]
        assert e.clean_nats == gold_nats(NOISED, task, None, 0.0, 0)[index]
        size = gold_bytes(NOISED, task, *where)[index]
        costs.append(e.noised_nats / size - e.clean_nats / len(e.continuation))
    assert len(costs) == len(NAMES) * len(TASKS) and costs == sorted(costs, reverse=True)
    assert any(e.continuation_edits for e in examples)


def test_models_are_compared_in_it(found):
    noised = {c.metric for c in found.comparisons if c.perturbation}
    assert noised == {"noised_text_cost", "accuracy", "likeliest"}
    assert found.apply_to == "both" and results.from_json(results.to_json(found)) == found
    assert [task.spared for task in found.tasks] == [2 * len(NAMES) * len(RATES) * SEEDS] * 2


def test_other_parts_are_not_compared():
    require_same_part("both", {"a": "both"})
    with pytest.raises(UserError, match="b has noise in the context, not in context and contin"):
        require_same_part("both", {"a": "both", "b": "context"})
    with pytest.raises(UserError, match="second has noise in the context, not in context and"):
        summarize(TASKS, [NOISED, SCORES[1]], PERTURBATIONS, RATES, SEEDS)


# --- reports ------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["context", "continuation", "both"])
def test_the_report_says_what_was_noised(part):
    page = render(dataclasses.replace(report_results.results(), apply_to=part))["report.md"]
    same = "the continuation is the same bytes for every model" in page
    assert same == (part == "context") == ("never changes" in page)
    assert ("nats and bits are per byte of the noised continuation" in page) == (part != "context")
    assert ("into the continuation, after the clean context" in page) == (part == "continuation")


def test_a_passage_shows_both_parts():
    (example,) = report_results.results().examples
    example = dataclasses.replace(example, continuation_edits=((1, 3, b""),))
    shown = passage(example)
    kinds = [kind for kind, _ in shown.pieces]
    assert kinds[-3:] == ["continuation", "deleted", "continuation"]
    # 9.5 / 5 - 3 / 7 = 1.9 - 0.4286
    assert shown.note == ("the clean continuation costs 3.00 nats over 7 bytes, the noised one 9.50 "
                          "over 5: +1.471 nats/byte")


# --- the command --------------------------------------------------------------------------------


def test_the_command(tmp_path, capsys):
    rows = dict(row_length=64, row_words=24)
    write_run(tmp_path / "hat", hat_config(), **rows)
    write_run(tmp_path / "flat", llama_config(), tokenizer="bytes", **rows)
    items = [{"context": "Once upon a time there", "continuation": "was a cat"},
             {"context": "", "continuation": "I do not care about signs"}]
    tasks, out = tmp_path / "cloze.jsonl", tmp_path / "out"
    tasks.write_text("".join(json.dumps(item) + "\n" for item in items))
    plan = ["--tasks", str(tasks), "--out", str(out), "--names", "drop", "--rates", "0.4"]

    def run(model: str, *more: str) -> int:
        return main(["evaluate", "robustness", str(tmp_path / model), *plan, *more])

    assert run("flat", "--apply-to", "continuation") == 0
    path = out / "scores" / "flat.jsonl"
    stored = read_scores(path)
    assert stored.apply_to == "continuation" and len(stored.cells) == 6
    task = Task("cloze", "continuation", (
        Item("1", (b"Once upon a time there",), (b" was a cat",)),
        Item("2", (b"",), (b"I do not care about signs",)),
    ))  # fmt: skip
    for seed in range(5):
        its = stored.cells["cloze", "drop", 0.4, seed]
        noised = [noised_item(task, item, DROP, 0.4, seed, "continuation") for item in task.items]
        assert its.num_bytes == [[len(item.continuations[0].text)] for item in noised]
        assert its.edit_distance == [item.edit_distance for item in noised]
        # A flat byte model has a position for every byte: so many bytes went through it.
        assert its.positions == [[len(item.contexts[0].text + item.continuations[0].text)]
                                 for item in noised]  # fmt: skip
    found = results.read(out / "results.json")
    assert found.apply_to == "continuation"
    assert "noised text cost" in (out / "report.md").read_text(encoding="utf-8")
    assert "mean noised text cost, nats/byte" in capsys.readouterr().out

    before = path.read_bytes()
    for argv in itertools.product(("flat", "hat"), ([], ["--apply-to", "both"])):
        assert run(argv[0], *argv[1]) == 2
        assert "flat.jsonl has noise in the continuation, not in" in capsys.readouterr().err
    assert path.read_bytes() == before and not (out / "scores" / "hat.jsonl").exists()
    again = ["evaluate", "robustness", "--from-scores", str(out), "--out", str(tmp_path / "again")]
    assert main(again) == 0
    assert results.read(tmp_path / "again" / "results.json") == found
    assert main([*again, "--apply-to", "both"]) == 2
    assert "takes no RUN, --tasks, --limit or --apply-to" in capsys.readouterr().err
    plan[plan.index("drop")] = "jitter-split"
    plan[plan.index(str(out))] = str(tmp_path / "jitter")
    assert run("flat", "--apply-to", "both") == 2
    assert "jitter-split moves boundaries of the whole text" in capsys.readouterr().err
