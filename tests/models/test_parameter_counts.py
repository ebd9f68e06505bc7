"""The named configs have the published numbers of parameters, to the last one."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest

from hat import config
from hat.models.layers import StackConfig
from hat.models.llama import LlamaConfig
from tests.models import toy

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

# arXiv 2603.15953 and the published checkpoints: encoder with connector, backbone, decoder with
# head, total. The first total is that of the converted model, the second has QK-norm besides.
NORMS = 2 * 128  # of the queries and the keys of one attention
RELEASED = {
    "tfree_hat_8b_llama": (119_291_904, 6_979_584_000, 93_619_200, 7_192_495_104),
    "tfree_hat_7b": (
        119_291_904 + NORMS * (6 + 1),
        6_979_584_000 + NORMS * 32,
        93_619_200 + NORMS * (4 + 4),
        7_192_507_136,
    ),
}
NAMES = [*RELEASED, "tfree_hat_70b"]


def load(name):
    return config.load(CONFIGS / f"{name}.py").model.build()


@pytest.mark.parametrize("name", RELEASED)
def test_released_counts(name):
    model = load(name)
    counts = model.released_parameter_counts()
    assert (
        counts["encoder"] + counts["connector"],
        counts["backbone"],
        counts["decoder"] + counts["head"],
        sum(counts.values()),
    ) == RELEASED[name]


def test_released_counts_of_the_70b_model():
    """Published exactly for the backbone, in millions for the rest: 476.6M, 373.9M, 69.30B."""
    counts = load("tfree_hat_70b").released_parameter_counts()
    assert counts["backbone"] == 68_452_352_000
    assert round((counts["encoder"] + counts["connector"]) / 1e6, 1) == 476.6
    assert round((counts["decoder"] + counts["head"]) / 1e6, 1) == 373.9
    assert round(sum(counts.values()) / 1e9, 2) == 69.30


@pytest.mark.parametrize("name", NAMES)
def test_released_counts_equal_the_published_formula(name):
    """In the widths d, D and m and the numbers of layers, with cross-attention in full."""
    model = load(name)
    config = model.config
    d, D = config.encoder.hidden_size, config.backbone.hidden_size
    m = config.encoder.intermediate_size
    qk = NORMS if config.encoder.qk_norm else 0
    block = 4 * d * d + 3 * d * m + 2 * d + qk
    guide = 2 * d * d + 2 * D * d + d + D + qk
    layers = config.backbone.num_layers
    grouped = config.backbone.kv_heads * config.backbone.head_size
    wide = 2 * D * D + 2 * D * grouped + 3 * D * config.backbone.intermediate_size + 2 * D + qk
    assert model.released_parameter_counts() == {
        "encoder": 256 * d + config.encoder.num_layers * block,
        "connector": D + 2 * D * D + 2 * d * D + qk,
        "backbone": layers * wide,
        "decoder": config.decoder.num_layers * (block + guide) + D,
        "head": d + 256 * d,
    }


@pytest.mark.parametrize("name", NAMES)
def test_our_layout_lacks_the_dead_weights_and_has_more_ids(name):
    model = load(name)
    config, ours, released = (
        model.config,
        model.parameter_counts(),
        model.released_parameter_counts(),
    )
    d, D = config.encoder.hidden_size, config.backbone.hidden_size
    dead = d * d + d * D + d + (NORMS if config.decoder.qk_norm else 0)  # q, k, query norm, QK
    assert ours["encoder"] - released["encoder"] == (264 - 256) * d
    assert ours["head"] - released["head"] == (264 - 256) * d
    assert released["decoder"] - ours["decoder"] == config.decoder.num_layers * dead
    assert ours["connector"] == released["connector"]
    assert ours["backbone"] == released["backbone"]


# arXiv 2501.10322, table 2: of the backbone in billions, of encoder and of decoder in millions.
FIRST_PAPER = {
    "hat_2025_1b": (1.1, 23, 23), "hat_2025_3b": (4.3, 24, 24), "hat_2025_7b": (9.2, 55, 55),
}  # fmt: skip


@pytest.mark.parametrize("name", FIRST_PAPER)
def test_counts_of_the_first_paper(name):
    """Rounded as published; the 3B model's MLP is 9,600 wide where 8/3 of its width is none."""
    counts = load(name).parameter_counts()
    assert (
        round(counts["backbone"] / 1e9, 1),
        round(counts["encoder"] / 1e6),
        round((counts["decoder"] + counts["head"]) / 1e6),
    ) == FIRST_PAPER[name]


def test_counts_are_those_of_the_parameters():
    models = [config.build() for config in toy.CONFIGS.values()]
    models.append(toy.HAT_2025.build())
    stack = StackConfig(16, 2, 2, 24, qkv_bias=True, qk_norm=True)
    models += [LlamaConfig(stack, 40, tie_embeddings=tie).build() for tie in (True, False)]
    for model in models:
        params = jax.eval_shape(model.init, jax.random.key(0))
        assert jax.tree.structure(params) == jax.tree.structure(model.abstract_params())
        assert set(params) == set(model.parts)
        sizes = {part: sum(x.size for x in jax.tree.leaves(params[part])) for part in params}
        assert sizes == model.parameter_counts()
        axes = model.logical_axes()
        assert jax.tree.all(jax.tree.map(lambda x, names: x.ndim == len(names), params, axes))
