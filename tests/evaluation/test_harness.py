"""lm-evaluation-harness through our adapter: the numbers of our own scoring, and no network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hat.cli import main
from hat.data.config import DataConfig
from hat.errors import UserError
from hat.evaluation.scoring import Scorer
from hat.evaluation.tasks import read_task
from hat.inference.generation import generate_with
from hat.inference.run import load_run
from hat.inference.sampling import Sampling
from hat.training.config import TrainingConfig
from hat.training.converted_run import write_run
from hat.training.experiment import Experiment
from tests.inference.helpers import built, hat_batch, hat_config, whole_nats

ROOT = Path(__file__).resolve().parents[2]
TASKS = ROOT / "hat" / "evaluation" / "harness_tasks"
ITEMS = 3
ROW = dict(row_length=128, row_words=64)
# The command as a user starts it, in a process whose sockets reach nowhere.
COMMAND = """
import socket, sys
def refuse(self, address):
    raise OSError(f"the network is blocked: {address}")
socket.socket.connect = socket.socket.connect_ex = refuse
from hat.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    data = DataConfig(source="stdlib", **ROW)
    experiment = Experiment("harness", hat_config(), data, TrainingConfig(steps=1))
    write_run(folder, experiment, built(hat_config())[1])
    return folder


@pytest.fixture(scope="module")
def scorer(run) -> Scorer:
    return Scorer.of_run(load_run(run))


@pytest.fixture
def model(scorer):
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: extra [eval]")
    from hat.evaluation.harness import HarnessModel

    return HarnessModel(scorer, max_bytes=12)


def requests(*arguments):
    return [SimpleNamespace(args=args) for args in arguments]


def test_likelihoods_are_those_of_one_pass_over_the_text(model, scorer):
    """`whole_nats` knows neither rows nor continuations: one document, one row."""
    pairs = [("The cat", " sat."), ("", "naïve 日本"), ("a b", "c"), ("x", "")]
    found = model.loglikelihood(requests(*pairs))
    texts = [(a + b).encode() for a, b in pairs]
    nats = whole_nats(*built(hat_config()), hat_batch(texts, load_splitter(scorer), 32))
    for (context, continuation), its, (loglikelihood, _) in zip(pairs, nats, found):
        begin, end = len(context.encode()), len((context + continuation).encode())
        # fp32 sums in another order, of a few nats a byte
        assert loglikelihood == pytest.approx(-float(its[begin:end].sum()), abs=1e-4)
    assert found[-1] == (0.0, True)
    rolled = model.loglikelihood_rolling(requests(*[(text.decode(),) for text in texts]))
    for text, its, loglikelihood in zip(texts, nats, rolled):
        assert loglikelihood == pytest.approx(-float(its[: len(text)].sum()), abs=1e-4)


def load_splitter(scorer):
    from hat.text.splitters import make_splitter

    assert scorer.kind == "hat"
    return make_splitter("words")


def test_what_greedy_generation_gives_is_called_greedy(model, scorer):
    options = {"until": ["\n\n"], "max_gen_toks": 2, "do_sample": False}
    [text] = model.generate_until(requests(("def f", options)))
    params = built(hat_config())
    [own] = generate_with(
        *params, load_splitter(scorer), [b"def f"], num_bytes=8, sampling=Sampling(temperature=0)
    )
    assert text == own.text.partition(b"\n\n")[0].decode("utf-8", "replace")
    exact = own.text.decode("utf-8", "surrogateescape")
    if exact.isascii():
        other = exact[:-1] + ("a" if exact[-1] != "a" else "b")
        greedy = [g for _, g in model.loglikelihood(requests(("def f", exact), ("def f", other)))]
        assert greedy == [True, False]


def test_stops_and_limits_of_generation(model):
    [whole] = model.generate_until(requests(("def f", {"max_gen_toks": 100})))
    assert 0 < len(whole.encode("utf-8", "replace")) <= 3 * 12  # max_bytes, one U+FFFD each
    stop = whole[2]
    answers = model.generate_until(requests(
        ("def f", {"until": stop}), ("def f", {"until": [stop, ""]}), ("def f", {"until": []}),
    ))  # fmt: skip
    assert answers[0] == answers[1] == whole.partition(stop)[0]
    assert answers[2] == whole
    with pytest.raises(UserError, match="the task samples its answers"):
        model.generate_until(requests(("x", {"temperature": 0.7})))


@pytest.fixture(scope="module")
def evaluated(run, tmp_path_factory):
    """The three example tasks, by the command, without a network."""
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: extra [eval]")
    folder = tmp_path_factory.mktemp("harness")
    names = ["hat_agreement", "hat_prose", "hat_spelling"]
    words = ["evaluate", "harness", str(run), "--tasks", *names, "--limit", str(ITEMS),
             "--out", str(folder / "out.json"), "--json"]  # fmt: skip
    alone = ["unshare", "-rn"]
    permitted = subprocess.run([*alone, "true"], capture_output=True).returncode == 0
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HOME": str(folder / "hf")}
    done = subprocess.run(
        [*(alone if permitted else []), sys.executable, "-c", COMMAND, *words],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout), json.loads((folder / "out.json").read_text())


def test_the_harness_says_what_our_scoring_says(evaluated, scorer):
    printed, kept = evaluated
    task = read_task(TASKS / "agreement.jsonl")
    items = task.items[:ITEMS]
    samples = sorted(kept["samples"]["hat_agreement"], key=lambda s: s["doc_id"])
    right = []
    for item, sample in zip(items, samples, strict=True):
        own = [-score.nats for score in scorer.continuations(item.pairs())]
        theirs = [float(answer[0][0]) for answer in sample["resps"]]
        assert theirs == pytest.approx(own, abs=1e-6)
        right.append(int(np.argmax(own)) == item.gold)
    assert printed["tasks"]["hat_agreement"]["acc,none"] == pytest.approx(np.mean(right))
    assert printed["tasks"]["hat_agreement"]["n"] == ITEMS


def test_bits_per_byte_are_ours(evaluated, scorer):
    lines = (TASKS / "prose.jsonl").read_text(encoding="utf-8").splitlines()[:ITEMS]
    texts = [json.loads(line)["text"].encode() for line in lines]
    nats = sum(float(s.nats[:-1].sum(dtype=np.float64)) for s in scorer.rolling(texts))
    own = nats / np.log(2) / sum(map(len, texts))
    found = evaluated[0]["tasks"]["hat_prose"]["bits_per_byte,none"]
    assert found == pytest.approx(own, abs=1e-6)
    answers = evaluated[0]["tasks"]["hat_spelling"]
    assert any(name.startswith("exact_match") for name in answers)


@pytest.mark.parametrize("argv, message", [
    (["--include", "/nowhere"], "--include /nowhere: no such folder"),
    (["--out", "{run}/config.json"], "config.json is there already; choose another --out"),
])
def test_a_mistake_is_one_line(run, capsys, argv, message):
    argv = [word.format(run=run) for word in argv]
    assert main(["evaluate", "harness", str(run), "--tasks", "hat_prose", *argv]) == 2
    assert message in capsys.readouterr().err


def test_without_the_harness(run, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "hat.evaluation.harness", raising=False)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert main(["evaluate", "harness", str(run), "--tasks", "hat_prose"]) == 2
    assert "lm-evaluation-harness is not installed; pip install" in capsys.readouterr().err
