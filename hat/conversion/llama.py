"""Llama checkpoints: Hugging Face folders in and out, llama2.c files in."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from hat.conversion import hf_config, tensor_files
from hat.conversion.leaves import (
    LAYER,
    Ids,
    Leaf,
    check,
    make_leaves,
    read_params,
    stack_names,
    written_specs,
    written_tensors,
)
from hat.conversion.llama2c import Llama2c
from hat.conversion.tensor_files import Tensors
from hat.errors import UserError
from hat.models.llama import LlamaConfig, LlamaModel
from hat.models.model import Params
from hat.text.tokenizers import Tokenizer

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
NAMES = {
    "embedding/table": EMBEDDING,
    "head/norm/scale": "model.norm.weight",
    "head/projection/kernel": HEAD,
    **stack_names("backbone", f"model.layers.{LAYER}"),
}
# Tables of rotations that transformers once stored with the parameters.
IGNORED = ".rotary_emb.inv_freq"


@dataclasses.dataclass(frozen=True)
class LlamaCheckpoint:
    """A Llama in a foreign format, checked but not yet read.

    fields: its config.json. config: ours, with the end of text that the fields name.
    """

    fields: Mapping[str, Any]
    config: LlamaConfig
    tensors: Tensors

    def read(
        self, config: LlamaConfig, shardings: Params, parts: Sequence[str] = LlamaModel.parts
    ) -> Params:
        """The parameters of these parts of `config`, in the dtype of the file, placed as asked.

        UserError that lists the tensors missing, unexpected or misshapen, in any part.
        """
        leaves = llama_leaves(config, config.num_tokens)
        spare_head = config.tie_embeddings and HEAD in self.tensors.specs
        check(
            leaves,
            self.tensors,
            lambda name: name.endswith(IGNORED) or (spare_head and name == HEAD),
        )
        if spare_head and not _equal(self.tensors, HEAD, EMBEDDING):
            raise UserError(
                f"{self.tensors.where}: tie_word_embeddings is true, but {HEAD} differs from "
                f"{EMBEDDING}; set it to false in config.json"
            )
        wanted = [leaf for leaf in leaves if leaf.path.split("/")[0] in parts]
        return read_params(wanted, self.tensors, shardings)


def llama_leaves(config: LlamaConfig, rows: int) -> list[Leaf]:
    """The parameters of a Llama and their tensors in the Hugging Face layout; rows: of the
    embedding there."""
    ids = Ids(rows)
    ids_of = {"embedding/table": ids, "head/projection/kernel": ids}
    return make_leaves(config.build(), NAMES, ids_of)


def open_llama(path: Path) -> LlamaCheckpoint:
    """A Hugging Face folder, or a llama2.c `.bin` file. UserError: neither, or a damaged one."""
    if path.suffix in tensor_files.PICKLES:
        tensor_files.refuse_pickle(path)
    if path.is_dir():
        fields = hf_config.read_fields(path / hf_config.CONFIG_FILE)
        hf_config.read_llama(fields, "float32")  # another architecture is told before its tensors
        tensors = tensor_files.open_folder(path)
    else:
        tensors = Llama2c(path)
        fields = hf_config.Fields(tensors.config, str(path))
    embedding = tensors.specs.get(EMBEDDING)
    if embedding is None:
        raise UserError(f"{path} does not hold what its config says: {EMBEDDING} is missing")
    bfloat16 = embedding.dtype == ml_dtypes.bfloat16
    config = hf_config.read_llama(fields, "bfloat16" if bfloat16 else "float32")
    end = fields.values.get("eos_token_id")
    end = end[0] if isinstance(end, list) and end else end
    if isinstance(end, int) and 0 <= end < config.num_tokens:
        config = dataclasses.replace(config, eot_id=end)
    return LlamaCheckpoint(fields.values, config, tensors)


def fit_tokenizer(config: LlamaConfig, tokenizer: Tokenizer, path: Path) -> LlamaConfig:
    """The config with the end of text of the tokenizer that was read from `path`.

    UserError: more tokens, or special ids, than the embedding has room for.
    """
    if tokenizer.vocab_size > config.num_tokens or tokenizer.eot >= config.num_ids:
        raise UserError(
            f"{path} has {tokenizer.vocab_size} tokens (its end of text is {tokenizer.eot}), and "
            f"the embedding {config.num_tokens} rows; give the model's own with --tokenizer FILE"
        )
    return dataclasses.replace(config, eot_id=tokenizer.eot)


def write_llama(
    folder: Path,
    config: LlamaConfig,
    params: Params,
    origin: Mapping[str, Any],
    specials: Mapping[str, int],
    max_positions: int,
    shard_bytes: int = tensor_files.SHARD_BYTES,
) -> None:
    """Writes config.json and safetensors in the Hugging Face layout, dtypes as they are.

    origin: the config.json that the model came from as it is, or nothing. specials: bos_token_id,
    eos_token_id, pad_token_id; these and max_positions are written where origin says nothing.
    """
    # What was converted has the rows that it had; what was trained here may end with an id of
    # its own behind the vocabulary.
    rows = config.num_tokens if origin or config.eot < config.num_tokens else config.num_ids
    leaves = llama_leaves(config, rows)
    specs = written_specs(leaves, params)
    dtype = specs[EMBEDDING].dtype.name
    fields = {"max_position_embeddings": max_positions, **specials}
    fields |= hf_config.write_llama(config, rows, dtype, origin)
    write_json(folder / hf_config.CONFIG_FILE, fields)
    tensor_files.write_folder(folder, specs, written_tensors(leaves, params), shard_bytes)


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def _equal(tensors: Tensors, one: str, other: str) -> bool:
    """Whether two tensors are the same, looked at a few megabytes at a time."""
    a, b = tensors.read(one), tensors.read(other)
    rows = max(1, 2**22 // math.prod(a.shape[1:]))
    return a.shape == b.shape and all(
        np.array_equal(a[i : i + rows], b[i : i + rows]) for i in range(0, len(a), rows)
    )
