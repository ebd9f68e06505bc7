"""The released layout in and out: names, totals, logits, and every bit of both round trips."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
import torch

from hat import config as configs
from hat.commands.conversions import convert
from hat.conversion.leaves import written_specs
from hat.conversion.released_hat import dead_specs, hat_leaves
from hat.data.config import DataConfig
from hat.errors import UserError
from hat.inference.run import load_run
from hat.models.hat import HatConfig
from hat.training.config import TrainingConfig
from hat.training.converted_run import write_run
from hat.training.experiment import Experiment
from tests.conversion import folders, released
from tests.models import toy

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
WORDS = [b"On", b"ce", b" upon", b" a", "\u00fc".encode(), b" t", bytes([released.EOT])]

# float32 here against float64 there, logits of size 5. Measured: 1e-5 at most.
TOLERANCE = 1e-4


def as_batch(words: list[bytes]) -> dict[str, np.ndarray]:
    """One document without BOS, which the released models do not know."""
    ids = np.array([list(b"".join(words))], np.int32)
    T, N = ids.shape[1], len(words)
    return {
        "bytes": np.where(ids == released.EOT, 257, ids),
        "segment": np.ones((1, T), np.int32),
        "position": np.arange(T, dtype=np.int32)[None],
        "word": np.repeat(np.arange(N, dtype=np.int32), [len(w) for w in words])[None],
        "guide": np.full((1, T), -1, np.int32),
        "word_segment": np.ones((1, N), np.int32),
        "word_position": np.arange(N, dtype=np.int32)[None],
    }


def our_logits(run) -> np.ndarray:
    """float32 [T, 256] in the ids of the released layout, but for byte 192 itself."""
    found = np.asarray(toy.jit(run.model.logits)(run.params, as_batch(WORDS)))[0]
    return np.concatenate([found[:, :192], found[:, 257:258], found[:, 193:256]], axis=1)


@pytest.mark.parametrize(
    ("qk_norm", "names"),
    [(False, ("norm_query", "norm_key")), (True, ("norm_query", "norm_key")),
     (True, ("q_norm", "k_norm"))],
)  # fmt: skip
def test_logits_equal_torch_and_bits_come_back(qk_norm, names, tmp_path):
    config = released.config(qk_norm=qk_norm)
    tensors = released.random_tensors(config, norms=names)
    folder = released.save(tmp_path / "theirs", config, tensors)
    convert(folder, "native", tmp_path / "native")
    run = load_run(tmp_path / "native")
    assert run.model.config.guide == "released" and run.splitter.max_word_bytes == 100
    np.testing.assert_allclose(
        our_logits(run), released.forward(config, tensors, WORDS), rtol=0, atol=TOLERANCE
    )

    convert(tmp_path / "native", "hf-hat", tmp_path / "back")
    exported = folders.tensors(tmp_path / "back")
    if names[0] == "norm_query":
        folders.assert_same_tensors(folder, tmp_path / "back")
        back = released.forward(config, exported, WORDS)  # with the weights without effect
        np.testing.assert_allclose(our_logits(run), back, rtol=0, atol=TOLERANCE)
    assert set(exported) == set(released.shapes(config))
    written = configs_of(tmp_path / "back")
    for part in ("encoder_config", "backbone_config", "decoder_config"):
        assert {k: v for k, v in written[part].items() if k in config[part]} == config[part]


def configs_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def native_run(folder: Path, config: HatConfig) -> dict:
    """A HAT of ours with no parameter at a special value; the parameters."""
    model = config.build()
    params = toy.random_params(model)
    folder.mkdir()
    data = DataConfig(splitter="words:50")
    write_run(folder, Experiment("mine", config, data, TrainingConfig(steps=1)), params)
    return params


EXPORTABLE = dataclasses.replace(
    toy.EVERYTHING,
    encoder=dataclasses.replace(toy.EVERYTHING.encoder, head_dim=None, qkv_bias=False),
    decoder=dataclasses.replace(toy.EVERYTHING.decoder, qkv_bias=False),
)


@pytest.mark.parametrize("config", [toy.PLAIN, EXPORTABLE], ids=["plain", "everything"])
def test_a_hat_of_ours_comes_back_with_all_its_rows(config, tmp_path, capsys):
    params = native_run(tmp_path / "mine", config)
    convert(tmp_path / "mine", "hf-hat", tmp_path / "theirs")
    assert 'guide="earliest"' in capsys.readouterr().err
    convert(tmp_path / "theirs", "native", tmp_path / "back")
    run = load_run(tmp_path / "back")
    assert run.splitter.max_word_bytes == 50
    jax.tree.map(np.testing.assert_array_equal, run.params, params)
    ours = {
        name: dataclasses.replace(
            stack, num_kv_heads=stack.kv_heads, residual_init=None, head_dim=None
        )
        for name in ("encoder", "backbone", "decoder")
        for stack in [getattr(config, name)]
    }
    assert configs.differences(run.model.config, dataclasses.replace(config, **ours)) == []
    # What the layout asks for and ours never had cannot change its output.
    exported = folders.tensors(tmp_path / "theirs")
    assert not exported["decoder.decoder_layers.0.cross_attention.q_proj.weight"].any()
    assert (exported["decoder.decoder_layers.0.query_norm.weight"] == 1).all()


def test_the_end_of_text_is_byte_192_there_and_257_here(tmp_path):
    config = released.config(qk_norm=False)
    tensors = released.random_tensors(config, torch.bfloat16)
    convert(released.save(tmp_path / "theirs", config, tensors), "native", tmp_path / "native")
    params = load_run(tmp_path / "native").params
    theirs = tensors["encoder.embedding_layer.weight"].float().numpy()
    table = np.asarray(params["encoder"]["embedding"]["table"], np.float32)
    np.testing.assert_array_equal(table[:256], theirs)
    np.testing.assert_array_equal(table[256:258], theirs[[192, 192]])  # BOS as well
    assert not table[258:].any()
    convert(tmp_path / "native", "hf-hat", tmp_path / "back")
    folders.assert_same_tensors(tmp_path / "theirs", tmp_path / "back")
    # What training changes in the row of the end of text, and nothing else, arrives in 192.
    changed = jax.tree.map(np.array, params)
    changed["encoder"]["embedding"]["table"][257] += 1
    leaf = next(
        leaf for leaf in hat_leaves(load_run(tmp_path / "native").model.config, own=False)
        if leaf.path == "encoder/embedding/table"
    )
    (_, written), = leaf.write(changed["encoder"]["embedding"]["table"])
    rows = np.flatnonzero((written != table[:256]).any(axis=1))
    assert rows.tolist() == [192]


@pytest.mark.parametrize(
    ("name", "total"),
    [("tfree_hat_8b_llama", 7_192_495_104), ("tfree_hat_7b", 7_192_507_136)],
)
def test_names_and_totals_of_the_published_models(name, total):
    """Of abstract arrays: nothing is allocated."""
    config = configs.load(CONFIGS / f"{name}.py").model
    leaves = hat_leaves(config, own=False)
    specs = written_specs(leaves, config.build().abstract_params())
    specs |= dead_specs(config, np.dtype(np.float32))
    byte = dict(
        hidden_size=1024, intermediate_size=2816, num_attention_heads=8, num_key_value_heads=8,
        key_query_norm=name == "tfree_hat_7b",
    )  # fmt: skip
    norm = dict(key_query_norm=name == "tfree_hat_7b")
    expected = released.shapes(dict(
        encoder_config=byte | dict(
            num_hidden_layers=6,
            cross_attention_config=norm | dict(
                hidden_size_q=4096, hidden_size_kv=1024, hidden_size=4096, num_attention_heads=32
            ),
        ),
        backbone_config=norm | dict(
            hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
            num_attention_heads=32, num_key_value_heads=8,
        ),
        decoder_config=byte | dict(
            num_hidden_layers=4,
            cross_attention_config=norm | dict(
                hidden_size_q=1024, hidden_size_kv=4096, hidden_size=1024, num_attention_heads=8
            ),
        ),
    ))  # fmt: skip
    assert {name: spec.shape for name, spec in specs.items()} == expected
    assert sum(math.prod(spec.shape) for spec in specs.values()) == total


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        (None, {"special_token_dict": {"<|eot_id|>": 192, "<|x|>": 193}}, "special_token_dict"),
        ("decoder", {"cross_attn_every_layer": False}, "cross_attn_every_layer"),
        ("encoder", {"mlp_bias": True}, "mlp_bias"),
        ("encoder", {"hidden_size": 20}, "hidden_size 16 must equal"),
        ("backbone", {"intermediate_size": 41}, r"misshapen \(backbone.layers.0.mlp"),
        ("backbone", {"num_hidden_layers": 4}, "9 missing"),
        ("decoder", {"num_hidden_layers": 1}, "unexpected"),
        ("backbone", {"rope_theta": "many"}, "backbone_config: rope_theta"),
    ],
)
def test_folders_that_are_refused(part, change, said, tmp_path):
    config = released.config(qk_norm=False)
    tensors = released.random_tensors(config)
    fields = config if part is None else config[f"{part}_config"]
    fields |= change
    folder = released.save(tmp_path / "theirs", config, tensors)
    with pytest.raises(UserError, match=said) as error:
        convert(folder, "native", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["theirs"]


@pytest.mark.parametrize(
    ("stack", "said"), [(dict(qkv_bias=True), "qkv_bias"), (dict(head_dim=8), "head_dim 8")]
)
def test_models_that_the_layout_cannot_hold(stack, said, tmp_path):
    backbone = dataclasses.replace(toy.PLAIN.backbone, **stack)
    native_run(tmp_path / "mine", dataclasses.replace(toy.PLAIN, backbone=backbone))
    with pytest.raises(UserError, match=said):
        convert(tmp_path / "mine", "hf-hat", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
