"""The server over real sockets of this machine, with the client library of OpenAI."""

from __future__ import annotations

import json
import socket
import threading
import time

import httpx
import numpy as np
import openai
import pytest

from hat.inference.engine import Engine
from hat.inference.generation import generate_with
from hat.inference.sampling import Sampling
from hat.serving.app import make_app
from hat.serving.completions import Limits
from tests.inference.helpers import built, hat_batch, hat_config, whole_nats
from tests.serving.serve import WORDS, serving

ROWS = 4
LIMITS = Limits(prompt_bytes=2_000, output_bytes=3_000, choices=32, waiting=40, seconds=60,
                body_bytes=20_000)  # fmt: skip
TOKEN = "a secret"
PROMPT = "naïve 世界: "
FIXED = dict(model="tiny", prompt=PROMPT, max_tokens=24, temperature=1.0, seed=5)


@pytest.fixture(scope="module")
def engine():
    return Engine(*built(hat_config()), WORDS, max_rows=ROWS)


@pytest.fixture(scope="module")
def address(engine):
    with serving(engine, limits=LIMITS, token=TOKEN) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    return openai.OpenAI(base_url=f"{address}/v1", api_key=TOKEN, max_retries=0)


@pytest.fixture(scope="module")
def http(address):
    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {TOKEN}"},
                      timeout=60) as http:  # fmt: skip
        yield http


def post(http, **fields):
    return http.post("/v1/completions", json={**FIXED, **fields})


def generated(samples=1, prompt=PROMPT, num_bytes=24, **options):
    return [
        result.text for result in generate_with(
            *built(hat_config()), WORDS, [prompt.encode()], num_bytes=num_bytes, samples=samples,
            sampling=Sampling(**{"temperature": 1.0, "seed": 5, **options}),
        )
    ]  # fmt: skip


def test_the_openai_client_completes_and_streams(client):
    """And the texts are those of `hat generate`."""
    expected = [text.decode("utf-8", "replace") for text in generated(samples=3)]
    whole = client.completions.create(**FIXED, n=3)
    assert [choice.text for choice in whole.choices] == expected
    assert whole.usage.prompt_tokens == len(PROMPT.encode())
    assert whole.usage.completion_tokens >= sum(map(len, generated(samples=3)))
    texts, reasons = [""] * 3, [None] * 3
    for event in client.completions.create(**FIXED, n=3, stream=True):
        for choice in event.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == expected
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "hat"


def test_streams_are_not_mixed_up(client):
    """More clients than rows, of different prompts and lengths, at the same time."""
    jobs = [(f"client {n} says", 8 + 5 * n) for n in range(3 * ROWS)]
    got = [""] * len(jobs)

    def run(n):
        prompt, size = jobs[n]
        stream = client.completions.create(
            model="tiny", prompt=prompt, max_tokens=size, seed=n, stream=True
        )
        got[n] = "".join(event.choices[0].text for event in stream)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, (prompt, size) in enumerate(jobs):
        (alone,) = generated(prompt=prompt, num_bytes=size, seed=n)
        assert got[n] == alone.decode("utf-8", "replace")


def test_stops_valid_text_and_extras(client):
    (plain,) = generated(num_bytes=200, valid_utf8=True, top_k=40)
    text = plain.decode()
    stop = text[len(text) // 2 :][:2]
    extra = {"valid_utf8": True, "top_k": 40}
    fields = {**FIXED, "max_tokens": 200}
    got = client.completions.create(**fields, extra_body=extra)
    assert got.choices[0].text == text
    for stream in (False, True):
        got = client.completions.create(**fields, stop=["never so", stop], extra_body=extra,
                                        stream=stream)  # fmt: skip
        pieces = [event.choices[0] for event in got] if stream else got.choices
        assert "".join(piece.text for piece in pieces) == text[: text.index(stop)]
        assert pieces[-1].finish_reason == "stop"


def test_logprobs_with_echo_are_those_of_teacher_forcing(http):
    """As lm-evaluation-harness asks for them. fp32 sums in another order: 1e-4."""
    prompt = "cut it 世 here"
    fields = dict(prompt=prompt, max_tokens=3, logprobs=2, echo=True, temperature=0)
    (choice,) = post(http, **fields).json()["choices"]
    data = prompt.encode()
    (text,) = generated(prompt=prompt, num_bytes=3, temperature=0)
    nats = np.asarray(whole_nats(*built(hat_config()), hat_batch([data + text], WORDS, 48)))[0]
    size, shown = len(data) + len(text), choice["logprobs"]
    np.testing.assert_allclose(shown["token_logprobs"][:size], -nats[:size], rtol=0, atol=1e-4)
    assert shown["tokens"][:4] == ["c", "u", "t", " "]
    assert shown["tokens"][7:10] == ["bytes:\\xe4", "bytes:\\xb8", "bytes:\\x96"]
    assert shown["text_offset"][:12] == [*range(8), 7, 7, 8, 9]
    assert all(len(tops) == 2 for tops in shown["top_logprobs"])
    assert shown["token_logprobs"][-1] == max(shown["top_logprobs"][-1].values())  # greedy
    assert choice["text"] == prompt + text.decode("utf-8", "replace")
    # The same from ids, in a stream, and of the prompt alone.
    fields = {**FIXED, **fields, "prompt": list(data), "stream": True}
    tokens, logprobs = [], []
    with http.stream("POST", "/v1/completions", json=fields) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                piece = json.loads(line[6:])["choices"][0]["logprobs"]
                tokens += piece["tokens"]
                logprobs += piece["token_logprobs"]
    assert tokens == shown["tokens"] and logprobs == pytest.approx(shown["token_logprobs"])
    (choice,) = post(http, prompt=prompt, max_tokens=0, logprobs=0, echo=True).json()["choices"]
    assert choice["text"] == prompt and choice["finish_reason"] == "length"
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(logprobs[: len(data)], abs=1e-4)


@pytest.mark.parametrize("fields, status, words", [
    ({"prompt": "x" * 3_000}, 413, "3000 bytes is longer than the 2000"),
    ({"prompt": "x" * 30_000}, 413, "body is longer"),
    ({"n": 10**9}, 400, "'n' 1000000000"),
    ({"n": 0}, 400, "'n' 0"),
    ({"n": True}, 400, "wrong type"),
    ({"temperature": -1}, 400, "temperature -1"),
    ({"temperature": 1e999}, 400, "temperature inf"),
    ({"top_p": 0}, 400, "top_p 0"),
    ({"max_tokens": 10**12}, 400, "'max_tokens'"),
    ({"max_tokens": -1}, 400, "'max_tokens'"),
    ({"max_tokens": "9"}, 400, "'max_tokens' has a value of the wrong type"),
    ({"seed": -1}, 400, "seed -1"),
    ({"logprobs": 6}, 400, "'logprobs' 6"),
    ({"prompt": None}, 400, "'prompt' must be"),
    ({"prompt": []}, 400, "'prompt' must be"),
    ({"prompt": [[1], 2]}, 400, "'prompt' must be"),
    ({"prompt": [300]}, 400, "the id 300"),
    ({"prompt": [257]}, 400, "the id 257"),
    ({"prompt": "\ud800"}, 400, "lone surrogate"),
    ({"stop": ""}, 400, "'stop'"),
    ({"stop": ["x"] * 99}, 400, "'stop' has more than"),
    ({"temprature": 1}, 400, "did you mean 'temperature'?"),
    ({"best_of": 5}, 400, "'best_of'"),
    ({"presence_penalty": 0.5}, 400, "not offered"),
    ({"model": "gpt"}, 404, "no model 'gpt'"),
    ({"prompt": "é", "max_tokens": 1, "valid_utf8": True}, 200, ""),
    ({"prompt": list("世".encode()[:1]), "max_tokens": 1, "valid_utf8": True}, 400, "2 more bytes"),
])
def test_what_cannot_be_done_is_said(http, fields, status, words):
    body = json.dumps({**FIXED, **fields})
    response = http.post("/v1/completions", content=body)
    assert response.status_code == status
    if status != 200:
        assert words in response.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'"x"', b"[" * 9_000, b"{}"])
def test_bodies_that_are_no_request(http, body):
    response = http.post("/v1/completions", content=body)
    assert response.status_code == 400 and response.json()["error"]["message"]


def test_other_routes_and_methods(http):
    assert http.get("/v1/completions").status_code == 405
    assert http.get("/nowhere").status_code == 404
    assert http.get("/v1/models/other").status_code == 404


def test_the_token_is_asked_for(address, client):
    with httpx.Client(base_url=address) as http:
        assert http.get("/health").json() == {"status": "ok"}
        for headers in ({}, {"Authorization": "Bearer a secre"}, {"Authorization": TOKEN}):
            assert http.get("/v1/models", headers=headers).status_code == 401
            assert post(http, headers=headers, prompt="x").status_code == 401
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()


def wait_until(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it has not come to this in 30 seconds")


def test_a_client_that_leaves_frees_its_rows(http, engine, monkeypatch):
    step = engine.step
    monkeypatch.setattr(engine, "step", lambda: time.sleep(0.5) or step())  # none ends before
    long = {**FIXED, "n": ROWS, "max_tokens": 3_000, "stream": True}
    for _ in range(2):
        with http.stream("POST", "/v1/completions", json=long) as response:
            next(response.iter_lines())
            assert engine.active
        wait_until(lambda: not engine.active)
    # One that waits for the whole leaves before it is there, and another in the queue.
    for _ in range(2):
        with pytest.raises(httpx.ReadTimeout):
            http.post("/v1/completions", json={**long, "stream": False}, timeout=0.3)
    wait_until(lambda: not engine.active and not engine.waiting)
    assert 'hat_requests_total{status="499"} 4' in http.get("/metrics").text
    assert post(http).status_code == 200


def test_garbage_harms_nobody(address, client):
    """A megabyte of what is no HTTP, and bodies that are too long or never end, beside a stream."""
    host, port = address.removeprefix("http://").split(":")
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a secret\r\n"
    attacks = [
        bytes(range(256)) * 4096,
        b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 1_000_000,
        head + b"Content-Length: 999999999\r\n\r\n" + b"{" * 1_000_000,
        head + b"Transfer-Encoding: chunked\r\n\r\n" + (b"1000\r\n" + b"[" * 4096 + b"\r\n") * 200,
        head + b"Content-Length: 20\r\n\r\n{",
    ]
    answers = []

    def attack(data):
        with socket.create_connection((host, int(port)), timeout=20) as attacker:
            try:
                attacker.sendall(data)
                attacker.shutdown(socket.SHUT_WR)
                answers.append(attacker.recv(64))
            except OSError:  # it closed the door
                answers.append(b"")

    threads = [threading.Thread(target=attack, args=(data,)) for data in attacks]
    stream = client.completions.create(**{**FIXED, "max_tokens": 200}, stream=True)
    for thread in threads:
        thread.start()
    text = "".join(event.choices[0].text for event in stream)
    for thread in threads:
        thread.join()
    assert text == generated(num_bytes=200)[0].decode("utf-8", "replace")
    assert all(not answer or answer.startswith(b"HTTP/1.1 4") for answer in answers)


def test_a_full_queue_and_a_deadline(monkeypatch):
    """Requests through the application itself, of a server with little room and time."""
    from starlette.testclient import TestClient

    slow = Engine(*built(hat_config()), WORDS, max_rows=1)
    step = slow.step
    monkeypatch.setattr(slow, "step", lambda: time.sleep(0.3) or step())
    app = make_app(slow, "tiny", limits=Limits(waiting=2, seconds=0.5, output_bytes=10**7))
    with TestClient(app) as http:
        assert post(http, n=3).status_code == 429
        assert post(http, n=3).headers["retry-after"] == "1"
        response = post(http, max_tokens=10**7)
        assert response.status_code == 504 and "0.5 seconds" in response.text
        events = post(http, max_tokens=10**7, stream=True).text.split("\n\n")
        assert "not finished in 0.5 seconds" in events[-2]


def test_metrics_are_counted(http):
    before = http.get("/metrics").text
    post(http)
    after = http.get("/metrics").text

    def value(text, name):
        (line,) = (line for line in text.splitlines() if line.startswith(name + " "))
        return float(line.split()[1])

    sizes = value(after, "hat_prompt_tokens_total") - value(before, "hat_prompt_tokens_total")
    assert sizes == len(PROMPT.encode())
    assert value(after, "hat_generated_tokens_total") > value(before, "hat_generated_tokens_total")
    assert value(after, "hat_memory_bytes") > 10**6
    for line in after.splitlines():
        assert line.startswith("# ") or len(line.split()) == 2


def test_an_engine_that_fails_says_so(monkeypatch):
    from starlette.testclient import TestClient

    broken = Engine(*built(hat_config()), WORDS, max_rows=1)
    monkeypatch.setattr(broken, "step", lambda: 1 / 0)
    with TestClient(make_app(broken, "tiny")) as http:
        wait_until(lambda: http.get("/health").status_code == 503)
        assert post(http).status_code == 503
