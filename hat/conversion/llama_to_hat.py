"""The first parameters of a HAT around the blocks of a Llama (arXiv 2603.15953).

The blocks become the backbone as they are; the Llama's embedding, last norm and head have no
place in it. Encoder, connector, decoder and head are drawn as for any new model.
"""

from __future__ import annotations

import dataclasses

import jax

from hat import config as configs
from hat.errors import UserError
from hat.models.hat import HatConfig
from hat.models.hat_2025 import Hat2025Config
from hat.models.layers import StackConfig
from hat.models.model import Params


def check_backbone(config: HatConfig | Hat2025Config, stack: StackConfig) -> None:
    """UserError that lists where the backbone of `config` is not the stack of a Llama."""
    ours = dataclasses.replace(
        config.backbone,
        residual_init=stack.residual_init,  # of new parameters alone
        num_kv_heads=config.backbone.kv_heads,
        head_dim=config.backbone.head_size,
    )
    theirs = dataclasses.replace(stack, num_kv_heads=stack.kv_heads, head_dim=stack.head_size)
    if differing := configs.differences(ours, theirs, ("config", "Llama")):
        raise UserError(
            f"the backbone of the config is not the stack of the Llama: {'; '.join(differing)}; "
            "take them from the Llama with --fit, or use its config"
        )


def init_around(
    config: HatConfig | Hat2025Config, backbone: Params, key: jax.Array, shardings: Params
) -> Params:
    """The parameters of a HAT with the blocks of a Llama, everything else as `init` draws it.

    backbone: the part of that name of a Llama, in its dtype. shardings: of all parameters of the
    HAT; what is new is made in place.
    """
    model = config.build()

    def new_parts(key):
        return {name: part for name, part in model.init(key).items() if name != "backbone"}

    places = {name: part for name, part in shardings.items() if name != "backbone"}
    params = jax.jit(new_parts, out_shardings=places)(key)  # the compiler drops what is not asked
    return params | {"backbone": {"layers": backbone}}
