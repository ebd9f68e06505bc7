"""A config that no model can be built from says so in one line, where it is made."""

from __future__ import annotations

import dataclasses

import pytest

from hat.errors import UserError
from hat.models.hat import ConnectorConfig
from hat.models.layers import StackConfig
from hat.models.llama import LlamaConfig
from tests.models import toy

STACK = dict(hidden_size=16, num_layers=2, num_heads=4, intermediate_size=24)

REFUSED = {
    "hidden_size 18 is not a multiple of num_heads 4": lambda: StackConfig(
        **STACK | dict(hidden_size=18)
    ),
    "num_heads 4 is not a multiple of num_kv_heads 3": lambda: StackConfig(**STACK, num_kv_heads=3),
    "head_dim 5 is odd": lambda: StackConfig(**STACK, head_dim=5),
    "window 0 must be at least 1": lambda: StackConfig(**STACK, window=0),
    "num_layers 0 must be at least 1": lambda: StackConfig(**STACK | dict(num_layers=0)),
    "num_heads 0 must be at least 1": lambda: StackConfig(**STACK | dict(num_heads=0)),
    "num_kv_heads 0 must be at least 1": lambda: StackConfig(**STACK, num_kv_heads=0),
    "connector hidden_size 18 must be an even multiple of num_heads 6": lambda: ConnectorConfig(
        18, 6
    ),
    "decoder.hidden_size 24 must equal encoder.hidden_size 16": lambda: dataclasses.replace(
        toy.PLAIN, decoder=toy.PLAIN.backbone
    ),
    "guide 'relased' is none of 'earliest', 'released'": lambda: dataclasses.replace(
        toy.PLAIN, guide="relased"
    ),
    "dtype 'float16' is none of": lambda: dataclasses.replace(toy.PLAIN, dtype="float16"),
    "remat 'some' is none of": lambda: LlamaConfig(StackConfig(**STACK), 40, remat="some"),
    "num_tokens 0 must be at least 1": lambda: LlamaConfig(StackConfig(**STACK), 0),
    "num_ids 258 has no row for id 258": lambda: dataclasses.replace(toy.PLAIN, num_ids=258),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused(message):
    with pytest.raises(UserError) as error:
        REFUSED[message]()
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_head_dim_frees_the_hidden_size():
    assert StackConfig(**STACK | dict(hidden_size=18), head_dim=6).head_size == 6
