"""The config.json of Hugging Face models, to ours and back: what of a block can differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hat.errors import UserError
from hat.models.layers import RopeScaling, StackConfig
from hat.models.llama import LlamaConfig

CONFIG_FILE = "config.json"
_REQUIRED = object()

# model_type -> the class that transformers builds. All are the block of hat.models.layers.
FAMILIES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


class Fields:
    """The fields of a JSON object, with errors that name the file and the field."""

    def __init__(self, values: Mapping[str, Any], where: str):
        self.values, self.where = values, where

    def get(self, name: str, kind: type, default: Any = _REQUIRED) -> Any:
        """The field, or `default` where it is absent or null. UserError: absent, another type."""
        value = self.values.get(name)
        if value is None:
            if default is _REQUIRED:
                raise UserError(f"{self.where} has no field {name}; give a complete config.json")
            return default
        if kind is float and type(value) is int:
            return float(value)
        if type(value) is not kind:
            raise UserError(f"{self.where}: {name} is {value!r}, expected {kind.__name__}")
        return value

    def group(self, name: str) -> Fields:
        """The fields of an object inside this one."""
        return Fields(self.get(name, dict), f"{self.where}: {name}")


def read_fields(path: Path) -> Fields:
    """UserError: the file cannot be read or is no JSON object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is no JSON object")
    return Fields(values, str(path))


def read_llama(fields: Fields, dtype: str) -> LlamaConfig:
    """The config of a Llama, Mistral, Qwen2 or Qwen3 that computes in `dtype`.

    UserError: another architecture, or one of these with parts that our block does not have.
    """
    family = fields.get("model_type", str)
    if family not in FAMILIES:
        raise UserError(
            f"{fields.where}: model_type {family!r} is not a model that can be converted; "
            f"{', '.join(FAMILIES)} are"
        )
    for name in ("attention_bias", "mlp_bias"):
        if fields.get(name, bool, False):
            raise UserError(f"{fields.where}: {name} is true; our block has no such biases")
    activation = fields.get("hidden_act", str, "silu")
    if activation not in ("silu", "swish"):
        raise UserError(f"{fields.where}: hidden_act {activation!r}; our block has silu alone")
    return LlamaConfig(
        read_stack(
            fields,
            window=_window(fields, family),
            head_dim=fields.get("head_dim", int, 128 if family == "qwen3" else None),
            qk_norm=family == "qwen3",
            qkv_bias=family == "qwen2",
        ),
        num_tokens=fields.get("vocab_size", int),
        tie_embeddings=fields.get("tie_word_embeddings", bool, False),
        dtype=dtype,
    )


def read_stack(fields: Fields, **rest: Any) -> StackConfig:
    """The stack that a config.json (or a part of one) describes; `rest` as it is."""
    heads = fields.get("num_attention_heads", int)
    theta, scaling = _rope(fields)
    try:
        return StackConfig(
            hidden_size=fields.get("hidden_size", int),
            num_layers=fields.get("num_hidden_layers", int),
            num_heads=heads,
            num_kv_heads=fields.get("num_key_value_heads", int, heads),
            intermediate_size=fields.get("intermediate_size", int),
            rope_theta=theta,
            rope_scaling=scaling,
            norm_eps=fields.get("rms_norm_eps", float, 1e-6),
            **rest,
        )
    except UserError as error:
        message = str(error)
        raise UserError(
            message if message.startswith(fields.where) else f"{fields.where}: {message}"
        ) from None


def _window(fields: Fields, family: str) -> int | None:
    window = fields.get("sliding_window", int, None)
    if family == "mistral":
        return window
    if family == "llama" or not fields.get("use_sliding_window", bool, False):
        return None
    layers = fields.get("num_hidden_layers", int)
    whole = min(fields.get("max_window_layers", int, 0), layers)  # the first layers have none
    if 0 < whole < layers:
        raise UserError(
            f"{fields.where}: max_window_layers {whole} gives a window to some layers alone; our "
            "stacks have one for all or none"
        )
    return None if whole else window


def _rope(fields: Fields) -> tuple[float, RopeScaling | None]:
    """Base and scaling, as transformers 4 writes them or (rope_parameters) as 5 does."""
    merged = fields.get("rope_parameters", dict, None)
    name = "rope_scaling" if merged is None else "rope_parameters"
    scaling = Fields(fields.get(name, dict, {}), f"{fields.where}: {name}")
    theta = (fields if merged is None else scaling).get("rope_theta", float, 10_000.0)
    kind = scaling.get("rope_type", str, scaling.get("type", str, "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise UserError(
            f"{scaling.where}: rope_type {kind!r}; only 'default' and 'llama3' can be converted"
        )
    return theta, RopeScaling(
        factor=scaling.get("factor", float),
        low_freq_factor=scaling.get("low_freq_factor", float),
        high_freq_factor=scaling.get("high_freq_factor", float),
        original_max_positions=scaling.get("original_max_position_embeddings", int),
    )


def write_stack(config: StackConfig) -> dict[str, Any]:
    """The fields that `read_stack` reads."""
    scaling = config.rope_scaling
    return {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.kv_heads,
        "intermediate_size": config.intermediate_size,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling
        and {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_positions,
        },
    }


def write_llama(
    config: LlamaConfig, rows: int, dtype: str, origin: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields of a config.json whose model is `config` with parameters in `dtype`.

    rows: of embedding and head. origin: the config.json that the model came from, or nothing; its
    other fields stay, and its family where that has all that the model needs. UserError: none has.
    """
    stack = config.stack
    if stack.logit_softcap is not None:
        raise UserError(
            "model.stack.logit_softcap is set, and no Hugging Face class of this block has it; "
            "train without it to export"
        )
    if stack.qk_norm and stack.qkv_bias:
        raise UserError("model.stack has QK-norm and biases; no Hugging Face class has both")
    if stack.qk_norm:
        families = ["qwen3"]
    elif stack.qkv_bias:
        families = ["qwen2"]
    else:
        families = ["mistral"] if stack.window else ["llama", "mistral"]
    before = origin.get("model_type")
    family = before if before in families else families[0]
    window: dict[str, Any] = {}
    if family != "llama":
        window["sliding_window"] = stack.window
    if family.startswith("qwen"):
        window |= {"use_sliding_window": stack.window is not None}
        if stack.window is not None:
            window["max_window_layers"] = 0
    # Written as transformers 4 reads it; 5 reads both forms.
    other_forms = ("rope_parameters", "layer_types", "dtype")
    return {name: value for name, value in origin.items() if name not in other_forms} | {
        "architectures": [FAMILIES[family]],
        "model_type": family,
        "hidden_act": "silu",
        "head_dim": stack.head_size,
        "vocab_size": rows,
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": dtype,
        **write_stack(stack),
        **window,
    }

