"""Every number of the results against the definitions, computed the slow way from stored scores;
the files of scores and results; what may not be compared."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats

from hat.errors import UserError
from hat.evaluation import metrics, results, statistics
from hat.evaluation.perturbations import REGISTRY
from hat.evaluation.robustness import check_plan, choose_perturbations
from hat.evaluation.scores import (
    Cell,
    ScoredModel,
    ScoreFile,
    Scores,
    complete_plan,
    items_text,
    read_folder,
    read_items,
    read_scores,
    require_same_items,
    score_path,
)
from hat.evaluation.statistics import Interval
from hat.evaluation.summary import summarize
from hat.evaluation.tasks import Item, Task

NAMES, RATES, SEEDS = ("keyboard", "drop"), (0.1, 0.4), 5
CHOICES = Task("copa", "choices", tuple(
    Item(str(i), (b"context %d" % i,), tuple(b" choice" * (1 + c) for c in range(2 + i % 2)), i % 2)
    for i in range(12)
))  # fmt: skip
CLOZE = Task("cloze", "continuation", tuple(
    Item(str(i), (b"another context %d" % i,), (b" end" * (1 + i),)) for i in range(8)
))  # fmt: skip
SPOKEN = Task("cute", "generation", (Item("1", (b"Spell:",), (b"a b",)),
                                     Item("2", (b"Spell: x",), (b"x",), protect=("spell",))))
TASKS = (CHOICES, CLOZE, SPOKEN)


def make_scores(name: str, seed: int, luck: float = 0.0) -> Scores:
    """Random scores; luck: nats by which right continuations are better."""
    generator = np.random.default_rng(seed)
    cells = {}
    for task in TASKS:
        places = [(None, 0.0, 0), *itertools.product(NAMES, RATES, range(SEEDS))]
        for perturbation, rate, its_seed in places:
            nats = [[float(generator.gamma(9) + 4 * rate - luck * (c == item.gold))
                     for c in range(len(item.continuations))] for item in task.items]  # fmt: skip
            generated = task.kind == "generation"
            empty = [[] for _ in task.items]
            cell = Cell(
                task.name, perturbation, rate, its_seed,
                nats=empty if generated else nats,
                likeliest=empty if generated else [[x < 9 for x in row] for row in nats],
                positions=empty if generated else [[3 + (rate > 0.2)] * len(row) for row in nats],
                num_bytes=empty if generated else [
                    [len(text) for text in item.continuations] for item in task.items],
                edit_distance=[int(20 * rate) + i % 2 for i in range(len(task.items))],
                correct=[bool(generator.random() < 0.5) for _ in task.items] if generated else [],
                truncated=1, straddled=2, spared=0,
            )  # fmt: skip
            cells[cell.key] = cell
    model = ScoredModel(name, "hat", f"runs/{name}", 10, 1000)
    return Scores(model, {task.name: task.fingerprint for task in TASKS}, None, cells)


PERTURBATIONS = choose_perturbations(NAMES)
SCORES = [make_scores("first", 1, luck=3.0), make_scores("second", 2)]


@pytest.fixture(scope="module")
def found() -> results.Results:
    return summarize(TASKS, SCORES, PERTURBATIONS, RATES, SEEDS)


def cell(found, model: str, task: str, name: str | None, rate: float) -> dict:
    (one,) = [c.metrics for c in found.cells
              if (c.model, c.task, c.perturbation, c.rate) == (model, task, name, rate)]
    return one


def gold_nats(scores: Scores, task: Task, name, rate, seed) -> np.ndarray:
    nats = scores.cells[task.name, name, rate, seed].nats
    return np.array([row[item.gold] for row, item in zip(nats, task.items)])


def gold_bytes(task: Task) -> np.ndarray:
    return np.array([len(item.continuations[item.gold]) for item in task.items])


@pytest.mark.parametrize("task", [CHOICES, CLOZE])
def test_costs_are_ratios_of_sums(found, task):
    scores, sizes = SCORES[0], gold_bytes(task)
    clean = gold_nats(scores, task, None, 0.0, 0)
    for name, rate in itertools.product(NAMES, RATES):
        noised = np.array([gold_nats(scores, task, name, rate, s) for s in range(SEEDS)])
        metric = cell(found, "first", task.name, name, rate)
        expected = metrics.context_noise_cost(
            noised, np.tile(clean, (SEEDS, 1)), np.tile(sizes, (SEEDS, 1))
        )
        assert metric["noise_cost"].estimate == pytest.approx(expected, rel=1e-12)
        assert metric["noise_cost"] == pytest.approx(statistics.cluster_bootstrap(
            (noised - clean).T, np.tile(sizes, (SEEDS, 1)).T), rel=1e-9)
        bits = noised.sum() / math.log(2) / (SEEDS * sizes.sum())
        assert metric["bits_per_byte"].estimate == pytest.approx(bits)
        edits = [scores.cells[task.name, name, rate, s].edit_distance for s in range(SEEDS)]
        contexts = sum(len(item.contexts[0]) for item in task.items) * SEEDS
        assert metric["edit_rate"].estimate == pytest.approx(np.sum(edits) / contexts)
        assert metric["position_ratio"].estimate == pytest.approx(4 / 3 if rate == 0.4 else 1)
        assert metric["noise_cost"].n == len(task.items)
    metric = cell(found, "first", task.name, None, 0.0)["bits_per_byte"]
    assert metric.estimate == pytest.approx(clean.sum() / math.log(2) / sizes.sum())


def test_choices(found):
    scores, gold = SCORES[0], np.array([item.gold for item in CHOICES.items])
    sizes = [[len(c) for c in item.continuations] for item in CHOICES.items]

    def chosen(name, rate, seed, per_byte=False):
        nats = scores.cells["copa", name, rate, seed].nats
        return np.array([np.argmin(np.array(row) / (size if per_byte else 1))
                         for row, size in zip(nats, sizes)])  # fmt: skip

    def sureness(name, rate, seed):
        return [1 / np.exp(min(row) - np.array(row)).sum()
                for row in scores.cells["copa", name, rate, seed].nats]

    clean = chosen(None, 0.0, 0)
    clean_accuracy = np.mean(clean == gold)
    assert clean_accuracy > CHOICES.chance
    on_clean = cell(found, "first", "copa", None, 0.0)["accuracy"]
    assert on_clean == statistics.wilson(int((clean == gold).sum()), len(gold))
    assert on_clean.estimate == clean_accuracy
    for name, rate in itertools.product(NAMES, RATES):
        metric = cell(found, "first", "copa", name, rate)
        noised = [chosen(name, rate, s) for s in range(SEEDS)]
        accuracy = np.mean([answers == gold for answers in noised])
        assert metric["accuracy"].estimate == pytest.approx(accuracy)
        sure = np.array([sureness(name, rate, s) for s in range(SEEDS)])
        right = np.array(noised) == gold
        found_error = metric["calibration_error"]
        # Of all items and seeds together, in the order in which the summary has them.
        expected = metrics.calibration_error(sure.T.ravel(), right.T.ravel())
        assert found_error.estimate == pytest.approx(expected)
        assert 0 <= found_error.low < found_error.high <= 1 and found_error.n == len(gold)
        by_byte = np.mean([chosen(name, rate, s, True) == gold for s in range(SEEDS)])
        assert metric["accuracy_per_byte"].estimate == pytest.approx(by_byte)
        expected = metrics.robustness_score(accuracy, clean_accuracy, CHOICES.chance)
        assert metric["robustness"].estimate == pytest.approx(expected)
        same = np.mean([answers == clean for answers in noised])
        assert metric["consistency"].estimate == pytest.approx(same)
        taus, brier = [], []
        for s, (i, item) in itertools.product(range(SEEDS), enumerate(CHOICES.items)):
            before, after = (np.array(scores.cells["copa", *k].nats[i])
                             for k in ((None, 0.0, 0), (name, rate, s)))
            taus.append(stats.kendalltau(before, after).statistic)
            probabilities = metrics.choice_probabilities(-after[None])
            brier.append(metrics.brier_score(probabilities, np.array([item.gold])))
        assert metric["rank_correlation"].estimate == pytest.approx(np.mean(taus))
        assert metric["brier"].estimate == pytest.approx(np.mean(brier))
        interval = metric["accuracy"]
        assert interval.low < interval.estimate < interval.high


def test_no_robustness_score_below_chance():
    unlucky = make_scores("unlucky", 3, luck=-9.0)
    found = summarize(TASKS, [unlucky], PERTURBATIONS, RATES, SEEDS)
    assert "robustness" not in cell(found, "unlucky", "copa", "drop", 0.1)


def test_cloze_and_generation(found):
    for task, metric, field in ((CLOZE, "likeliest", "likeliest"),
                                (SPOKEN, "exact_match", "correct")):
        for name, rate in itertools.product(NAMES, RATES):
            values = [getattr(SCORES[0].cells[task.name, name, rate, s], field)
                      for s in range(SEEDS)]
            shown = cell(found, "first", task.name, name, rate)[metric]
            assert shown.estimate == pytest.approx(np.mean(values)) and shown.n == len(task.items)
    assert "noise_cost" not in cell(found, "first", "cute", "drop", 0.1)


def test_curves(found):
    grid = np.array([0.0, *RATES])
    for task in (CHOICES, CLOZE):
        sizes = gold_bytes(task)
        clean = gold_nats(SCORES[1], task, None, 0.0, 0)
        for name in NAMES:
            (curve,) = [c.metrics for c in found.curves
                        if (c.model, c.task, c.perturbation) == ("second", task.name, name)]
            costs = [np.array([gold_nats(SCORES[1], task, name, rate, s) - clean
                               for s in range(SEEDS)]) for rate in RATES]
            by_rate = [0.0, *(cost.sum() / (SEEDS * sizes.sum()) for cost in costs)]
            mean = np.trapezoid(by_rate, grid) / grid[-1]
            assert curve["mean_noise_cost"].estimate == pytest.approx(mean)
            edits = [np.array([SCORES[1].cells[task.name, name, rate, s].edit_distance
                               for s in range(SEEDS)])
                     / [len(item.contexts[0]) for item in task.items] for rate in RATES]
            slope = metrics.edit_slope(np.ravel(edits), np.ravel(np.array(costs) / sizes))
            assert curve["edit_slope"].estimate == pytest.approx(slope)
            if task is CHOICES:
                accuracy = [cell(found, "second", "copa", *at)["accuracy"].estimate
                            for at in ((None, 0.0), (name, 0.1), (name, 0.4))]
                area = metrics.severity_area(grid, np.array(accuracy))
                assert curve["accuracy_area"].estimate == pytest.approx(area)


def test_all_tasks_in_nats_are_one(found):
    pooled = cell(found, "first", results.ALL_TASKS, "drop", 0.4)
    assert set(pooled) == {"noise_cost", "bits_per_byte", "edit_rate", "position_ratio"}
    noise = sum((gold_nats(SCORES[0], task, "drop", 0.4, s) -
                 gold_nats(SCORES[0], task, None, 0.0, 0)).sum()
                for task in (CHOICES, CLOZE) for s in range(SEEDS))
    size = SEEDS * (gold_bytes(CHOICES).sum() + gold_bytes(CLOZE).sum())
    assert pooled["noise_cost"].estimate == pytest.approx(noise / size)
    assert pooled["noise_cost"].n == len(CHOICES.items) + len(CLOZE.items)


def test_comparisons_are_paired_and_adjusted(found):
    families: dict[tuple, list] = {}
    for c in found.comparisons:
        assert (c.first, c.second) == ("first", "second")
        families.setdefault((c.metric, c.rate), []).append(c)
    assert ("noise_cost", None) in families and ("bits_per_byte", 0.0) in families
    for members in families.values():
        # Holm by its definition: the k-th smallest of m is multiplied by m - k + 1.
        order, running = sorted(members, key=lambda c: c.p_value), 0.0
        for rank, c in enumerate(order):
            running = max(running, min(1.0, c.p_value * (len(members) - rank)))
            assert c.p_holm == pytest.approx(running)

    (clean,) = [c for c in found.comparisons if c.metric == "accuracy" and c.perturbation is None]
    right = [np.array([np.argmin(row) == item.gold for row, item in
                       zip(s.cells["copa", None, 0.0, 0].nats, CHOICES.items)]) for s in SCORES]
    assert clean.test == "mcnemar"
    only = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    assert clean.p_value == pytest.approx(stats.binomtest(only[0], sum(only)).pvalue)
    assert clean.difference.estimate == pytest.approx(right[1].mean() - right[0].mean())

    (noised,) = [c for c in families["noise_cost", 0.1]
                 if (c.task, c.perturbation) == ("cloze", "drop")]
    gaps = sum(sign * (gold_nats(s, CLOZE, "drop", 0.1, seed) - gold_nats(s, CLOZE, None, 0.0, 0))
               for sign, s in ((-1, SCORES[0]), (1, SCORES[1])) for seed in range(SEEDS))
    assert noised.test == "sign-flip" and noised.p_value == statistics.sign_flip(gaps)
    size = SEEDS * gold_bytes(CLOZE).sum()
    assert noised.difference.estimate == pytest.approx(gaps.sum() / size)


def test_examples_are_the_worst_items(found):
    of_first = [e for e in found.examples if e.model == "first"]
    costs = [(e.noised_nats - e.clean_nats) / len(e.continuation) for e in of_first]
    assert costs == sorted(costs, reverse=True) and min(costs) > 0
    assert len({(e.task, e.item) for e in of_first}) == len(of_first)
    cloze = [e for e in of_first if (e.task, e.perturbation) == ("cloze", NAMES[0])]
    best = max(
        (gold_nats(SCORES[0], CLOZE, NAMES[0], rate, s) - gold_nats(SCORES[0], CLOZE, None, 0.0, 0))
        / gold_bytes(CLOZE) @ np.eye(len(CLOZE.items))[i]
        for rate in RATES for s in range(SEEDS) for i in range(len(CLOZE.items))
    )  # fmt: skip
    assert (cloze[0].noised_nats - cloze[0].clean_nats) / len(cloze[0].continuation) == \
        pytest.approx(best)
    for e in of_first:
        for start, end, replacement in e.edits:
            assert e.context[start:end] != replacement


SURE = Interval(2.0, 1.5, 2.5, 7)


def test_results_survive_the_file(found, tmp_path):
    adapted = dataclasses.replace(found, notes=("x",), adaptations=(
        results.Adaptation("first", "deu", (0, 5), (SURE, SURE), (SURE, SURE), 2.1,
                           Interval(math.nan, 3.0, math.nan, 7), SURE),))
    text = results.to_json(adapted)
    (tmp_path / "results.json").write_text(text, encoding="utf-8")
    again = results.read(tmp_path / "results.json")
    # NaN is not equal to itself, so the texts are compared; and a number in the middle.
    assert results.to_json(again) == text
    assert again.cells[3] == found.cells[3] and again.comparisons[0].difference.n == 12
    assert math.isnan(again.adaptations[0].bytes_to_recover.estimate)
    assert again.adaptations[0].retention == SURE
    assert again.examples == found.examples


@pytest.mark.parametrize("change, message", [
    (lambda d: "[]", "holds no robustness results"),
    (lambda d: "{", "holds no robustness results"),
    (lambda d: json.dumps(d | {"version": 9}), "is hat-robustness version 9, and this is"),
    (lambda d: json.dumps({k: v for k, v in d.items() if k != "cells"}), "is damaged"),
    (lambda d: json.dumps(d | {"seeds": "5"}), "is damaged"),
    (lambda d: json.dumps(d | {"models": [{"name": "x"}]}), "is damaged"),
])
def test_other_files_are_no_results(found, tmp_path, change, message):
    path = tmp_path / "results.json"
    path.write_text(change(json.loads(results.to_json(found))))
    with pytest.raises(UserError, match=message):
        results.read(path)
    with pytest.raises(UserError, match="cannot read"):
        results.read(tmp_path / "none.json")


def test_scores_survive_the_file_and_a_kill(tmp_path):
    path = score_path(tmp_path, "first")
    cells = list(SCORES[0].cells.values())
    head = dataclasses.replace(SCORES[0], cells={})
    with ScoreFile(path, head) as file:
        file.add(cells[:4])
    with path.open("a") as file:
        file.write('{"task": "copa", "pertur')  # a kill while a line was written
    assert list(read_scores(path).cells.values()) == cells[:4]
    with ScoreFile(path, dataclasses.replace(head, cells={})) as file:
        assert list(file.scores.cells.values()) == cells[:4]
        file.add(cells[4:])
    assert read_folder(tmp_path) == {path: SCORES[0]}
    (tmp_path / "items.jsonl").write_text(items_text(TASKS), encoding="utf-8")
    assert read_items(tmp_path / "items.jsonl") == list(TASKS)


def test_scores_of_something_else_are_refused(tmp_path):
    path = score_path(tmp_path, "first")
    ScoreFile(path, dataclasses.replace(SCORES[0], cells={})).__exit__()
    later = dataclasses.replace(SCORES[0].model, step=20)
    for change, message in (
        ({"tasks": {"copa": "0"}}, "scores other test items"),
        ({"misspellings": "a"}, "another list of misspellings"),
        ({"apply_to": "both"}, "scores noise in the context, not in context and continuation"),
        ({"model": later}, "step 10 of runs/first, not step 20"),
    ):
        with pytest.raises(UserError, match=message):
            ScoreFile(path, dataclasses.replace(SCORES[0], **change))
    tasks = {task.name: task.fingerprint for task in TASKS}
    require_same_items(TASKS, {"a": tasks})
    with pytest.raises(UserError, match="b has other test items .task copa., and only the same"):
        require_same_items(TASKS, {"a": tasks, "b": tasks | {"copa": "0"}})
    path.write_text("{}\n")
    with pytest.raises(UserError, match="holds no hat-robustness-scores"):
        read_scores(path)
    path.write_text('{"schema": "hat-robustness-scores", "version": 7}\n')
    with pytest.raises(UserError, match="version 7, and this is"):
        read_scores(path)
    with pytest.raises(UserError, match="no scores in"):
        read_folder(tmp_path / "none")


def test_only_what_all_have_is_compared():
    keys = [key for key in SCORES[1].cells if not (key[1] == "drop" and key[3] == 4)]
    partial = dataclasses.replace(SCORES[1], cells={key: SCORES[1].cells[key] for key in keys})
    assert complete_plan(TASKS, [SCORES[0], partial]) == (["keyboard"], [0.1, 0.4], 5, ["drop"])
    with pytest.raises(UserError, match="second has no scores of copa under drop at rate 0.1, see"):
        summarize(TASKS, [partial], PERTURBATIONS, RATES, SEEDS)


def test_what_is_never_right_is_not_sure_to_be_wrong():
    """Of an answer that is always, or never, right the resampled interval would be a point."""
    never, always = (
        Scores(SCORES[0].model, SCORES[0].tasks, None, {
            key: dataclasses.replace(its, correct=[right] * len(its.correct))
            for key, its in SCORES[0].cells.items()
        })
        for right in (False, True)
    )  # fmt: skip
    for scores, right in ((never, 0), (always, 2)):
        found = summarize(TASKS, [scores], PERTURBATIONS, RATES, SEEDS)
        for name, rate in ((None, 0.0), (NAMES[0], RATES[0])):
            exact = cell(found, "first", "cute", name, rate)["exact_match"]
            assert exact == statistics.wilson(right, 2)


def test_plans():
    assert [p.name for p in choose_perturbations(["drop", "hat", "drop"])] == [
        "drop", "hat-permute", "hat-replace", "hat-delete", "hat-uppercase", "hat-editor"]
    assert [p.name for p in choose_perturbations(["all"])] == list(REGISTRY)
    with pytest.raises(UserError, match="did you mean keyboard"):
        choose_perturbations(["keybord"])
    check_plan(TASKS, RATES, SEEDS)
    bare = Task("blimp", "choices", (Item("1", (b"",), (b"a", b"b")),))
    for plan, message in (
        ((TASKS, (0.1, 1.5), 5), "shares above 0"), ((TASKS, (), 5), "shares above 0"),
        ((TASKS, (0.2, 0.1), 5), "do not rise"), ((TASKS, RATES, 4), "at least 5"),
        (([bare], RATES, 5), "blimp has no contexts"),
    ):
        with pytest.raises(UserError, match=message):
            check_plan(*plan)
