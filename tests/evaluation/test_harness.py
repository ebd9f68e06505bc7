"""lm-evaluation-harness through our adapter: the numbers of our own scoring, and no network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from hat.cli import main
from hat.data.config import DataConfig
from hat.errors import UserError
from hat.evaluation.scoring import Scorer
from hat.evaluation.tasks import read_task
from hat.inference.run import load_run
from hat.training.config import TrainingConfig
from hat.training.converted_run import write_run
from hat.training.experiment import Experiment
from tests.inference.helpers import built, llama_config, token_batch, whole_nats

ROOT = Path(__file__).resolve().parents[2]
TASKS = ROOT / "hat" / "evaluation" / "harness_tasks"
ITEMS = 3
ROW = dict(row_length=128, row_words=128)
LOGITS = jax.jit(lambda model, params, batch: model.logits(params, batch), static_argnums=0)
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
    data = DataConfig(source="stdlib", tokenizer="bytes", **ROW)
    experiment = Experiment("harness", llama_config(), data, TrainingConfig(steps=1))
    write_run(folder, experiment, built(llama_config())[1])
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
    nats = whole_nats(*built(llama_config()), token_batch(texts, 32))
    for (context, continuation), its, (loglikelihood, _) in zip(pairs, nats, found):
        begin, end = len(context.encode()), len((context + continuation).encode())
        # fp32 sums in another order, of a few nats a byte
        assert loglikelihood == pytest.approx(-float(its[begin:end].sum()), abs=1e-4)
    assert found[-1] == (0.0, True)
    rolled = model.loglikelihood_rolling(requests(*[(text.decode(),) for text in texts]))
    for text, its, loglikelihood in zip(texts, nats, rolled):
        assert loglikelihood == pytest.approx(-float(its[: len(text)].sum()), abs=1e-4)


def greedy(text: bytes, num_bytes: int) -> bytes:
    """By the definition: one byte after the other, each the likeliest after all before it."""
    model, params = built(llama_config())
    for _ in range(num_bytes):
        batch = token_batch([text], 32)
        logits = np.asarray(LOGITS(model, params, batch))[0, len(text)]  # BOS stands first
        text += bytes([int(np.argmax(logits[:256]))])
    return text


def test_greedy_generation(model):
    prompt = b"def f"
    own = greedy(prompt, 8)[len(prompt) :]
    options = {"until": [], "max_gen_toks": 2, "do_sample": False}
    [text] = model.generate_until(requests((prompt.decode(), options)))
    assert text == own.decode("utf-8", "replace")  # 2 tokens of 4 bytes
    stop = next(character for character in text if character.isascii())
    for until in (stop, ["", stop]):
        options = {"until": until, "max_gen_toks": 2}
        [cut] = model.generate_until(requests((prompt.decode(), options)))
        assert cut == text.partition(stop)[0]
    [longest] = model.generate_until(requests((prompt.decode(), {"max_gen_toks": 100})))
    assert longest == greedy(prompt, 12)[len(prompt) :].decode("utf-8", "replace")  # max_bytes
    # What follows one byte greedily, and what does not.
    pairs = [(chr(b), greedy(bytes([b]), 1)[1:].decode("latin-1")) for b in range(48, 122)]
    pairs = [(context, byte) for context, byte in pairs if byte.isascii()][:4]
    assert pairs
    said = model.loglikelihood(requests(*pairs, *((c, byte + "~~~") for c, byte in pairs)))
    assert [is_greedy for _, is_greedy in said[: len(pairs)]] == [True] * len(pairs)
    ends = [greedy(c.encode(), 4)[1:] == (byte + "~~~").encode() for c, byte in pairs]
    assert [is_greedy for _, is_greedy in said[len(pairs) :]] == ends


def test_a_task_that_samples_is_refused(model):
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
    for name in ("lm_eval", "lm_eval.api", "lm_eval.api.model"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["evaluate", "harness", str(run), "--tasks", "hat_prose"]) == 2
    assert "lm-evaluation-harness is not installed; pip install -e '.[eval]'" in capsys.readouterr().err
