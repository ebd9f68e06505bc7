"""Prompts that end at any byte: exact-byte generation, prompting in tokens, and token healing.

Plain prompting encodes the prompt and goes on after its last token. Token healing takes the last
token back and makes the next one begin with its bytes. Both are scored as what they are: the
probability of the bytes that follow when tokens are drawn freely from there (law all).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from hat.byte_exact.canonical import DEAD
from hat.byte_exact.generate import continue_bytes, continue_tokens
from hat.byte_exact.pool import Node
from hat.byte_exact.sessions import TokenizedSession
from hat.byte_exact.tokenized import TokenizedModel
from hat.data.records import write_file
from hat.errors import UserError
from hat.evaluation.statistics import mcnemar, paired_bootstrap
from hat.evaluation.streams import Stream
from hat.inference.sampling import Sampling
from hat.training.progress import Progress

PROMPT, NEXT = 160, 20  # bytes
GREEDY = Sampling(temperature=0.0)
WAYS = ("exact", "exact by bytes", "plain", "healing")
_SAVE_EVERY = 10


def compare(model: TokenizedModel, text: bytes, count: int, path: Path, beam: int) -> dict:
    """Means over `count` prompts and paired differences; the items are kept in `path`. beam: of law
    all, for the two ways in tokens."""
    items = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    with Progress("prompts", total=count, unit="prompts", done=len(items)) as progress:
        for number, (prompt, following) in enumerate(splits(text, count)):
            if number < len(items):
                continue
            items.append(one(model, prompt, following, beam))
            progress.update(len(items))
            if len(items) == count or len(items) % _SAVE_EVERY == 0:
                write_file(path, (json.dumps(items) + "\n").encode())
    inside = np.array([item["inside"] for item in items])
    result = {"prompts": count, "bytes": NEXT}
    for name, chosen in (("all", np.ones(count, bool)), ("inside a token", inside)):
        if chosen.any():
            result[name] = summary([item for item, its in zip(items, chosen) if its])
    return result


def splits(text: bytes, count: int) -> list[tuple[bytes, bytes]]:
    """Prompts of about PROMPT bytes from the beginning of a line, and the NEXT bytes after each."""
    if len(text) < 8 * PROMPT:
        raise UserError(f"the held-out code has only {len(text)} bytes; give more text")
    stream = Stream(0, "byte-laws", "prompts")
    starts = stream.below(0, count, len(text) - 4 * PROMPT).tolist()
    lengths = (PROMPT // 2 + stream.below(1, count, PROMPT)).tolist()
    found = []
    for start, length in zip(starts, lengths):
        begin = text.find(b"\n", start) + 1
        end = min(begin + length, len(text) - NEXT)
        found.append((text[begin:end], text[end : end + NEXT]))
    return found


def one(model: TokenizedModel, prompt: bytes, following: bytes, beam: int) -> dict:
    """nats of the following bytes, and whether the greedy ones are they, each way."""
    tokenizer = model.vocabulary.tokenizer
    free = model.with_law("all", beam)
    ids = tokenizer.encode(prompt).tolist()
    whole = prompt + following
    rows = model.logprobs(whole)
    symbols = np.frombuffer(whole, np.uint8)
    exact = -rows[np.arange(len(whole)), symbols][len(prompt) :].sum()
    nats = {"exact": exact, "exact by bytes": exact}
    text = {
        "exact": continue_tokens(model, prompt, num_bytes=NEXT, sampling=GREEDY)[0].text,
        "exact by bytes": continue_bytes(model, prompt, num_bytes=NEXT, sampling=GREEDY)[0].text,
        "plain": tokens_after(free, ids),
    }
    session = free.session(ids)
    session.advance(following)
    nats["plain"] = -session.logprob
    nats["healing"], text["healing"] = heal(free, ids, following)
    ends = np.cumsum(tokenizer.byte_lengths[tokenizer.encode(whole)])
    return {
        "nats": {way: float(nats[way]) for way in WAYS},
        "match": {way: text[way] == following for way in WAYS},
        "inside": len(prompt) not in ends,
    }


def tokens_after(model: TokenizedModel, ids: list[int]) -> bytes:
    """The bytes of the greedy tokens after ids."""
    found = continue_tokens(model, b"", num_bytes=NEXT, sampling=GREEDY, context=ids)
    return found[0].text


def heal(model: TokenizedModel, ids: list[int], following: bytes) -> tuple[float, bytes]:
    """Token healing: nats of the following bytes, and the greedy ones."""
    vocabulary = model.vocabulary
    *before, last = ids
    taken = vocabulary.spellings[last]
    at = 0
    for byte in taken:
        at = vocabulary.child(at, byte)
    root, _ = model.session(before).states[0]
    rows: dict[Node, np.ndarray] = {}
    model.pool.read([root], rows)
    tokens = vocabulary.order[vocabulary.low[at] : vocabulary.high[at]]
    logs = rows[root][tokens].astype(np.float64)
    children = [(Node(model.pool, int(token), root, DEAD), 0) for token in vocabulary.exact_ids(at)]
    session = TokenizedSession(model, [(root, at), *children], {})
    session.advance(following)
    nats = np.logaddexp.reduce(logs) - session.logprob
    first = int(tokens[np.argmax(logs)])
    beyond = vocabulary.spellings[first][len(taken) :]
    return nats, (beyond + tokens_after(model, [*before, first]))[:NEXT]


def summary(items: list[dict]) -> dict:
    scale = NEXT * np.log(2)
    nats = {way: np.array([item["nats"][way] for item in items]) for way in WAYS}
    match = {way: np.array([item["match"][way] for item in items]) for way in WAYS}
    result: dict = {"prompts": len(items), "ways": {}, "against exact": {}}
    for way in WAYS:
        result["ways"][way] = {"bits_per_byte": float(nats[way].mean() / scale),
                               "match": float(match[way].mean())}
        if way != "exact":
            more = paired_bootstrap((nats[way] - nats["exact"]) / scale)
            fewer = paired_bootstrap(match["exact"].astype(float) - match[way])
            result["against exact"][way] = {
                "more_bits_per_byte": more._asdict(), "fewer_matches": fewer._asdict(),
                "mcnemar": mcnemar(match["exact"], match[way]),
            }
    return result


def table_of_ends(found: dict) -> list[str]:
    lines = [f"| prompts end | way | exact match of {found['bytes']} bytes | bits per byte | more "
             "bits than exact [95 %] | fewer matches than exact [95 %] |", "|" + "---|" * 6]
    for where in ("all", "inside a token"):
        for way in WAYS if where in found else ():
            its = found[where]["ways"][way]
            cells = [f"{where} ({found[where]['prompts']})", way, f"{its['match']:.1%}",
                     f"{its['bits_per_byte']:.3f}"]
            against = found[where]["against exact"].get(way)
            for key in ("more_bits_per_byte", "fewer_matches"):
                said = "" if against is None else "{estimate:.3f} [{low:.3f}, {high:.3f}]".format(
                    **against[key])
                cells.append(said)
            lines.append("| " + " | ".join(cells) + " |")
    return lines
