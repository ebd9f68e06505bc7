"""Conversations through the engine: what it keeps across turns gives the numbers of one pass."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from hat.data.config import DataConfig
from hat.data.cutting import Cutter
from hat.inference.chat import Conversation
from hat.inference.engine import Engine
from hat.inference.requests import Request
from hat.inference.generation import generate_with
from hat.inference.sampling import Sampling
from hat.text.chat import ASSISTANT, Message
from hat.text.rows import Packer, expand_tokens, expand_words
from hat.text.splitters import make_splitter
from hat.text.tokenizers import ByteTokenizer
from tests.inference.helpers import WORDS_OF, built, hat_config, llama_config

LENGTH = 300  # a conversation has 294 ids
MESSAGES = [
    Message("system", b"Be brief\n"),
    Message("user", "naïve? 世".encode()[:-1]),  # ends inside a character
    Message(ASSISTANT, b"<|start_header_id|>user<|end_header_id|>\n\n"),
    Message("user", b""),
    Message(ASSISTANT, b"yes \n"),
]


def batch_of(cutter: Cutter, messages) -> dict[str, np.ndarray]:
    """One row that holds the conversation twice."""
    packer = Packer(LENGTH * 2, None, cutter.specials)
    (row,) = sum((packer.add(cutter.cut_conversation(messages, "")) for _ in range(2)), [])  \
        + packer.finish()
    if cutter.tokenizer is None:
        row = expand_words(row, LENGTH * 2, LENGTH * 2)
    else:
        row = expand_tokens(row, LENGTH * 2, cutter.tokenizer.byte_lengths, cutter.specials.pad)
    return {name: values[None] for name, values in row.items()}


CASES = {
    "whitespace": (hat_config(), Cutter("whitespace", splitter=make_splitter("whitespace"))),
    "words": (hat_config(), Cutter("words", splitter=make_splitter("words"))),
    "bytes": (llama_config(), Cutter("bytes", tokenizer=ByteTokenizer())),
    "cosine": (WORDS_OF["cosine"], Cutter("words", splitter=make_splitter("words"))),
    "mlp": (WORDS_OF["mlp"], Cutter("words", splitter=make_splitter("words"))),
}


@pytest.mark.parametrize("name", CASES)
def test_the_masked_loss_is_that_of_scoring_the_answers_alone(name):
    """The loss of packed rows of conversations, against scores of a prompt read in chunks, of which
    the answers' and their ends' are added up. fp32 sums in another order: the 1e-4 of the other
    tests, relative here since it is a sum of 70 of them."""
    config, cutter = CASES[name]
    model, params = built(config)
    batch = batch_of(cutter, MESSAGES)
    ids, segment = batch.get("bytes", batch.get("tokens"))[0], batch["segment"][0]
    answer = batch["answer"][0]
    sums = jax.device_get(jax.jit(model.loss)(params, batch))

    engine = Engine(model, params, cutter.splitter or cutter.tokenizer, max_rows=1)
    one = ids[segment == 1]
    scored = engine.submit(Request(one, 0, scores=True))
    engine.run()
    nats = np.array([0.0, *scored.prompt_nats])
    learned = answer[segment == 1] == 1
    said = [message.content for message in MESSAGES if message.role == ASSISTANT]
    assert learned.sum() == sum(map(len, said)) + len(said)
    assert sums.nats == pytest.approx(2 * nats[learned].sum(), rel=1e-4)
    assert sums.targets == 2 * learned.sum() and sums.bytes == 2 * sum(map(len, said))
    assert nats[~learned].sum() > 1  # there was something to leave out


@pytest.mark.parametrize("name", ["words", "bytes", "cosine"])
def test_a_conversation_equals_its_turns_asked_anew(name):
    """Greedy: the second answer with the caches of the first turn, and with all of it read again."""
    config, cutter = CASES[name]
    model, params = built(config)
    rule = cutter.splitter or cutter.tokenizer
    greedy = dict(num_bytes=6, sampling=Sampling(temperature=0.0))
    talk = Conversation(Engine(model, params, rule, max_rows=1), b"Be brief")
    pieces = []
    answers = [
        talk.answer(text, on_bytes=lambda _, piece: pieces.append(piece or b""), **greedy)
        for text in (b"one", "zwölf".encode())
    ]
    assert b"".join(pieces) == b"".join(answer.text for answer in answers)
    said = talk.messages
    assert [role for role, _ in said] == ["system", "user", ASSISTANT, "user", ASSISTANT]
    again = generate_with(model, params, rule, [said[:2], said[:4]], batch_size=1, **greedy)
    assert [result.text for result in again] == [said[2].content, said[4].content]
    for result, answer in zip(again, answers):
        assert result.logprob == pytest.approx(answer.logprob, abs=1e-4)
        assert result.prompt == answer.prompt


def test_the_command_answers_and_talks(tmp_path, monkeypatch, capsys):
    import io
    import types

    from hat.cli import main
    from tests.inference.test_run import write_run

    write_run(tmp_path, llama_config(), **vars(DataConfig(tokenizer="bytes", format="chat")))
    words = ["generate", str(tmp_path), "--chat", "--bytes", "3", "--temperature", "0", "--json"]
    assert main([*words, "--prompt", "one", "--system", "Be brief"]) == 0
    (sample,) = json.loads(capsys.readouterr().out)["samples"]
    assert sample["prompt"] == "one" and len(bytes.fromhex(sample["text_hex"])) <= 3
    lines = types.SimpleNamespace(buffer=io.BytesIO("one\nzwölf\n".encode()))
    monkeypatch.setattr("sys.stdin", lines)
    assert main([*words, "--system", "Be brief"]) == 0
    messages = json.loads(capsys.readouterr().out)["messages"]
    assert [message["role"] for message in messages][1:] == ["user", ASSISTANT] * 2
    assert messages[2]["content_hex"] == sample["text_hex"] and messages[3]["content"] == "zwölf"
    assert main(["generate", str(tmp_path), "--system", "x", "--prompt", "y"]) == 2
    assert "--system is of --chat" in capsys.readouterr().err
