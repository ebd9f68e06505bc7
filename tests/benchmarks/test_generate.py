"""`hat bench generate` on tiny models: every rival runs, and every number is one."""

from __future__ import annotations

import argparse
import math

import jax

from hat.benchmarks import generate
from hat.text.tokenizers import train_bpe


def test_every_rival_runs(monkeypatch):
    monkeypatch.setattr(generate, "LENGTHS", 2)
    result = generate.run(argparse.Namespace(
        size="tiny", batches=[2], bytes=4, length=16, repeats=1, without=[]))  # fmt: skip
    assert result["uncached"] > 0 and result["torch"] > 0
    rates = result["bytes_per_second"]
    assert set(rates) == {"hat", "llama"} and set(result["together"]) == {2}
    numbers = [*rates["hat"].values(), *rates["llama"].values(), *result["together"][2].values()]
    assert all(math.isfinite(number) and number > 0 for number in numbers)


def test_a_text_may_be_shorter_than_a_token():
    """Its rows begin with up to ROUND tokens, and none may be refused for that."""
    tokenizer = train_bpe([b"a text of few words, of few letters " * 20], 270)
    stack = generate.StackConfig(hidden_size=8, num_layers=1, num_heads=1, intermediate_size=8)
    llama = generate.LlamaConfig(stack, num_tokens=270, dtype="float32").build()
    params = generate.without_end(llama.init(jax.random.key(0)), llama.config.eot)
    assert generate.rate(
        llama, params, tokenizer, generate.ROUND, num_bytes=1, repeats=1, tokens=0
    ) > 0  # fmt: skip
