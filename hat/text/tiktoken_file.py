"""The `tokenizer.model` of Llama 3: a byte-level BPE as tiktoken stores it.

A line holds a token in base 64 and its rank. Ranks are ids, and the order of merging: of all
neighbours whose union is a token, the one of the lowest rank is merged first. Special tokens are
not in the file; those of Llama 3.1 follow the ranks, as in its code.
"""

from __future__ import annotations

import base64
import binascii
import json
import re

from hat.errors import UserError

_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} [0-9]+\r?\n")
_WORDS = (  # of Llama 3: what is never merged across
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_NAMED = {
    0: "begin_of_text", 1: "end_of_text", 4: "finetune_right_pad_id", 6: "start_header_id",
    7: "end_header_id", 8: "eom_id", 9: "eot_id", 10: "python_tag",
}  # fmt: skip
NUM_SPECIALS = 256


def is_tiktoken(data: bytes) -> bool:
    return _LINE.match(data) is not None


def to_json(data: bytes, alphabet: dict[int, str]) -> str:
    """The tokenizer.json of the same tokenizer.

    alphabet: the character that byte-level BPE writes for each byte. UserError: a line that is no
    token and rank, or ranks that are not 0, 1, 2 and so on.
    """
    ranks = _read(data)

    def write(token: bytes) -> str:
        return "".join(alphabet[byte] for byte in token)

    # The library merges pairs in an order of pairs: every way to make a token of two others, in
    # the order of the tokens, is the order of ranks.
    merges = []
    for token, rank in ranks.items():
        halves = ((token[:i], token[i:]) for i in range(1, len(token)))
        ways = [(a, b) for a, b in halves if a in ranks and b in ranks]
        merges += sorted(ways, key=lambda way: (ranks[way[0]], ranks[way[1]]))
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    specials = [
        {"id": len(ranks) + i, "content": name, **flags} for i, name in enumerate(special_names())
    ]
    split = {"type": "Split", "pattern": {"Regex": _WORDS}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return json.dumps({
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": specials,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence", "pretokenizers": [split, {**level, "use_regex": False}],
        },
        "post_processor": None,
        "decoder": {**level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,  # a word that is a token is that token, as in tiktoken
            "vocab": {write(token): rank for token, rank in ranks.items()},
            "merges": [[write(a), write(b)] for a, b in merges],
        },
    })  # fmt: skip


def special_names() -> list[str]:
    """The special tokens of Llama 3.1 in the order of their ids."""
    names, reserved = [], 0
    for i in range(NUM_SPECIALS):
        if i in _NAMED:
            names.append(f"<|{_NAMED[i]}|>")
        else:
            names.append(f"<|reserved_special_token_{reserved}|>")
            reserved += 1
    return names


def _read(data: bytes) -> dict[bytes, int]:
    """Every token and its rank, in the order of the ranks."""
    pairs = []
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            token, rank = line.split()
            pairs.append((int(rank), base64.b64decode(token, validate=True)))
        except (ValueError, binascii.Error):
            raise UserError(f"line {number} is no token in base 64 and its rank") from None
    pairs.sort()
    ranks = {token: rank for rank, token in pairs}
    if [rank for rank, _ in pairs] != list(range(len(ranks))):
        raise UserError("its ranks are not 0, 1, 2 and so on, one for each token")
    return ranks
