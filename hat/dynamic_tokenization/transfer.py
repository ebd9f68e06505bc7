"""A Llama with another tokenizer, and no training: rows of embedding and head for its tokens.

Tokens that both tokenizers spell alike keep their rows, bit for bit, and so do BOS, EOT and PAD,
whatever their ids. The others get rows from the base tokens that spell them (`by_parts`), or the
combination of shared tokens that gives their row in a donor (`by_pursuit`).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from hat.dynamic_tokenization.embeddings import KnownSpellings, Predictor, RowCache
from hat.dynamic_tokenization.omp import transplant
from hat.errors import UserError
from hat.models.hypernetwork import TokenRows
from hat.models.llama import LlamaConfig
from hat.models.model import Params
from hat.text.tokenizers import Tokenizer

DIGITS = b"1234567890"


def stored_rows(config: LlamaConfig, params: Params) -> TokenRows:
    """Rows of embedding and head, NumPy [ids, d] in the dtype that they are stored in."""
    head = None if config.tie_embeddings else np.asarray(params["head"]["projection"]["kernel"]).T
    return TokenRows(np.asarray(params["embedding"]["table"]), head)


def with_rows(params: Params, rows: TokenRows) -> Params:
    """The parameters with these rows in embedding and head."""
    params = params | {"embedding": {"table": rows.inputs}}
    if rows.outputs is None:
        return params
    kernel = np.ascontiguousarray(rows.outputs.T)
    return params | {"head": params["head"] | {"projection": {"kernel": kernel}}}


def shared_tokens(base: Tokenizer, target: Tokenizer, config: LlamaConfig) -> np.ndarray:
    """int64 [target.num_ids]: the base's id of each token, -1 for what it has not. config: of the
    base's model, which has its own end of text."""
    known = {base.token_bytes(token): token for token in reversed(range(base.vocab_size))}
    known.pop(b"", None)
    found = np.full(target.num_ids, -1)
    for token in range(target.vocab_size):
        found[token] = known.get(target.token_bytes(token), -1)
    # Where one id begins and ends texts, its row is that of the end: an end must be predicted.
    roles = ((target.pad, base.pad), (target.bos, base.bos), (target.eot, config.eot))
    for token, its in roles:
        found[token] = its
    return found


def spelled_tokens(target: Tokenizer, base_of: np.ndarray) -> tuple[list[int], list[int]]:
    """The tokens that spell something: the shared ones, and the new ones."""
    spelled = [token for token in range(target.vocab_size) if target.token_bytes(token)]
    return [t for t in spelled if base_of[t] >= 0], [t for t in spelled if base_of[t] < 0]


def by_parts(
    base: TokenRows,
    tokenizer: Tokenizer,
    target: Tokenizer,
    new: Sequence[int],
    predictor: Predictor,
    known: KnownSpellings,
) -> TokenRows:
    """Rows of new tokens from the base tokens that spell them, as `known` prepares them."""
    source = TokenRows(*(None if side is None else jnp.asarray(side) for side in base))
    cache = RowCache(predictor, source, known, capacity=0)
    return cache([tuple(tokenizer.encode(target.token_bytes(token)).tolist()) for token in new])


def by_pursuit(
    base: TokenRows,
    donor: TokenRows,
    base_of: np.ndarray,
    shared: Sequence[int],
    new: Sequence[int],
    sparsity: int,
) -> TokenRows:
    """Rows of new tokens as combinations of shared ones, on each side apart. donor: rows of all
    tokens of the target, of any width. UserError: fewer shared tokens than a combination takes."""
    spelled = [*shared, *new]
    if len(shared) < sparsity:
        raise UserError(
            f"the tokenizers spell only {len(shared)} tokens alike, and --sparsity is {sparsity}: give a "
            "smaller one, or --method mean"
        )

    def side(own, theirs):
        if own is None:
            return None
        theirs = donor.inputs if theirs is None else theirs
        return transplant(own, theirs[spelled], base_of[spelled], sparsity)[len(shared) :]

    return TokenRows(side(base.inputs, donor.inputs), side(base.outputs, donor.outputs))


def assemble(
    base: TokenRows, base_of: np.ndarray, made: TokenRows, new: Sequence[int], num_ids: int
) -> TokenRows:
    """Rows [num_ids, d]: those of the base, those that were made, and the mean of all for what spells
    nothing."""

    def side(own, its):
        if own is None:
            return None
        out = np.tile(own.astype(np.float32).mean(axis=0), (num_ids, 1)).astype(own.dtype)
        known = np.flatnonzero(base_of[:num_ids] >= 0)
        out[known] = own[base_of[known]]
        out[list(new)] = np.asarray(its, own.dtype).reshape(len(new), own.shape[1])
        return out

    return TokenRows(side(base.inputs, made.inputs), side(base.outputs, made.outputs))


def digit_groups(tokenizer: Tokenizer) -> list[int]:
    """How many digits the tokens of a number have: where two tokenizers differ, a transferred model
    calculates worse (arXiv 2506.06607, section 5)."""
    return [len(tokenizer.token_bytes(token)) for token in tokenizer.encode(DIGITS).tolist()]
