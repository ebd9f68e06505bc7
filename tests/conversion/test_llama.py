"""Llamas of transformers and llama2.c through conversion: the same logits, the same bits back."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers
from jax.sharding import SingleDeviceSharding

from hat.commands.conversions import convert
from hat.conversion.llama import open_llama
from hat.inference.run import load_run
from tests.conversion import folders
from tests.models import toy

# float32 here, float64 there but for its rotary tables; some dozens of dependent roundings of
# numbers as large as the largest logits, so that the tolerance is for logits of size 1.
TOLERANCE = 1e-5
TOKENS = np.random.default_rng(0).integers(0, 276, 24).tolist()


def logits(run, tokens) -> np.ndarray:
    """float32 [T, num_tokens]."""
    found = toy.jit(run.model.logits)(run.params, folders.token_batch(tokens))
    return np.asarray(found)[0, :, : run.model.config.num_tokens]


@pytest.mark.parametrize("family", folders.FAMILIES)
def test_logits_equal_transformers_and_bits_come_back(family, tmp_path):
    """Through shards on eight devices, and back to a folder that transformers reads."""
    theirs = folders.transformer(family)
    folder = folders.save_transformer(tmp_path / "theirs", theirs, "30KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    convert(folder, "native", tmp_path / "native")
    run = load_run(tmp_path / "native")
    expected = folders.exact_logits(theirs, TOKENS)
    assert np.abs(logits(run, TOKENS) - expected).max() < TOLERANCE * max(1, expected.max())

    convert(tmp_path / "native", "hf", tmp_path / "back")
    folders.assert_same_tensors(folder, tmp_path / "back")
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "back", attn_implementation="eager"
    )
    assert type(again) is type(theirs)
    np.testing.assert_array_equal(folders.exact_logits(again, TOKENS), expected)
    assert (tmp_path / "back" / "tokenizer.json").read_text() == folders.tokenizer_json()


def test_bfloat16_stays_bfloat16_sharded_or_not(tmp_path):
    theirs = folders.transformer("llama 3.2", torch.bfloat16)
    folder = folders.save_transformer(tmp_path / "theirs", theirs)
    convert(folder, "native", tmp_path / "native")
    assert load_run(tmp_path / "native").model.config.dtype == "bfloat16"
    convert(tmp_path / "native", "hf", tmp_path / "back")
    folders.assert_same_tensors(folder, tmp_path / "back")

    from hat.training.converted_run import local_shardings

    checkpoint = open_llama(folder)
    model = checkpoint.config.build()
    one = SingleDeviceSharding(jax.devices()[0])
    whole = checkpoint.read(checkpoint.config, jax.tree.map(lambda _: one, model.abstract_params()))
    sharded = checkpoint.read(checkpoint.config, local_shardings(model))
    assert any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(sharded))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(sharded), strict=True):
        assert a.dtype == b.dtype == jax.numpy.bfloat16
        np.testing.assert_array_equal(np.asarray(a).view(np.uint16), np.asarray(b).view(np.uint16))


def test_what_training_made_is_exported_with_its_ids(tmp_path):
    """A model whose end of text lies behind its tokens exports rows for all of them."""
    theirs = folders.transformer("llama")
    folder = folders.save_transformer(tmp_path / "theirs", theirs)
    convert(folder, "native", tmp_path / "native", changes=["model.eot_id=none"])
    (tmp_path / "native" / "carried" / "config.json").write_text("{}")  # as a trained run has none
    convert(tmp_path / "native", "hf", tmp_path / "back")
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["vocab_size"] == 304
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    expected, found = (folders.exact_logits(model, TOKENS) for model in (theirs, again))
    np.testing.assert_allclose(found[:, :300], expected, rtol=0, atol=TOLERANCE)


def test_the_end_of_text_is_the_tokenizer_s(tmp_path):
    folder = folders.save_transformer(tmp_path / "theirs", folders.transformer("llama"))
    convert(folder, "native", tmp_path / "native")
    run = load_run(tmp_path / "native")
    assert run.model.config.eot == run.tokenizer.eot == run.tokenizer.bos == 276
    assert run.model.config.num_tokens == 300


def write_llama2c(path: Path, theirs) -> None:
    """A `.bin` file in the first layout, of a Llama of transformers with untied head.

    Written from the other side: neighbours are rotated together there, so dimension i of the
    first half of a head becomes 2i and of the second 2i + 1.
    """
    config, weights = theirs.config, theirs.state_dict()
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    size = config.hidden_size // heads
    header = (
        config.hidden_size, config.intermediate_size, config.num_hidden_layers, heads, groups,
        -config.vocab_size, config.max_position_embeddings,
    )  # fmt: skip

    def neighbours(weight, heads):
        rows = [h * size + half * (size // 2) + i
                for h in range(heads) for i in range(size // 2) for half in range(2)]
        return weight[rows]

    order = [
        ("input_layernorm", None), ("self_attn.q_proj", heads), ("self_attn.k_proj", groups),
        ("self_attn.v_proj", None), ("self_attn.o_proj", None), ("post_attention_layernorm", None),
        ("mlp.gate_proj", None), ("mlp.down_proj", None), ("mlp.up_proj", None),
    ]  # fmt: skip
    found = [weights["model.embed_tokens.weight"]]
    for name, rotated in order:
        for layer in range(config.num_hidden_layers):
            weight = weights[f"model.layers.{layer}.{name}.weight"]
            found.append(neighbours(weight, rotated) if rotated else weight)
    found += [weights["model.norm.weight"], torch.zeros(config.max_position_embeddings * size)]
    found.append(weights["lm_head.weight"])
    path.write_bytes(
        struct.pack("<7i", *header) + b"".join(w.numpy().tobytes() for w in found)
    )


def test_a_llama2c_file_is_the_same_model(tmp_path):
    theirs = folders.transformer("llama", num_key_value_heads=2, rope_theta=10_000.0)
    write_llama2c(tmp_path / "model.bin", theirs)
    convert(tmp_path / "model.bin", "hf", tmp_path / "out")
    expected = folders.save_transformer(tmp_path / "theirs", theirs)
    folders.assert_same_tensors(expected, tmp_path / "out")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    expected, found = (folders.exact_logits(model, TOKENS) for model in (theirs, again))
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


# --- real checkpoints, where they are at hand -----------------------------------------------------

WEIGHTS = next(
    (parent / "shared" / "data" / "weights" for parent in Path(__file__).resolve().parents
     if (parent / "shared" / "data" / "weights").is_dir()),
    None,
)
needs_weights = pytest.mark.skipif(
    WEIGHTS is None, reason="shared/data/weights is not beside the repository"
)


@needs_weights
@pytest.mark.parametrize("source", ["", "stories260K.bin"])
def test_stories260k(source, tmp_path):
    folder = WEIGHTS / "stories260K"
    convert(folder / source, "native", tmp_path / "run", tokenizer=folder / "tok512.model")
    run = load_run(tmp_path / "run")
    reference = json.loads((folder / "reference_logits.json").read_text())
    found = logits(run, reference["ids"])[-1]
    # float32 on both sides, written with six digits.
    np.testing.assert_allclose(found, reference["last_logits"], rtol=0, atol=1e-4)
    assert (run.tokenizer.bos, run.model.config.eot) == (1, 2)
    convert(tmp_path / "run", "hf", tmp_path / "back")
    folders.assert_same_tensors(folder, tmp_path / "back")


@needs_weights
def test_tiny_llama_random(tmp_path):
    folder = WEIGHTS / "tiny_llama_random"
    convert(folder, "native", tmp_path / "run", changes=["model.dtype=float32"])
    meta = dict(
        line.split("=") for line in (folder / "tiny_llama_meta.txt").read_text().splitlines()
    )
    golden = np.fromfile(folder / "tiny_llama_golden.bin", "<f4").reshape(40, 112)
    from hat.training.converted_run import local_shardings

    checkpoint = open_llama(folder)
    config = dataclasses.replace(checkpoint.config, dtype="float32")
    model = config.build()
    params = checkpoint.read(config, local_shardings(model))
    tokens = [int(token) for token in meta["tokens"].split(",")]
    found = toy.jit(model.logits)(params, folders.token_batch(tokens))[0, :, :112]
    # bfloat16 parameters, float32 sums.
    np.testing.assert_allclose(found, golden, rtol=0, atol=1e-3)
    convert(tmp_path / "run", "hf", tmp_path / "back")
    folders.assert_same_tensors(folder, tmp_path / "back")
