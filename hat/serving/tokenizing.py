"""`/tokenizer_info`, `/tokenize`, `/detokenize`: texts as ids and back, as vLLM's server offers them.

With them lm-evaluation-harness's `local-completions` needs no tokenizer of its own
(`tokenizer_backend=remote`, which it finds by itself). Specials have names here, so that a client
can ask for their ids; a name is one only as a whole prompt, never inside a text.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hat.serving.completions import BadRequest, Limits, is_id, utf8
from hat.text.tokenizers import Tokenizer

BOS_NAME, EOT_NAME = "<|bos|>", "<|end_of_text|>"


def tokenizer_info(tokenizer: Tokenizer, limits: Limits) -> dict[str, Any]:
    return {
        "tokenizer_class": type(tokenizer).__name__,
        "vocab_size": tokenizer.vocab_size,
        "bos_token": BOS_NAME,
        "eos_token": EOT_NAME,
        "model_max_length": limits.prompt_bytes,
    }


def tokenize(body: Any, tokenizer: Tokenizer, limits: Limits) -> dict[str, Any]:
    """body: {"prompt": text, "add_special_tokens": whether BOS comes first (default: true)}."""
    prompt = _field(body, "prompt", str)
    special = {BOS_NAME: tokenizer.bos, EOT_NAME: tokenizer.eot}.get(prompt)
    if special is not None:
        ids = [special]
    else:
        data = utf8(prompt, "prompt")
        if len(data) > limits.prompt_bytes:
            raise BadRequest(f"a prompt of {len(data)} bytes is longer than the "
                             f"{limits.prompt_bytes} that this server reads", 413)  # fmt: skip
        first = [tokenizer.bos] if body.get("add_special_tokens", True) else []
        ids = first + tokenizer.encode(data).tolist()
    return {"tokens": ids, "count": len(ids), "max_model_len": limits.prompt_bytes}


def detokenize(body: Any, tokenizer: Tokenizer) -> dict[str, str]:
    """body: {"tokens": ids}. Specials spell nothing; what is no UTF-8 becomes U+FFFD."""
    ids = _field(body, "tokens", list)
    if not all(is_id(id) and 0 <= id < tokenizer.num_ids for id in ids):
        raise BadRequest(f"'tokens' must be ids from 0 to {tokenizer.num_ids - 1}")
    return {"prompt": tokenizer.decode(np.array(ids, np.int64)).decode("utf-8", "replace")}


def _field(body: Any, name: str, kind: type) -> Any:
    if not isinstance(body, dict) or not isinstance(body.get(name), kind):
        wanted = "a text" if kind is str else "a list of ids"
        raise BadRequest(f"the body must be a JSON object with {name!r}, {wanted}")
    return body[name]
