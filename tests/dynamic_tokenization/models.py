"""A small Llama over the BPE of tests.dynamic_tokenization.texts, and hypernetworks for it."""

from __future__ import annotations

import dataclasses
import functools

import jax

from hat.models.byte_hypernetwork import ByteHypernetworkConfig
from hat.models.connector import ConnectorConfig
from hat.models.hypernetwork import HypernetworkConfig
from hat.models.layers import StackConfig
from hat.models.llama import LlamaConfig
from tests.dynamic_tokenization.texts import bpe
from tests.models.toy import random_params

STACK = StackConfig(hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24)
HYPER_STACK = StackConfig(hidden_size=8, num_layers=3, num_heads=2, intermediate_size=16)


@functools.cache
def llama(tied: bool = False, window: int | None = None):
    """The model and its parameters; logits of a few units."""
    stack = dataclasses.replace(STACK, window=window)
    config = LlamaConfig(stack, bpe().vocab_size, tie_embeddings=tied, dtype="float32")
    model = config.build()
    return model, random_params(model, 1)


def row_config(kind: str):
    """Of a hypernetwork over parts or over bytes, without its base."""
    if kind == "parts":
        return HypernetworkConfig(stack=HYPER_STACK)
    encoder = dataclasses.replace(HYPER_STACK, num_layers=1)
    connector = ConnectorConfig(hidden_size=8, num_heads=2)
    return ByteHypernetworkConfig(encoder=encoder, connector=connector, word_size=12, most_bytes=20)


@functools.cache
def hypernetwork(tied: bool = False, fresh: bool = True, kind: str = "parts"):
    """As it begins, or with parameters none of which is special."""
    config = dataclasses.replace(row_config(kind), base=llama(tied)[0].config)
    model = config.build()
    return model, model.init(jax.random.key(0)) if fresh else random_params(model, 2)
