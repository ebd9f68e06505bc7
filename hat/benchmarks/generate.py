"""Bytes a second of generation: a HAT at several batches, against what else could be done.

All in one run, on random weights: a HAT of 25 million parameters by the engine; the same without
memory, every byte from the whole text; a subword Llama of equal FLOPs a byte by the same engine; a
flat byte-level Llama of as many parameters by `transformers` in torch. Text: the standard library
of Python. What a random model writes has no words, so a splitter ends one after as many bytes as the
words of the text have on average, in every row at another time; and the Llama's tokens count as the
bytes that a token of the text has. FLOPs a byte are equal at the length that is timed. All takes
twelve minutes on two cores; `--bytes 128` is enough to compare two versions of the code.

Then how rows whose words end share the backbone: `together` rows at a time, from one by one to all
in one (what a conditional a byte would do), beside rounds in which rows wait for each other until
all have a word. The rounds are computed from the measured times of bytes and of words, and from the
lengths of the text's words.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from hat.commands.arguments import positive_int
from hat.data.sources import Skipped, Source
from hat.errors import UserError
from hat.inference.engine import Engine, best_closing
from hat.inference.requests import Request
from hat.inference.sampling import Sampling
from hat.models.connector import ConnectorConfig
from hat.models.hat import HatConfig
from hat.models.layers import StackConfig
from hat.models.llama import LlamaConfig
from hat.models.model import LanguageModel, Params
from hat.text.splitters import Splitter, make_splitter
from hat.text.tokenizers import Tokenizer, train_bpe

LETTERS = b"etaon "  # what the head knows, so that no text ends early
VOCABULARY = 4096
# d, D, layers of encoder, backbone and decoder, and the window in bytes. 25m is shaped as the
# quickstart, whose trials chose it: bytes three quarters as wide as words. 25m-narrow has them half
# as wide, in more layers. The wider the bytes, the more of the work is done for all rows at once.
SIZES = {
    "25m": (384, 512, 1, 5, 3, 32),
    "25m-narrow": (256, 512, 2, 6, 4, 64),
    "tiny": (32, 64, 1, 1, 1, 64),
}
ROUND = 8
LENGTHS = 8  # at which a text without memory is timed
SHORT = 128  # bytes of texts that tell ways to share the backbone apart


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=SIZES, default="25m", help="of the HAT (default: 25m)")
    parser.add_argument("--batches", metavar="N", type=positive_int, nargs="+", default=[1, 8, 64],
                        help="(default: 1 8 64)")
    parser.add_argument("--bytes", metavar="N", type=positive_int, default=2_000,
                        help="of every text that is timed (default: 2000)")
    parser.add_argument("--length", metavar="N", type=positive_int, default=2_000,
                        help="of the text without memory (default: 2000)")
    parser.add_argument("--repeats", metavar="N", type=positive_int, default=3,
                        help="the best of so many counts (default: 3)")
    parser.add_argument("--without", choices=("torch", "uncached", "together"), nargs="+",
                        default=[], help="leave out")


def run(arguments: argparse.Namespace) -> dict:
    splitter = make_splitter("words")
    text = b"".join(d.data for d in Source("stdlib", "text").documents(Skipped()))[:2_000_000]
    lengths = word_lengths(splitter, text)
    tokenizer = train_bpe([text], VOCABULARY)
    per_token = len(text[:200_000]) / len(tokenizer.encode(text[:200_000]))
    model = hat_config(arguments.size).build()
    params = with_letters(jax.jit(model.init)(jax.random.key(0)))
    shape = equal_llama(model, lengths.mean(), per_token, arguments.size, arguments.bytes)
    llama = shape.build()
    llama_params = without_end(jax.jit(llama.init)(jax.random.key(1)), llama.config.eot)
    print(f"{count(model):,} parameters of the HAT, {count(llama):,} of the Llama of equal FLOPs a "
          f"byte; {lengths.mean():.2f} bytes a word, {per_token:.2f} a token")

    timing = dict(num_bytes=arguments.bytes, repeats=arguments.repeats)
    rates: dict[str, dict[int, float]] = {"hat": {}, "llama": {}}
    splitter = make_splitter(f"stride:{round(lengths.mean())}")
    print(f"{'batch':>5} {'HAT bytes/s':>12} {'Llama bytes/s':>14} {'ratio':>6}")
    for rows in arguments.batches:
        rates["hat"][rows] = rate(model, params, splitter, rows, **timing)
        tokens = rate(llama, llama_params, tokenizer, rows,
                      tokens=round(arguments.bytes / per_token), **timing)
        rates["llama"][rows] = tokens * per_token
        print(f"{rows:5} {rates['hat'][rows]:12,.0f} {rates['llama'][rows]:14,.0f} "
              f"{rates['hat'][rows] / rates['llama'][rows]:6.2f}", flush=True)
    result: dict[str, Any] = {"bytes_per_second": rates}
    one = rates["hat"].get(1) or rate(model, params, splitter, 1, **timing)
    if "uncached" not in arguments.without:
        seconds = uncached_seconds(model, params, splitter, text, arguments)
        result["uncached"] = one * seconds / arguments.length
        print(f"without memory, {arguments.length:,} bytes: {arguments.length / seconds:.2f} bytes/s,"
              f" of which batch 1 is {result['uncached']:.0f} times", flush=True)
    if "torch" not in arguments.without:
        torch_rate = torch_bytes_per_second(count(model), arguments)
        result["torch"] = one / torch_rate
        print(f"flat byte-level Llama in torch: {torch_rate:,.0f} bytes/s, of which batch 1 is "
              f"{result['torch']:.1f} times", flush=True)
    if "together" not in arguments.without:
        result["together"] = {
            rows: compare_together(model, params, splitter, rows, lengths,
                                   timing | {"num_bytes": min(arguments.bytes, SHORT)})
            for rows in arguments.batches if rows > 1
        }  # fmt: skip
    return result


def compare_together(model, params, splitter, rows: int, lengths, timing) -> dict[str, float]:
    """Bytes a second by how many rows the backbone takes together, and in rounds."""
    sizes = sorted({1, max(rows // 8, 1), rows // 4 or 1, rows // 2 or 1, rows})
    found = {
        str(size): rate(model, params, splitter, rows, closing=size, **timing) for size in sizes
    }
    # All rows end their words at the same byte, or never: the time of a byte, and of a word.
    every = rate(model, params, make_splitter(f"stride:{ROUND}"), rows, closing=rows, in_step=True,
                 **timing)  # fmt: skip
    endless = make_splitter(f"stride:{timing['num_bytes'] + 2 * ROUND}")
    never = rate(model, params, endless, rows, closing=rows, **timing)
    of_byte = rows / never
    of_word = max(ROUND * (rows / every - of_byte), 0)
    some = lengths[: len(lengths) // rows * rows].reshape(-1, rows)
    seconds = some.max(axis=1).mean() * of_byte + of_word
    found["rounds"] = some.sum(axis=1).mean() / seconds
    print(f"batch {rows}, rows together: "
          + ", ".join(f"{size} {value:,.0f}" for size, value in found.items())
          + f" bytes/s; a byte of all rows {1e3 * of_byte:.2f} ms, a word {1e3 * of_word:.2f} ms; "
          f"the engine takes {best_closing(rows)}", flush=True)  # fmt: skip
    return found


def rate(
    model: LanguageModel,
    params: Params,
    rule: Splitter | Tokenizer,
    rows: int,
    *,
    num_bytes: int,
    repeats: int,
    closing: int | None = None,
    tokens: int | None = None,
    in_step: bool = False,
) -> float:
    """Bytes a second of all rows together; of a tokenized model tokens a second, of so many `tokens`
    or up to ROUND more a text."""
    most, slots = num_bytes, {}
    if tokens is not None:  # however many bytes they spell, after prompts of up to ROUND
        most, slots = 2**30, {"max_words": max(tokens, 1) + ROUND}
    engine = Engine(model, params, rule, max_rows=rows, closing=closing, **slots)
    bos, letter = engine.tokenizer.bos, int(engine.tokenizer.encode(b"a")[0])
    best = 0.0
    for turn in range(repeats + 1):  # the first compiles
        began = time.perf_counter()
        made = [
            # Prompts of 1 to ROUND ids, so that words end at different times.
            engine.submit(Request([bos] + [letter] * (0 if in_step else row % ROUND), most,
                                  Sampling(temperature=1.0, seed=turn), sample=row))
            for row in range(rows)
        ]  # fmt: skip
        engine.run()
        seconds = time.perf_counter() - began
        if turn:
            done = sum(len(one.ids) for one in made)
            best = max(best, done / seconds)
    return best


def uncached_seconds(model, params, splitter, text: bytes, arguments: argparse.Namespace) -> float:
    """Seconds of a loop that reads the whole text again for every byte, its rows padded to LENGTHS
    lengths: every length is timed, and counts for the bytes that it serves."""
    from hat.inference.scoring import WordRows

    forward: Callable = jax.jit(lambda params, batch: model.logits(params, batch)[0, -1])
    step, total = -(-arguments.length // LENGTHS), 0.0
    for length in range(step, step * LENGTHS + 1, step):
        rows = WordRows(splitter, length + 2, max(length // 2, 8))
        _, pieces = rows.cut(text[:length], "text")
        batch = {name: value[None] for name, value in rows.expand(pieces[0]).items()}
        forward(params, batch).block_until_ready()
        seconds = []
        for _ in range(arguments.repeats):
            began = time.perf_counter()
            forward(params, batch).block_until_ready()
            seconds.append(time.perf_counter() - began)
        total += step * min(seconds)
    return total * arguments.length / (step * LENGTHS)


def torch_bytes_per_second(parameters: int, arguments: argparse.Namespace) -> float:
    """Of a Llama over 256 bytes with about so many parameters, with its cache, at batch 1."""
    try:
        import torch
        from transformers import LlamaConfig as Config
        from transformers import LlamaForCausalLM
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed; add --without torch") from None
    wide = SIZES[arguments.size][1]
    inner = inner_size(wide)
    layers = max(round(parameters / (4 * wide * wide + 3 * wide * inner)), 1)
    torch.manual_seed(0)
    model = LlamaForCausalLM(Config(
        vocab_size=264, hidden_size=wide, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=wide // 64 or 1, num_key_value_heads=wide // 64 or 1,
    )).eval()  # fmt: skip
    prompt = torch.tensor([[256, *b"a tea on a "]])
    options = dict(max_new_tokens=arguments.bytes, min_new_tokens=arguments.bytes, do_sample=True,
                   pad_token_id=258)  # fmt: skip
    seconds = []
    with torch.no_grad():
        for _ in range(arguments.repeats + 1):
            began = time.perf_counter()
            model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
            seconds.append(time.perf_counter() - began)
    return arguments.bytes / min(seconds[1:])


def hat_config(size: str) -> HatConfig:
    d, wide, encoder, backbone, decoder, window = SIZES[size]
    stack = dict(
        hidden_size=d, num_heads=d // 64 or 1, intermediate_size=inner_size(d), window=window
    )
    return HatConfig(
        encoder=StackConfig(num_layers=encoder, **stack),
        connector=ConnectorConfig(hidden_size=wide, num_heads=wide // 128 or 1),
        backbone=StackConfig(
            hidden_size=wide, num_layers=backbone, num_heads=wide // 64 or 1,
            intermediate_size=inner_size(wide),
        ),
        decoder=StackConfig(num_layers=decoder, **stack),
        dtype="float32",
    )  # fmt: skip


def equal_llama(model, per_word: float, per_token: float, size: str, spent: int) -> LlamaConfig:
    """The Llama whose depth brings it nearest to the HAT's FLOPs a byte, in texts of `spent` bytes."""
    flops = model.flops(num_bytes=spent, num_words=spent / per_word, context_bytes=spent,
                        context_words=spent / per_word)  # fmt: skip
    wanted, wide = sum(flops.values()), SIZES[size][1]

    def config(layers: int) -> LlamaConfig:
        stack = StackConfig(hidden_size=wide, num_layers=layers, num_heads=wide // 64 or 1,
                            intermediate_size=inner_size(wide))  # fmt: skip
        return LlamaConfig(stack, num_tokens=VOCABULARY, dtype="float32")

    def apart(layers: int) -> float:
        tokens = spent / per_token
        found = config(layers).build().flops(num_tokens=tokens, context_tokens=tokens)
        return abs(sum(found.values()) - wanted)

    return config(min(range(1, 33), key=apart))


def inner_size(hidden_size: int) -> int:
    return -(-hidden_size * 8 // 3 // 8) * 8


def with_letters(params: Params) -> Params:
    """The HAT's head knows LETTERS alone: in pairs of a direction and its opposite, so that one of
    them is always far likelier than every other id, the end of the text included."""
    kernel = params["head"]["projection"]["kernel"]
    directions = 100 * kernel[:, : len(LETTERS) // 2]
    new = jax.numpy.zeros_like(kernel)
    new = new.at[:, np.array(list(LETTERS[::2]))].set(directions)
    new = new.at[:, np.array(list(LETTERS[1::2]))].set(-directions)
    return _with_head(params, new)


def without_end(params: Params, eot: int) -> Params:
    """A Llama whose likeliest tokens are far likelier than the end of the text."""
    kernel = params["head"]["projection"]["kernel"]
    return _with_head(params, (4 * kernel).at[:, eot].set(0))


def _with_head(params: Params, kernel: jax.Array) -> Params:
    return {**params, "head": {**params["head"], "projection": {"kernel": kernel}}}


def word_lengths(splitter: Splitter, text: bytes) -> np.ndarray:
    """Bytes of every word."""
    starts = np.flatnonzero(splitter.split(np.frombuffer(text, np.uint8)).starts)
    return np.diff([*starts, len(text)])


def count(model: LanguageModel) -> int:
    return sum(model.parameter_counts().values())

