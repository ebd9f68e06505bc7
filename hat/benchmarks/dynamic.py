"""Merges a second against recounting, rows a second of a hypernetwork, steps with large vocabularies.

Merging reads text of the standard library of Python in byte-pair tokens; recounting is the same
compiled code that counts all pairs anew for every merge. The hypernetwork and the model have fresh
parameters, which cost what trained ones do. A step with a large vocabulary
is the search, beside a softmax over all logits at once, and one over the model's own vocabulary.
Only the ratios of one run mean anything.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from hat.commands.arguments import add_experiment, positive_int, read_experiment
from hat.config import load as load_config
from hat.data.sources import Skipped, Source
from hat.dynamic_tokenization.boundaries import Encoded, encode
from hat.dynamic_tokenization.embeddings import source_of, spellings_for
from hat.dynamic_tokenization.merge_loop import _slot
from hat.dynamic_tokenization.merging import learn
from hat.dynamic_tokenization.search import Vocabulary
from hat.errors import UserError
from hat.models.llama import LlamaModel
from hat.text.split_loop import compiled
from hat.text.tokenizers import Tokenizer, train_bpe

TOKENIZER_BYTES = 1_000_000
PARTS = 4  # of the tokens whose rows are predicted
ROWS = 1024  # at once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment(parser, default="configs/quickstart_bpe.py")
    parser.add_argument("--hypernetwork", metavar="CONFIG", default="configs/hypernetwork.py",
                        help="(default: configs/hypernetwork.py)")
    parser.add_argument("--bytes", metavar="N", type=positive_int, default=400_000,
                        help="of the text that is merged (default: 400,000)")
    parser.add_argument("--merges", metavar="N", type=positive_int, default=500,
                        help="(default: 500)")
    parser.add_argument("--vocabulary", metavar="N", type=positive_int, default=262_144,
                        help="of the search (default: 262,144)")
    parser.add_argument("--repeats", metavar="N", type=positive_int, default=5,
                        help="of which the median counts (default: 5)")


def run(arguments: argparse.Namespace) -> dict:
    """Prints the three comparisons."""
    text = b"".join(d.data for d in Source("stdlib", "text").documents(Skipped()))
    experiment = read_experiment(arguments)
    model = experiment.model.build()
    if not isinstance(model, LlamaModel):
        raise UserError(f"{arguments.config} is of a HAT; give one of a subword Llama")
    tokenizer = train_bpe([text[:TOKENIZER_BYTES]], model.config.num_tokens)
    result = merging(encode(text[: arguments.bytes], tokenizer, "word"), model, arguments)
    params = jax.jit(model.init)(jax.random.key(0))
    result |= prediction(model, params, tokenizer, arguments)
    result |= searching(model, params, arguments)
    for name, value in result.items():
        print(f"{name:52} {value:14,.4g}")
    return result


def median(do: Callable[[], object], repeats: int) -> float:
    """Seconds, of the runs after the first, which compiles."""
    jax.block_until_ready(do())
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(do())
        found.append(time.perf_counter() - began)
    return float(np.median(found))


# --- merging --------------------------------------------------------------------------------------


def merging(text: Encoded, model: LlamaModel, arguments: argparse.Namespace) -> dict[str, float]:
    base, repeats = model.config.num_ids, arguments.repeats
    table = learn([text], base, merges=arguments.merges)
    once = recount(text.tokens.copy(), text.opened, base, len(table))
    if not np.array_equal(once, table.pairs):
        raise AssertionError("recounting gives other merges")
    fast = median(lambda: learn([text], base, merges=arguments.merges).pairs, repeats)
    slow = median(lambda: recount(text.tokens.copy(), text.opened, base, len(table)), repeats)
    return {
        "tokens that are merged": float(len(text.tokens)),
        "merges a second": len(table) / fast,
        "merges a second, recounting": len(table) / slow,
        "merging over recounting": slow / fast,
    }


@compiled
def recount(symbols, opened, base, most):
    """The merges int32 [most, 2] of `merge_loop.learn`, with all pairs counted for every one.
    Changes `symbols`."""
    size = 16
    while size < 4 * len(symbols):
        size *= 2
    keys, count = np.empty(size, np.int64), np.empty(size, np.int64)
    made = np.zeros((most, 2), np.int32)
    opened, length = opened.copy(), len(symbols)
    for step in range(most):
        keys[:], count[:] = -1, 0
        best, most_seen = np.int64(0), 0
        for i in range(1, length):
            if opened[i]:
                key = np.int64(symbols[i - 1]) << 32 | np.int64(symbols[i])
                at = _slot(keys, key)
                keys[at] = key
                count[at] += 1
                if count[at] > most_seen:
                    most_seen = count[at]
        first = True
        for at in range(size):  # of equal counts the lowest symbols
            if keys[at] >= 0 and count[at] == most_seen and (first or keys[at] < best):
                best, first = keys[at], False
        a, b = np.int32(best >> 32), np.int32(best & 0xFFFFFFFF)
        made[step, 0], made[step, 1] = a, b
        kept, i = 0, 0
        while i < length:
            both = i + 1 < length and opened[i + 1] and symbols[i] == a and symbols[i + 1] == b
            symbols[kept], opened[kept] = (base + step if both else symbols[i]), opened[i]
            kept += 1
            i += 2 if both else 1
        length = kept
    return made


# --- rows -----------------------------------------------------------------------------------------


def prediction(
    model: LlamaModel, params, tokenizer: Tokenizer, arguments: argparse.Namespace
) -> dict[str, float]:
    config = load_config(arguments.hypernetwork).model
    network = dataclasses.replace(config, base=model.config).build()
    its = jax.jit(network.init)(jax.random.key(1))
    source = jax.jit(lambda params: source_of(model, params))(params)
    parts = np.random.default_rng(0).integers(0, model.config.num_tokens, (ROWS, PARTS), np.int32)
    spelled = spellings_for(network, tokenizer)
    predict = jax.jit(network.rows)
    seconds = median(lambda: predict(its, spelled, source, parts), arguments.repeats)
    return {f"rows a second by the hypernetwork, of {PARTS} parts": ROWS / seconds}


# --- large vocabularies ---------------------------------------------------------------------------


def searching(model: LlamaModel, params, arguments: argparse.Namespace) -> dict[str, float]:
    size, width = arguments.vocabulary, model.config.stack.hidden_size
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(size, width)).astype(np.float32)
    hidden = jnp.asarray(rng.normal(size=(1, width)), jnp.float32)
    vocabulary = Vocabulary(rows, np.ones(size, bool))
    whole = jnp.asarray(rows)

    @jax.jit
    def softmax(hidden, rows):
        logits = jnp.matmul(hidden, rows.T, preferred_element_type=jnp.float32)
        return jnp.argmax(jax.nn.log_softmax(logits), axis=-1)

    def seconds(do):
        return median(do, arguments.repeats)

    exact = seconds(lambda: vocabulary.search(hidden, 20))
    fast = seconds(lambda: vocabulary.search(hidden, 20, approximate=True))
    full = seconds(lambda: softmax(hidden, whole))
    own = seconds(lambda: softmax(hidden, whole[: model.config.num_ids]))
    return {
        f"seconds of an exact search among {size:,}": exact,
        f"seconds of an approximate search among {size:,}": fast,
        f"seconds of a softmax over {size:,}": full,
        f"seconds of a softmax over the model's {model.config.num_ids:,}": own,
        "exact search over softmax of the same size": exact / full,
    }
