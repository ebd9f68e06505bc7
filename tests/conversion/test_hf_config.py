"""config.json to ours: what the real models of each family say, and what is refused."""

from __future__ import annotations

import pytest

from hat.conversion.hf_config import Fields, read_llama, write_llama
from hat.errors import UserError
from hat.models.layers import RopeScaling, StackConfig
from hat.models.llama import LlamaConfig

LLAMA_3_2_1B = {
    "model_type": "llama", "attention_bias": False, "head_dim": 64, "hidden_act": "silu",
    "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 131072,
    "mlp_bias": False, "num_attention_heads": 32, "num_hidden_layers": 16,
    "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3",
    },
    "rope_theta": 500000.0, "tie_word_embeddings": True, "vocab_size": 128256,
}  # fmt: skip
SMALL = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2,
    "num_hidden_layers": 4, "vocab_size": 40, "rms_norm_eps": 1e-6,
}  # fmt: skip
STACK = StackConfig(16, 4, 2, 24, num_kv_heads=2, norm_eps=1e-6)


def read(fields: dict) -> LlamaConfig:
    return read_llama(Fields(fields, "config.json"), "float32")


def test_llama_3_2():
    stack = StackConfig(
        2048, 16, 32, 8192, num_kv_heads=8, head_dim=64, rope_theta=5e5,
        rope_scaling=RopeScaling(factor=32.0), norm_eps=1e-5,
    )  # fmt: skip
    assert read(LLAMA_3_2_1B) == LlamaConfig(stack, 128256, tie_embeddings=True, dtype="float32")


def test_defaults_are_those_of_transformers():
    assert read(SMALL) == LlamaConfig(STACK, 40, dtype="float32")


QWEN = SMALL | {"model_type": "qwen2", "sliding_window": 8}


@pytest.mark.parametrize(
    ("fields", "window"),
    [
        (SMALL | {"sliding_window": 8}, None),  # a Llama has none whatever it says
        (SMALL | {"model_type": "mistral", "sliding_window": 8}, 8),
        (SMALL | {"model_type": "mistral", "sliding_window": None}, None),
        (QWEN, None),
        (QWEN | {"use_sliding_window": True, "max_window_layers": 0}, 8),
        (QWEN | {"use_sliding_window": True, "max_window_layers": 4}, None),
    ],
)
def test_windows(fields, window):
    assert read(fields).stack.window == window


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (QWEN | {"use_sliding_window": True, "max_window_layers": 2}, "some layers"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear'"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "no field factor"),
        ({"num_key_value_heads": 3}, "num_kv_heads 3"),
        ({"vocab_size": True}, "expected int"),
    ],
)
def test_refusals(change, said):
    with pytest.raises(UserError, match=said):
        read(SMALL | change)


@pytest.mark.parametrize(
    ("stack", "family"),
    [
        ({}, "llama"),
        ({"window": 3}, "mistral"),
        ({"qkv_bias": True}, "qwen2"),
        ({"qkv_bias": True, "window": 3}, "qwen2"),
        ({"qk_norm": True}, "qwen3"),
        ({"head_dim": 6, "rope_scaling": RopeScaling(factor=2.0)}, "llama"),
    ],
)
def test_what_is_written_is_read_back(stack, family):
    config = LlamaConfig(
        StackConfig(16, 4, 2, 24, num_kv_heads=1, **({"head_dim": 8} | stack)), 40, dtype="float32"
    )
    fields = write_llama(config, 40, "float32", {"model_type": "gpt2", "kept": 1})
    assert fields["model_type"] == family and fields["kept"] == 1
    assert read(fields) == config


def test_the_family_that_it_came_from_stays():
    config = read(SMALL | {"model_type": "mistral", "sliding_window": None})
    assert write_llama(config, 40, "float32", {"model_type": "mistral"})["model_type"] == "mistral"


@pytest.mark.parametrize(
    ("stack", "said"),
    [({"logit_softcap": 5.0}, "logit_softcap"), ({"qk_norm": True, "qkv_bias": True}, "both")],
)
def test_stacks_that_no_family_has(stack, said):
    config = LlamaConfig(StackConfig(16, 4, 2, 24, **stack), 40)
    with pytest.raises(UserError, match=said):
        write_llama(config, 40, "float32", {})
