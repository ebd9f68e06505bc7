"""The layout of the released TFree-HAT checkpoints, in and out (arXiv 2603.15953).

What it has and we have not: query and key weights in the decoder's cross-attention, which a
softmax over a single key leaves without effect, and an end of text that is byte 192 (0xC0, which
no UTF-8 holds). What we have and it has not: rows for byte 192 itself, for BOS and for the ids
behind it. Each side's own is carried beside the other's folder, in CARRIED, so that both round
trips are exact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from hat.conversion import hf_config, tensor_files
from hat.conversion.hf_config import Fields
from hat.conversion.leaves import (
    LAYER,
    Ids,
    Leaf,
    check,
    make_leaves,
    paths,
    read_params,
    stack_names,
    written_specs,
    written_tensors,
)
from hat.conversion.llama import write_json
from hat.conversion.tensor_files import SafeTensors, Spec
from hat.errors import UserError
from hat.models.hat import ConnectorConfig, HatConfig
from hat.models.layers import StackConfig
from hat.models.model import Params
from hat.text.ids import BOS, EOT, NUM_BYTES

MODEL_TYPE = "hierarchical_autoregressive_transformer"
CARRIED = "carried"  # folder: what one layout has and the other has not
DEAD_FILE = "dead.safetensors"  # in CARRIED of a native folder
IDS_FILE = "ids.safetensors"  # in CARRIED of a released folder: rows OWN_IDS of each of OWN
RELEASED_EOT = 192  # of 256 rows
MAX_POSITIONS = 262_144  # of the released models; rotary positions need no limit

_CONNECTOR = "encoder_connector.cross_attention_encoder_connector"
_DECODER = f"decoder.decoder_layers.{LAYER}"
_GUIDE = f"{_DECODER}.cross_attention"
NAMES = {
    "encoder/embedding/table": "encoder.embedding_layer.weight",
    **stack_names("encoder/layers", f"encoder.layers.{LAYER}"),
    "connector/query": "encoder_connector.latent_query",
    **{f"connector/{p}/kernel": f"{_CONNECTOR}.{p}_proj.weight" for p in "qkvo"},
    "connector/q_norm/scale": f"{_CONNECTOR}.norm_query.weight",
    "connector/k_norm/scale": f"{_CONNECTOR}.norm_key.weight",
    **stack_names("backbone/layers", f"backbone.layers.{LAYER}"),
    "decoder/first_guide": "decoder_connector.first_word_embedding",
    "decoder/layers/guide_norm/scale": f"{_DECODER}.kv_norm.weight",
    "decoder/layers/guide_v/kernel": f"{_GUIDE}.v_proj.weight",
    "decoder/layers/guide_o/kernel": f"{_GUIDE}.o_proj.weight",
    **stack_names("decoder/layers/block", f"{_DECODER}.llama_layer"),
    "head/norm/scale": "layer_norm.weight",
    "head/projection/kernel": "lm_head.weight",
}
# The names of the norms inside `self_attn` are not published: those of the cross-attention are
# likely and are written, those of other models are read too.
_NORMS = {"self_attn.q_norm": "self_attn.norm_query", "self_attn.k_norm": "self_attn.norm_key"}
OWN = {"encoder/embedding/table": "embedding", "head/projection/kernel": "head"}


def own_ids(config: HatConfig) -> list[int]:
    """Rows of ours that the released layout has no place for."""
    return [RELEASED_EOT, BOS, *range(EOT + 1, config.num_ids)]


def hat_leaves(config: HatConfig, *, own: bool, plain_norms: bool = False) -> list[Leaf]:
    """The parameters of a HAT and their tensors in the released layout.

    own: rows of ours that the layout has no place for are read from IDS_FILE; otherwise BOS, which
    opens a document as the end of the one before did, is the row of the end of text too.
    plain_norms: the QK-norms of self-attention are called q_norm and k_norm.
    """
    names = dict(NAMES)
    if not plain_norms:
        for path, name in names.items():
            for plain, published in _NORMS.items():
                names[path] = names[path].replace(plain, published)
    ids_of = {}
    for path, kept in OWN.items():
        moved = [(EOT, names[path], RELEASED_EOT)]
        if own:
            moved += [(row, kept, i) for i, row in enumerate(own_ids(config))]
        else:
            moved += [(BOS, names[path], RELEASED_EOT)]
        ids_of[path] = Ids(NUM_BYTES, tuple(moved), ((EOT, RELEASED_EOT),))
    vector = (1, 1, config.backbone.hidden_size)
    one_of_all = {"connector/query": vector, "decoder/first_guide": vector}
    return make_leaves(config.build(), names, ids_of, one_of_all)


def dead_specs(config: HatConfig, dtype: np.dtype) -> dict[str, Spec]:
    """The tensors of the released layout that cannot change its output."""
    size, wide = config.decoder.hidden_size, config.backbone.hidden_size
    shapes = {
        f"{_GUIDE}.q_proj.weight": (size, size),
        f"{_GUIDE}.k_proj.weight": (size, wide),
        f"{_DECODER}.query_norm.weight": (size,),
    }
    if config.decoder.qk_norm:
        head = (config.decoder.head_size,)
        shapes |= {f"{_GUIDE}.norm_query.weight": head, f"{_GUIDE}.norm_key.weight": head}
    return {
        name.replace(LAYER, str(layer)): Spec(dtype, shape)
        for name, shape in shapes.items()
        for layer in range(config.decoder.num_layers)
    }


@dataclasses.dataclass(frozen=True)
class HatCheckpoint:
    """A HAT in the released layout, checked but not yet read.

    fields: its config.json; splitter: the rule of its words, as a config names it.
    """

    fields: Mapping[str, Any]
    config: HatConfig
    splitter: str
    tensors: SafeTensors

    def read(self, config: HatConfig, shardings: Params) -> Params:
        """The parameters, in the dtypes of the file, placed as asked.

        UserError that lists the tensors missing, unexpected or misshapen.
        """
        specs = self.tensors.specs
        own = set(OWN.values()) <= set(specs)
        plain_norms = any(name.endswith("self_attn.q_norm.weight") for name in specs)
        leaves = hat_leaves(config, own=own, plain_norms=plain_norms)
        dead = self._dead(config)
        own_shape = (len(own_ids(config)), config.encoder.hidden_size)
        wrong = [
            f"{name} {list(specs[name].shape)}, not {list(shape)}"
            for name, shape in {
                **{name: spec.shape for name, spec in dead.items()},
                **(dict.fromkeys(OWN.values(), own_shape) if own else {}),
            }.items()
            if name in specs and specs[name].shape != shape
        ]
        if wrong:
            raise UserError(f"{self.tensors.where}: misshapen: {tensor_files.listed(wrong)}")
        known = {*dead, *OWN.values()}
        check(leaves, self.tensors, lambda name: name in known)
        return read_params(leaves, self.tensors, shardings)

    def write_dead(self, config: HatConfig, folder: Path) -> None:
        """Keeps the weights without effect, as they are, in the folder CARRIED of a native one."""
        present = {
            name: self.tensors.specs[name]
            for name in self._dead(config)
            if name in self.tensors.specs
        }
        if present:
            tensor_files.write_file(
                folder / DEAD_FILE, present, ((name, self.tensors.read(name)) for name in present)
            )

    def _dead(self, config: HatConfig) -> dict[str, Spec]:
        return dead_specs(config, np.dtype(np.float32))  # for names and shapes; any dtype will do


def open_hat(folder: Path) -> HatCheckpoint:
    """A folder in the released layout. UserError: another one, or a damaged one."""
    fields = hf_config.read_fields(folder / hf_config.CONFIG_FILE)
    ids = folder / CARRIED / IDS_FILE
    tensors = tensor_files.open_folder(folder, *([ids] if ids.is_file() else []))
    embedding = tensors.specs.get(NAMES["encoder/embedding/table"])
    if embedding is None:
        name = NAMES["encoder/embedding/table"]
        raise UserError(f"{folder} does not hold what its config says: {name} is missing")
    bfloat16 = embedding.dtype == ml_dtypes.bfloat16
    config = read_hat(fields, "bfloat16" if bfloat16 else "float32")
    splitter = f"words:{fields.get('max_word_size', int, 100)}"
    return HatCheckpoint(fields.values, config, splitter, tensors)


def read_hat(fields: Fields, dtype: str) -> HatConfig:
    """The config of a HAT that computes in `dtype`. UserError: parts that ours does not have."""
    specials = fields.get("special_token_dict", dict, {})
    if set(specials.values()) - {RELEASED_EOT}:
        raise UserError(
            f"{fields.where}: special_token_dict is {specials}; only an end of text that is byte "
            f"{RELEASED_EOT} can be converted"
        )
    encoder, backbone, decoder = (
        fields.group(f"{part}_config") for part in ("encoder", "backbone", "decoder")
    )
    cross = encoder.group("cross_attention_config")
    if not decoder.get("cross_attn_every_layer", bool, True):
        raise UserError(f"{decoder.where}: cross_attn_every_layer is false; ours has it in all")
    heads = cross.get("num_attention_heads", int)
    if cross.get("attention_num_kv_heads", int, heads) != heads:
        raise UserError(f"{cross.where}: fewer heads for keys than for queries; ours has as many")
    stacks = [_read_stack(part) for part in (encoder, backbone, decoder)]
    try:
        return HatConfig(
            encoder=stacks[0],
            connector=ConnectorConfig(
                hidden_size=cross.get("hidden_size", int),
                num_heads=heads,
                qk_norm=_qk_norm(cross),
            ),
            backbone=stacks[1],
            decoder=stacks[2],
            guide=fields.get("guide", str, "released"),
            num_ids=fields.get("native_ids", int, 264),
            dtype=dtype,
        )
    except UserError as error:
        raise UserError(f"{fields.where}: {error}") from None


def _read_stack(fields: Fields) -> StackConfig:
    for name in ("attention_bias", "mlp_bias"):
        if fields.get(name, bool, False):
            raise UserError(f"{fields.where}: {name} is true; our block has no such biases")
    return hf_config.read_stack(
        fields,
        window=fields.get("sliding_window", int, None),
        qk_norm=_qk_norm(fields),
        logit_softcap=fields.get("logit_softcap", float, None),
    )


def _qk_norm(fields: Fields) -> bool:
    norm = fields.get("key_query_norm", bool, False)
    if norm and not fields.get("key_query_norm_per_head", bool, True):
        raise UserError(f"{fields.where}: key_query_norm_per_head is false; ours is per head")
    return norm


def write_hat(
    folder: Path,
    config: HatConfig,
    params: Params,
    origin: Mapping[str, Any],
    max_word_bytes: int,
    carried: Path | None,
    shard_bytes: int = tensor_files.SHARD_BYTES,
) -> None:
    """Writes a folder in the released layout, dtypes as they are.

    origin: the config.json that the model came from, or nothing. carried: a file of the weights
    without effect, or None: projections of zeros and norms of ones then stand for them.
    UserError: a model that the layout cannot hold.
    """
    _refuse(config)
    leaves = hat_leaves(config, own=False)
    specs = written_specs(leaves, params)
    dtype = specs[NAMES["encoder/embedding/table"]].dtype
    dead = dead_specs(config, dtype)
    if carried is not None:
        kept = SafeTensors(carried, [carried])
        dead = {name: kept.specs[name] for name in dead if name in kept.specs}
        values = ((name, kept.read(name)) for name in dead)
    else:
        values = (
            (name, (np.ones if len(spec.shape) == 1 else np.zeros)(spec.shape, spec.dtype))
            for name, spec in dead.items()
        )

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        yield from written_tensors(leaves, params)
        yield from values

    fields = _merged(origin, hat_fields(config, dtype.name, max_word_bytes))
    write_json(folder / hf_config.CONFIG_FILE, _with_limits(fields))
    tensor_files.write_folder(folder, specs | dead, tensors(), shard_bytes)
    _write_ids(folder / CARRIED, config, params)


def _merged(origin: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Ours, and what else origin says, in the objects inside as well."""
    both = dict(origin)
    for name, value in ours.items():
        inner = both.get(name)
        both[name] = _merged(inner, value) if isinstance(inner, dict) and value else value
    return both


def _write_ids(folder: Path, config: HatConfig, params: Params) -> None:
    """The rows of ours that the layout has no place for."""
    folder.mkdir()
    arrays = paths(params)
    tables = {
        name: np.asarray(arrays[path]).T if path.endswith("/kernel") else np.asarray(arrays[path])
        for path, name in OWN.items()
    }
    rows = {name: table[own_ids(config)] for name, table in tables.items()}
    specs = {name: Spec(table.dtype, table.shape) for name, table in rows.items()}
    tensor_files.write_file(folder / IDS_FILE, specs, iter(rows.items()))


def _refuse(config: HatConfig) -> None:
    """UserError where the released layout has no place for a part of the config."""
    for name in ("encoder", "backbone", "decoder"):
        stack = getattr(config, name)
        if stack.qkv_bias:
            raise UserError(f"model.{name}.qkv_bias: the released layout has no biases")
        if stack.head_size * stack.num_heads != stack.hidden_size:
            raise UserError(
                f"model.{name}.head_dim {stack.head_size}: in the released layout it is "
                f"hidden_size / num_heads, {stack.hidden_size / stack.num_heads:g}"
            )


def _with_limits(fields: dict[str, Any]) -> dict[str, Any]:
    """With the context of the released models where a part names none."""
    parts = [fields, *(value for name, value in fields.items() if name.endswith("_config"))]
    for part in parts:
        part.setdefault("max_position_embeddings", MAX_POSITIONS)
    return fields


def hat_fields(config: HatConfig, dtype: str, max_word_bytes: int) -> dict[str, Any]:
    """The config.json of the released layout, read back by `read_hat`.

    `guide`, `native_ids` and `logit_softcap` are ours: the published fields have no such thing.
    """

    def cross(queries: int, keys: int, size: int, heads: int, norm: bool) -> dict[str, Any]:
        return {
            "hidden_size_q": queries,
            "hidden_size_kv": keys,
            "hidden_size": size,
            "num_attention_heads": heads,
            "attention_num_kv_heads": heads,
            "word_window_size": 1,
            "key_query_norm": norm,
            "key_query_norm_per_head": norm,
        }

    def stack_fields(stack: StackConfig, vocabulary: int) -> dict[str, Any]:
        return hf_config.write_stack(stack) | {
            "vocab_size": vocabulary,
            "mlp_bias": False,
            "use_cache": True,
            "sliding_window": stack.window,
            "key_query_norm": stack.qk_norm,
            "key_query_norm_per_head": stack.qk_norm,
            "is_neox_style": True,
            "logit_softcap": stack.logit_softcap,
        }

    encoder, connector, decoder = config.encoder, config.connector, config.decoder
    byte_size, word_size = encoder.hidden_size, config.backbone.hidden_size
    pooling = cross(
        word_size, byte_size, connector.hidden_size, connector.num_heads, connector.qk_norm
    )
    guiding = cross(byte_size, word_size, byte_size, decoder.num_heads, decoder.qk_norm)
    return {
        "architectures": ["HATForCausalLM"],
        "model_type": MODEL_TYPE,
        "torch_dtype": dtype,
        "special_token_dict": {"<|eot_id|>": RELEASED_EOT},
        "eos_token_id": RELEASED_EOT,
        "max_word_size": max_word_bytes,
        "sliding_window": encoder.window,
        "guide": config.guide,
        "native_ids": config.num_ids,
        "encoder_config": stack_fields(encoder, NUM_BYTES) | {"cross_attention_config": pooling},
        "backbone_config": stack_fields(config.backbone, 0),
        "decoder_config": stack_fields(decoder, NUM_BYTES)
        | {"cross_attention_config": guiding, "cross_attn_every_layer": True},
    }
