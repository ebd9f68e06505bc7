"""`hat evaluate robustness` from end to end: two models, resumed, recomputed, refused."""

from __future__ import annotations

import json
import shutil

import pytest

from hat.cli import main
from hat.evaluation import results
from hat.evaluation.scores import read_items, read_scores
from hat.evaluation.scoring import Scorer
from tests.inference.helpers import hat_config, llama_config, write_run

COPA = [{"query": "The girl ran home, because", "choices": ["she was late.", "it rains."], "gold": 0},
        {"query": "It rained, therefore", "choices": ["streets dried.", "I got wet."], "gold": 1}]
CLOZE = [{"context": "Once upon a time there", "continuation": "was"},
         {"context": "I do not care about", "continuation": "signs"},
         {"context": "The long way round takes time", "continuation": "."}]
PLAN = ["--names", "drop", "bit-flip", "--rates", "0.1", "0.4", "--batch-size", "3"]
CELLS = 2 * (1 + 2 * 2 * 5)  # tasks x (clean + perturbations x rates x seeds)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two runs and two task files; and the report of both."""
    folder = tmp_path_factory.mktemp("robustness")
    rows = dict(row_length=64, row_words=24)
    write_run(folder / "hat", hat_config(), **rows)
    write_run(folder / "flat", llama_config(), tokenizer="bytes", **rows)
    for name, items in (("copa", COPA), ("cloze", CLOZE)):
        lines = "".join(json.dumps(item) + "\n" for item in items)
        (folder / f"{name}.jsonl").write_text(lines)
    assert main(command(folder, folder / "out")) == 0
    return folder


def command(folder, out, *more, runs=("hat", "flat"), tasks=("copa", "cloze"), plan=PLAN):
    return ["evaluate", "robustness", *(str(folder / run) for run in runs), "--tasks",
            *(str(folder / f"{task}.jsonl") for task in tasks), "--out", str(out), *plan, *more]


def test_the_results_of_two_models(files):
    found = results.read(files / "out" / "results.json")
    assert [(m.name, m.kind) for m in found.models] == [("hat", "hat"), ("flat", "bytes")]
    assert [(t.name, t.kind, t.items) for t in found.tasks] == [
        ("copa", "choices", 2), ("cloze", "continuation", 3)]
    assert (found.rates, found.seeds) == ((0.1, 0.4), 5)
    assert len(found.cells) == 2 * 3 * (1 + 2 * 2)  # models x (tasks and all tasks) x places
    for cell in found.cells:
        assert ("noise_cost" in cell.metrics) == (cell.rate > 0)
        if cell.rate > 0:
            assert cell.metrics["noise_cost"].estimate != 0
            assert 0 < cell.metrics["edit_rate"].estimate < 0.5
    steps = {(c.model, c.perturbation, c.rate): c.metrics["position_ratio"].estimate
             for c in found.cells if c.task == results.ALL_TASKS and c.perturbation}  # fmt: skip
    assert steps["flat", "bit-flip", 0.4] == 1  # as many bytes
    assert steps["flat", "drop", 0.4] < steps["flat", "drop", 0.1] < 1
    assert steps["hat", "drop", 0.4] < 1  # spaces go, and words with them
    assert {c.metric for c in found.comparisons} == {
        "noise_cost", "bits_per_byte", "accuracy", "likeliest"}
    for run in ("hat", "flat"):
        assert len(read_scores(files / "out" / "scores" / f"{run}.jsonl").cells) == CELLS


def test_a_score_is_that_of_the_text_that_the_report_shows(files):
    """An example of the report, scored again by itself."""
    from hat.evaluation.edits import Edit, Perturbed
    from hat.inference.run import load_run

    scorer = Scorer.of_run(load_run(files / "flat"), batch_size=3)
    found = results.read(files / "out" / "results.json")
    example = next(e for e in found.examples if e.model == "flat")
    noised = Perturbed(example.context, tuple(Edit(*edit) for edit in example.edits))
    clean, noisy = scorer.continuations([(example.context, example.continuation),
                                         (noised.text, example.continuation)])
    # fp32 sums in another order; a continuation has at most 14 bytes of about 6 nats each.
    assert clean.nats == pytest.approx(example.clean_nats, abs=1e-4)
    assert noisy.nats == pytest.approx(example.noised_nats, abs=1e-4)


def test_what_was_stopped_goes_on(files, tmp_path, monkeypatch, capsys):
    whole = (files / "out" / "results.json").read_bytes()
    shutil.copytree(files / "out", tmp_path / "out")
    path = tmp_path / "out" / "scores" / "flat.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-7]) + lines[-7][:40])  # killed while it wrote a line
    (tmp_path / "out" / "results.json").unlink()
    scored = []
    original = Scorer.continuations

    def watched(self, pairs):
        pairs = list(pairs)
        scored.append((self.kind, len(pairs)))
        return original(self, pairs)

    monkeypatch.setattr(Scorer, "continuations", watched)
    assert main(command(files, tmp_path / "out")) == 0
    # Seven cells: five of cloze (3 texts each) and two of copa (4 each); an equal text once.
    assert [kind for kind, _ in scored] == ["bytes", "bytes"]
    assert sum(size for _, size in scored) <= 5 * 3 + 2 * 4
    assert (tmp_path / "out" / "results.json").read_bytes() == whole
    scored.clear()
    assert main(command(files, tmp_path / "out", "--json")) == 0
    assert scored == []
    out = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert out["models"] == ["hat", "flat"] and out["items"] == {"copa": 2, "cloze": 3}
    assert len(out["curves"]) == 2 * 3 * 2


def test_results_without_the_models(files, tmp_path, capsys):
    argv = ["evaluate", "robustness", "--from-scores", str(files / "out"), "--out", str(tmp_path)]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "mean noise cost, nats/byte, all tasks" in out and "bit-flip" in out
    again = results.read(tmp_path / "results.json")
    found = results.read(files / "out" / "results.json")
    # Models come in the order of their files.
    assert sorted(again.models, key=str) == sorted(found.models, key=str)
    assert set(map(str, again.cells)) == set(map(str, found.cells))
    assert main([*argv, "--names", "drop", "--rates", "0.4"]) == 0
    less = results.read(tmp_path / "results.json")
    assert [p.name for p in less.perturbations] == ["drop"] and less.rates == (0.4,)


def test_other_items_are_refused(files, tmp_path, capsys):
    out = files / "out"
    assert main(command(files, out, "--limit", "1")) == 2
    assert one_line(capsys).count("this command has other test items (task cloze, copa), and only")
    shutil.copytree(out, tmp_path / "one")
    shutil.copytree(out, tmp_path / "two")
    (tmp_path / "two" / "scores" / "hat.jsonl").unlink()
    other = tmp_path / "two" / "scores" / "flat.jsonl"
    (copa, cloze) = (task.fingerprint for task in read_items(out / "items.jsonl"))
    other.write_text(other.read_text().replace(copa, cloze))
    argv = ["evaluate", "robustness", "--out", str(tmp_path / "out"), "--from-scores"]
    assert main([*argv, str(tmp_path / "one"), str(tmp_path / "two")]) == 2
    assert "flat.jsonl has other test items (task copa)" in one_line(capsys)
    assert main([*argv, str(tmp_path / "one"), str(out)]) == 2
    assert "two models are called" in one_line(capsys)
    assert not (tmp_path / "out").exists()


def test_jitter_moves_words_and_no_bytes(files, tmp_path, capsys):
    plan = ["--names", "jitter-split", "--rates", "0.4", "--batch-size", "3"]
    assert main(command(files, tmp_path / "out", plan=plan, tasks=("cloze",))) == 0
    found = {cell.model: cell.metrics
             for cell in results.read(tmp_path / "out" / "results.json").cells if cell.rate}
    assert found["hat"]["position_ratio"].estimate > 1.2
    assert found["hat"]["noise_cost"].estimate != 0
    assert found["flat"]["position_ratio"].estimate == 1  # as many bytes, all of them the same
    assert found["flat"]["noise_cost"].estimate == 0 == found["flat"]["edit_rate"].estimate
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "rate, of every character inside a word" in page
    capsys.readouterr()
    plan[1] = "segmentation"  # all four: the flat model has no words to merge
    assert main(command(files, tmp_path / "all", plan=plan, runs=("flat",), tasks=("cloze",))) == 2
    assert "jitter-merge is of words, and tokens have only jitter-split" in one_line(capsys)


def one_line(capsys) -> str:
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("hat: error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("change, message", [
    (["--names", "keybord"], "did you mean keyboard"),
    (["--rates", "0.1", "1.5"], "give shares above 0, at most 1"),
    (["--seeds", "4"], "give at least 5"),
    (["--names", "misspelling"], "give one with --misspellings FILE"),
    (["--tasks", "none.jsonl"], "cannot read none.jsonl"),
    (["--from-scores", "x"], "--from-scores takes no RUN"),
])
def test_a_mistake_is_one_line(files, tmp_path, capsys, change, message):
    assert main(command(files, tmp_path / "out", *change)) == 2
    assert message in one_line(capsys)
    assert not (tmp_path / "out" / "scores").exists()


def test_runs_of_one_name(files, tmp_path):
    from hat.commands.robustness import model_names

    assert model_names([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    assert model_names([tmp_path / "a" / "run", tmp_path / "b" / "run"]) == ["a-run", "b-run"]
    assert main(command(files, tmp_path / "out", runs=("hat", "hat"))) == 2
    assert main(["evaluate", "robustness", "--out", str(tmp_path / "out")]) == 2
