"""Bytes a second of exact-byte scoring and generation, against tokens and genlm-bytes.

A Llama over 4,096 byte-pair tokens (--run: a trained one; else one of --size or of a config, with
fresh parameters; --vocabulary: over more tokens, most of them made up) reads text of the standard
library of Python. Scoring all prefixes in one forward is set beside a plain forward over as many
tokens as bytes, and beside going byte by byte; generation in tokens from a drawn cover, and byte by
byte, beside ordinary decoding in tokens. genlm-bytes takes part where it is installed, over the
same model and evaluator.

Only the ratios of one run mean anything, and nothing else should run beside it; where something
does, those of processor seconds, all threads together, say more than those of the clock.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import importlib.util
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from hat.byte_exact.generate import continue_bytes, continue_tokens
from hat.byte_exact.merges import Pairs, read_rules
from hat.byte_exact.model import chosen
from hat.byte_exact.tokenized import TokenizedModel
from hat.commands.arguments import add_experiment, positive_int, read_experiment
from hat.data.sources import Skipped, Source
from hat.errors import UserError
from hat.inference.engine import Engine
from hat.inference.generation import read_ids
from hat.inference.requests import Request
from hat.inference.run import load_run
from hat.inference.sampling import Sampling
from hat.models.llama import LlamaModel
from hat.models.model import Params
from hat.text.tokenizers import JsonTokenizer, train_bpe

BEAM = 4  # of genlm-bytes
TRAINED_ON = 1_000_000  # bytes, of a tokenizer that the run does not bring
PROMPT = 60  # bytes before what is generated
WARM = 3  # texts before those that count: shapes follow from texts, and each is compiled once

CONFIG = "configs/quickstart_bpe.py"
# What CONFIG is changed to. With 2 million parameters a forward costs no more than the host's work.
SIZES = {
    "2m": [],
    "29m": ["model.stack.hidden_size=512", "model.stack.num_layers=8", "model.stack.num_heads=8",
            "model.stack.intermediate_size=1368"],
}  # fmt: skip

Rate = tuple[float, ...]  # bytes a second of the clock, and of the processor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment(parser, default=CONFIG)
    parser.add_argument("--size", choices=SIZES,
                        help="parameters, of the default CONFIG alone (default: 29m)")
    parser.add_argument("--run", metavar="RUN", type=Path, help="a subword Llama that is trained")
    parser.add_argument("--vocabulary", metavar="N", type=positive_int,
                        help="tokens, without --run (default: those of the config)")
    parser.add_argument("--bytes", metavar="N", type=positive_int, default=512,
                        help="to score, and to generate in all (default: 512)")
    parser.add_argument("--samples", metavar="N", type=positive_int, default=1,
                        help="continuations side by side (default: 1)")
    parser.add_argument("--repeats", metavar="N", type=positive_int, default=5,
                        help="of which the median counts (default: 5)")


def run(arguments: argparse.Namespace) -> dict:
    """Prints bytes a second each way, and the ratios that matter."""
    text = b"".join(d.data for d in Source("stdlib", "text").documents(Skipped()))
    model, params = open_model(arguments, text)
    texts = pieces(text, arguments.repeats + WARM, arguments.bytes)
    peer = importlib.util.find_spec("genlm") is not None
    if not peer:
        print("genlm-bytes is not installed: pip install genlm-bytes to set it beside")
    rates = score_rates(model, params, texts, peer)
    peer &= arguments.samples == 1  # it continues one text at a time
    made, each = generation_rates(model, params, texts, arguments.samples, peer)
    rates |= made
    read = bytes_per_token(model, texts)
    print(f"{arguments.bytes} bytes a text, {read:.2f} bytes a token; {each:.2f} of those drawn")
    print(f"{'bytes a second':38} {'clock':>10} {'processor':>10}")
    for name, (clock, processor) in rates.items():
        print(f"{name:38} {clock:10.1f} {processor:10.1f}")
    found = [ratios({name: rate[i] for name, rate in rates.items()}, each) for i in range(2)]
    print(f"{'ratios':38} {'clock':>10} {'processor':>10}")
    for name, (clock, goal) in found[0].items():
        print(f"{name:38} {clock:10.2f} {found[1][name][0]:10.2f}  (goal: {goal})")
    return {
        "bytes": arguments.bytes, "samples": arguments.samples, "bytes_per_token": read,
        "bytes_per_drawn_token": each,
        "ids": model.evaluator.num_ids,
        "bytes_per_second": {name: rate[0] for name, rate in rates.items()},
        "bytes_per_processor_second": {name: rate[1] for name, rate in rates.items()},
        "ratios": {name: value for name, (value, _) in found[0].items()},
        "processor_ratios": {name: value for name, (value, _) in found[1].items()},
    }  # fmt: skip


def open_model(arguments: argparse.Namespace, text: bytes) -> tuple[TokenizedModel, Params]:
    if arguments.size and (arguments.run is not None or arguments.config != CONFIG):
        raise UserError(f"--size is of {CONFIG}; leave it out with --run or another CONFIG")
    if arguments.run is not None:
        its = load_run(arguments.run)
        if not isinstance(its.model, LlamaModel):
            raise UserError(f"--run {arguments.run} is a HAT; give a subword Llama")
        return TokenizedModel(its.model, its.params, its.tokenizer), its.params
    if arguments.config == CONFIG:
        arguments.set = [*SIZES[arguments.size or "29m"], *arguments.set]
    model = read_experiment(arguments).model.build()
    if not isinstance(model, LlamaModel):
        raise UserError(f"{arguments.config} is of a HAT; give one of a subword Llama")
    tokenizer = train_bpe([text[:TRAINED_ON]], model.config.num_tokens)
    if arguments.vocabulary is not None:
        tokenizer = widened(tokenizer, arguments.vocabulary)
        model = dataclasses.replace(model.config, num_tokens=arguments.vocabulary).build()
    params = jax.jit(model.init)(jax.random.key(0))
    return TokenizedModel(model, params, tokenizer), params


def widened(tokenizer: JsonTokenizer, size: int) -> JsonTokenizer:
    """A byte-level BPE with made-up tokens until it has `size`: of any two tokens of letters that
    its merges leave as they are, so that each is the encoding of its text."""
    spec, pairs = json.loads(json.dumps(tokenizer.spec)), Pairs(read_rules(tokenizer))
    known: dict[str, int] = spec["model"]["vocab"]
    random, merges = np.random.default_rng(0), spec["model"]["merges"]
    begins = [piece for piece in known if re.fullmatch("\u0120?[a-z]{1,6}", piece)]
    goes_on = [piece for piece in begins if piece.isascii()]
    for number in random.permutation(len(begins) * len(goes_on)).tolist():
        if len(known) >= size:
            break
        left, right = begins[number // len(goes_on)], goes_on[number % len(goes_on)]
        if left + right not in known and pairs.allowed(known[left], known[right]):
            known[left + right] = len(known)
            merges.append([left, right] if isinstance(merges[0], list) else f"{left} {right}")
    if len(known) != size:
        raise UserError(
            f"--vocabulary {size}: there can be {tokenizer.vocab_size} to {len(known)} tokens"
        )
    return JsonTokenizer(json.dumps(spec))


def pieces(text: bytes, count: int, size: int) -> list[bytes]:
    """Texts of whole lines' beginnings, far apart."""
    places = np.linspace(TRAINED_ON, len(text) - 2 * size, count).astype(int).tolist()
    starts = [text.find(b"\n", place) + 1 for place in places]
    return [text[start : start + size] for start in starts]


def bytes_per_token(model: TokenizedModel, texts: list[bytes]) -> float:
    encode = model.vocabulary.tokenizer.encode
    return sum(map(len, texts)) / sum(len(encode(text)) for text in texts)


# --- scoring --------------------------------------------------------------------------------------


def score_rates(
    model: TokenizedModel, params: Params, texts: list[bytes], peer: bool
) -> dict[str, Rate]:
    ways: dict[str, Callable[[bytes], object]] = {
        "score: a forward over as many tokens": token_forward(model, params, len(texts[0]) + 1),
        "score: canonical, one forward": lambda text: chosen(model.logprobs(text), text),
        "score: canonical, byte by byte": lambda text: stepwise(model, text),
    }
    if peer:
        from hat.benchmarks.genlm_peer import rows

        ways[f"score: genlm-bytes, K={BEAM}"] = lambda text: (
            text[: len(asyncio.run(rows(model, text, BEAM)))])  # to where it has lost all covers
    return rates_of(ways, texts)


def token_forward(
    model: TokenizedModel, params: Params, length: int
) -> Callable[[bytes], np.ndarray]:
    """Scores a row of `length` tokens in the plain forward of the model."""
    its = model.evaluator.model
    index = np.arange(length, dtype=np.int32)[None]

    @jax.jit
    def forward(params, tokens):
        batch = {"tokens": tokens, "segment": jnp.ones_like(tokens), "position": index}
        logprobs = jax.nn.log_softmax(its.logits(params, batch))
        return jnp.take_along_axis(logprobs[:, :-1], tokens[:, 1:, None], axis=-1)

    def score(text: bytes) -> np.ndarray:
        tokenizer = model.vocabulary.tokenizer
        ids = np.concatenate([[tokenizer.bos], tokenizer.encode(text)])
        tokens = np.resize(ids, length).astype(np.int32)[None]  # as many positions as bytes
        return np.asarray(forward(params, tokens))

    return score


def stepwise(model: TokenizedModel, text: bytes) -> None:
    session = model.session()
    for byte in text:
        session.logprobs()
        session.push(byte)
    session.logprobs()


# --- generation -----------------------------------------------------------------------------------


def generation_rates(
    model: TokenizedModel, params: Params, texts: list[bytes], samples: int, peer: bool
) -> tuple[dict[str, Rate], float]:
    """Rates, and the bytes of a token that is drawn."""
    free = model.with_law("last-free")  # its last token is any, and so are those after it
    engine = Engine(model.evaluator.model, params, model.vocabulary.tokenizer)
    how = dict(num_bytes=len(texts[0]), samples=samples, sampling=Sampling(1.0))
    drawn: list[tuple[int, int]] = []  # bytes and tokens of a text

    def in_tokens(text: bytes) -> bytes:
        ids = read_ids(engine.tokenizer, text[:PROMPT])
        request = Request(ids, how["num_bytes"], how["sampling"])
        made = [engine.submit(dataclasses.replace(request, sample=n)) for n in range(samples)]
        engine.run()
        drawn.append((sum(len(one.text) for one in made), sum(len(one.ids) for one in made)))
        return b"".join(one.text for one in made)

    def after(continue_prompt, its) -> Callable[[bytes], bytes]:
        return lambda text: b"".join(one.text for one in continue_prompt(its, text[:PROMPT], **how))

    ways = {
        "generate: tokens": in_tokens,
        "generate: exact, then tokens": after(continue_tokens, free),
        "generate: exact, then valid tokens": after(continue_tokens, model),
        "generate: exact, every byte": after(continue_bytes, model),
    }
    if peer:
        from hat.benchmarks.genlm_peer import sample

        ways[f"generate: genlm-bytes, K={BEAM}"] = lambda text: asyncio.run(
            sample(model, text[:PROMPT], how["num_bytes"], BEAM, 0))
    rates = rates_of(ways, texts)
    num_bytes, num_tokens = map(sum, zip(*drawn[WARM:]))
    return rates, num_bytes / num_tokens


def rates_of(ways: dict[str, Callable[[bytes], object]], texts: list[bytes]) -> dict[str, Rate]:
    """Medians over texts, all ways of one text after another, without the first texts. Where a way
    gives bytes, their number counts."""
    found: dict[str, list[Rate]] = {name: [] for name in ways}
    for number, text in enumerate(texts):
        for name, way in ways.items():
            clock, processor = time.perf_counter(), time.process_time()
            made = way(text)
            processor, clock = time.process_time() - processor, time.perf_counter() - clock
            size = len(made) if isinstance(made, bytes) else len(text)
            if number >= WARM and size:
                found[name].append((size / clock, size / processor))
    return {name: tuple(np.median(its, axis=0).tolist()) for name, its in found.items()}


# --- ratios ---------------------------------------------------------------------------------------


def ratios(rates: dict[str, float], each: float) -> dict[str, tuple[float, str]]:
    """What the goals are about, each with its goal; each: bytes of a token that is drawn."""
    forward = rates["score: a forward over as many tokens"]
    one, steps = rates["score: canonical, one forward"], rates["score: canonical, byte by byte"]
    tokens, every = rates["generate: tokens"], rates["generate: exact, every byte"]
    found = {
        "one forward: cost over the tokens'": (forward / one, "at most 2"),
        "one forward over byte by byte": (one / steps, "more than 1"),
        "then tokens over tokens": (rates["generate: exact, then tokens"] / tokens, "at least 0.8"),
        "every byte over tokens, a token": (every / tokens * each, "at least 0.9"),
    }
    for name, rate in rates.items():
        if name.startswith("score: genlm"):
            found["one forward over genlm-bytes"] = one / rate, "at least 20"
        elif name.startswith("generate: genlm"):
            found["every byte over genlm-bytes"] = every / rate, "at least 5"
    return found
