"""The `.bin` files of llama2.c, in their first layout, as the tensors of a Hugging Face Llama.

Seven little-endian int32 (dim, hidden, layers, heads, KV heads, vocabulary, negative where the
head is untied, context), then float32: every kind of tensor for all layers, and two tables of
rotations that nobody needs. Queries and keys are rotated in pairs of neighbours there, and in
pairs (i, i + K / 2) here, so the rows of their projections change places.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

import numpy as np

from hat.conversion.tensor_files import Spec, refuse_pickle
from hat.errors import UserError

_HEADER = struct.Struct("<7i")
_PICKLES = (b"PK\x03\x04", b"\x80")  # torch.save's archives, and bare pickles


class Llama2c:
    """Tensors of a `.bin` file by their Hugging Face names; `config` is their config.json."""

    def __init__(self, path: Path):
        """UserError: a file that cannot be read, is a pickle, is no such file, or is cut short."""
        self.where = path
        try:
            with path.open("rb") as file:
                head = file.read(_HEADER.size)
                if head.startswith(_PICKLES):
                    refuse_pickle(path)
                if len(head) < _HEADER.size:
                    raise UserError(f"{path} is no llama2.c checkpoint: it is too short")
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        dim, hidden, layers, heads, groups, vocab, context = _HEADER.unpack(head)
        described = 0
        if min(dim, hidden, layers, heads, groups, context) > 0 and vocab and not dim % heads:
            size = dim // heads
            layer = 2 * dim + 2 * dim * dim + 2 * dim * groups * size + 3 * dim * hidden
            tables = 2 if vocab < 0 else 1
            numbers = tables * abs(vocab) * dim + layers * layer + dim + 2 * context * (size // 2)
            described = _HEADER.size + 4 * numbers
        if described != len(self._map):
            raise UserError(
                f"{path} is no llama2.c checkpoint of the first layout, or is cut short: it has "
                f"{len(self._map):,} bytes, its header describes {described:,}; copy it again, or "
                "export it with version 0"
            )
        self._heads = {"q": heads, "k": groups}
        self.config = {
            "model_type": "llama",
            "hidden_size": dim,
            "intermediate_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": groups,
            "vocab_size": abs(vocab),
            "max_position_embeddings": context,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "tie_word_embeddings": vocab > 0,
        }
        self.specs: dict[str, Spec] = {}
        self._offsets: dict[str, int] = {}
        self._end = _HEADER.size

        def place(name: str, *shape: int) -> None:
            spec = Spec(np.dtype("<f4"), shape)
            self.specs[name], self._offsets[name] = spec, self._end
            self._end += spec.nbytes

        def place_layers(name: str, *shape: int) -> None:
            for layer in range(layers):
                place(f"model.layers.{layer}.{name}.weight", *shape)

        place("model.embed_tokens.weight", abs(vocab), dim)
        place_layers("input_layernorm", dim)
        place_layers("self_attn.q_proj", dim, dim)
        place_layers("self_attn.k_proj", groups * size, dim)
        place_layers("self_attn.v_proj", groups * size, dim)
        place_layers("self_attn.o_proj", dim, dim)
        place_layers("post_attention_layernorm", dim)
        place_layers("mlp.gate_proj", hidden, dim)
        place_layers("mlp.down_proj", dim, hidden)
        place_layers("mlp.up_proj", hidden, dim)
        place("model.norm.weight", dim)
        self._end += 2 * context * (size // 2) * 4
        if vocab < 0:
            place("lm_head.weight", -vocab, dim)

    def read(self, name: str) -> np.ndarray:
        shape = self.specs[name].shape
        flat = np.frombuffer(self._map, "<f4", int(np.prod(shape)), self._offsets[name])
        tensor = flat.reshape(shape)
        for kind, heads in self._heads.items():
            if name.endswith(f"self_attn.{kind}_proj.weight"):
                pairs = tensor.reshape(heads, -1, 2, shape[1])
                return pairs.swapaxes(1, 2).reshape(shape)
        return tensor

    def release(self) -> None:
        self._map.madvise(mmap.MADV_DONTNEED)
