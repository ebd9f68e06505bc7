"""lm-evaluation-harness's own client of completions against the server, and the tokenizer it asks
for."""

from __future__ import annotations

import json
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

from hat.inference.engine import Engine
from hat.inference.generation import generate_with
from hat.inference.sampling import Sampling
from hat.serving.tokenizing import BOS_NAME, EOT_NAME
from hat.text.ids import BOS, EOT
from tests.inference.helpers import built, hat_batch, hat_config, whole_nats
from tests.serving.serve import WORDS, serving

PAIRS = [("The cat", " sat."), ("", "naïve 日本"), ("a b", "c"), ("emoji 👍", "🏽!")]


@pytest.fixture(scope="module")
def address():
    with serving(Engine(*built(hat_config()), WORDS, max_rows=4)) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: extra [eval]")
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    return LocalCompletionsAPI(
        model="tiny", base_url=f"{address}/v1/completions", tokenizer_backend="auto", batch_size=2,
        max_retries=1,
    )  # fmt: skip


def test_the_harness_finds_the_tokenizer_and_our_likelihoods(client):
    assert client.tokenizer_backend == "remote"
    requests = [SimpleNamespace(args=pair) for pair in PAIRS]
    found = client.loglikelihood(requests, disable_tqdm=True)
    texts = [(a + b).encode() for a, b in PAIRS]
    nats = np.asarray(whole_nats(*built(hat_config()), hat_batch(texts, WORDS, 48)))
    for (context, text), its, (loglikelihood, _) in zip(PAIRS, nats, found):
        begin, end = len(context.encode()), len((context + text).encode())
        # fp32 sums in another order, of a few nats a byte
        assert loglikelihood == pytest.approx(-float(its[begin:end].sum()), abs=1e-4)


def test_what_is_greedy_is_called_so(client):
    contexts = [f"cut {n}" for n in range(16)]
    made = generate_with(
        *built(hat_config()), WORDS, [context.encode() for context in contexts], num_bytes=1,
        sampling=Sampling(temperature=0.0),
    )  # fmt: skip
    # Of a random model, half of the likeliest bytes are characters.
    context, byte = next((c, m.text[0]) for c, m in zip(contexts, made) if m.text[0] < 128)
    pairs = [(context, chr(byte)), (context, chr(byte ^ 1))]
    found = client.loglikelihood([SimpleNamespace(args=pair) for pair in pairs], disable_tqdm=True)
    assert [greedy for _, greedy in found] == [True, False]


def test_the_harness_generates_what_we_do(client):
    options = {"until": ["\n\n"], "max_gen_toks": 12, "temperature": 0.0}
    request = SimpleNamespace(args=("The cat", options), doc={}, task_name="none")
    (text,) = client.generate_until([request], disable_tqdm=True)
    (made,) = generate_with(
        *built(hat_config()), WORDS, [b"The cat"], num_bytes=12, sampling=Sampling(temperature=0.0)
    )  # fmt: skip
    assert text == made.text.decode("utf-8", "replace")


def test_texts_as_ids_and_back(address):
    def post(route, body):
        return httpx.post(f"{address}/{route}", content=json.dumps(body))

    info = httpx.get(f"{address}/tokenizer_info").json()
    assert (info["bos_token"], info["eos_token"], info["vocab_size"]) == (BOS_NAME, EOT_NAME, 256)
    text = f"naïve{BOS_NAME} 世"  # no special inside a text
    ids = list(text.encode())
    assert post("tokenize", {"prompt": text}).json()["tokens"] == [BOS, *ids]
    bare = post("tokenize", {"prompt": text, "add_special_tokens": False}).json()
    assert bare["tokens"] == ids and bare["count"] == len(ids)
    for name, special in ((BOS_NAME, BOS), (EOT_NAME, EOT)):
        body = {"prompt": name, "add_special_tokens": False}
        assert post("tokenize", body).json()["tokens"] == [special]
    assert post("detokenize", {"tokens": [BOS, *ids, EOT]}).json() == {"prompt": text}
    for route, body, words in (
        ("tokenize", {"prompt": 3}, "'prompt', a text"),
        ("tokenize", [], "'prompt', a text"),
        ("tokenize", {"prompt": "\ud800"}, "lone surrogate"),
        ("detokenize", {"tokens": "x"}, "'tokens', a list"),
        ("detokenize", {"tokens": [True]}, "ids from 0"),
        ("detokenize", {"tokens": [10**9]}, "ids from 0"),
    ):
        answer = post(route, body)
        assert answer.status_code == 400 and words in answer.json()["error"]["message"]
    answer = post("tokenize", {"prompt": "x" * 70_000})
    assert answer.status_code == 413 and "longer than the 65536" in answer.text


def test_a_prompt_may_name_bos(address):
    """It is echoed as a token of no probability; what follows is the same."""
    body = dict(model="tiny", max_tokens=2, temperature=0, logprobs=1, echo=True)
    (named, bare) = (
        httpx.post(f"{address}/v1/completions", json={**body, "prompt": ids}).json()["choices"][0]
        for ids in ([BOS, 99, 117], [99, 117])
    )
    assert named["text"] == bare["text"]
    assert named["logprobs"]["token_logprobs"][0] is None
    for name in ("tokens", "text_offset"):
        assert named["logprobs"][name][1:] == bare["logprobs"][name]
    values = [choice["logprobs"]["token_logprobs"][-4:] for choice in (named, bare)]
    assert values[0] == pytest.approx(values[1], abs=1e-4)  # rows beside it change rounding
    alone = httpx.post(f"{address}/v1/completions", json={**body, "prompt": [BOS]}).json()
    assert alone["choices"][0]["logprobs"]["tokens"][0] == ""
