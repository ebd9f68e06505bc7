"""Small checkpoints as other programs write them, for the tests of conversion."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import transformers

from hat.text.tokenizers import train_bpe

VOCABULARY = 300
SHAPE = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    attn_implementation="eager",
)
LLAMA3 = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=16,
)  # fmt: skip
FAMILIES = {  # every block that can be converted, in the class of transformers that computes it
    "llama": ("Llama", dict(rope_theta=300.0, num_key_value_heads=4)),
    "llama 3.2": ("Llama", dict(rope_theta=100.0, rope_scaling=LLAMA3, tie_word_embeddings=True)),
    "mistral": ("Mistral", dict(sliding_window=5, head_dim=8)),
    "mistral, no window": ("Mistral", dict(sliding_window=None, head_dim=8)),
    "qwen2": ("Qwen2", dict(tie_word_embeddings=True)),
    "qwen3": ("Qwen3", dict(head_dim=6)),
}


def transformer(family: str, dtype=torch.float32, **changes):
    """A model of transformers with every parameter drawn at random."""
    name, arguments = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**{**SHAPE, **arguments, **changes})
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            center = 0.0 if weight.ndim == 2 or "bias" in name else 1.0
            weight.normal_(center, 0.2)
    return model.to(dtype)


def tokenizer_json() -> str:
    """A byte-level BPE of 276 tokens and its end of text, id 276."""
    words = b"the cat sat on the mat and the hat sat on the cat, and that was that. "
    spec = json.loads(train_bpe([words * 4], 276)._text)
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    spec["added_tokens"] = [{"id": 276, "content": "<|end_of_text|>", **flags}]
    return json.dumps(spec)


def exact_logits(model, tokens) -> np.ndarray:
    """float64 [T, ids] of a transformers model: in float32 its own roundings reach 1e-5."""
    with torch.no_grad():
        return model.double()(torch.tensor([tokens])).logits[0].numpy()


def save_transformer(folder: Path, model, shard_size: str = "1GB") -> Path:
    """What transformers saves, and a tokenizer."""
    model.save_pretrained(folder, max_shard_size=shard_size)
    (folder / "tokenizer.json").write_text(tokenizer_json())
    return folder


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the safetensors files of a folder, read by the library."""
    from safetensors.torch import load_file

    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def assert_same_tensors(one: Path, other: Path) -> None:
    """Names, dtypes, shapes and every bit."""
    a, b = tensors(one), tensors(other)
    assert set(a) == set(b)
    for name, tensor in a.items():
        assert tensor.dtype == b[name].dtype and tensor.shape == b[name].shape, name
        assert torch.equal(tensor.view(torch.uint8), b[name].view(torch.uint8)), name


def token_batch(tokens: list[int], num_bytes: int = 1) -> dict[str, np.ndarray]:
    """One document as a row."""
    ids = np.array([tokens], np.int32)
    return {
        "tokens": ids,
        "segment": np.ones_like(ids),
        "position": np.arange(ids.size, dtype=np.int32)[None],
        "token_bytes": np.full_like(ids, num_bytes),
    }
