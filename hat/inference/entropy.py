"""The model of entropy patches, taken from a run of a flat byte-level Llama."""

from __future__ import annotations

import numpy as np

from hat.errors import UserError
from hat.inference.run import Run
from hat.models.layers import rope_frequencies
from hat.models.llama import LlamaModel
from hat.text.byte_model import ByteModel, Layer
from hat.text.ids import EOT, NUM_BYTES


def byte_model(run: Run) -> tuple[ByteModel, int]:
    """The model of a run and its window. UserError: a model of tokens or words, one that sees
    without a window, or one with parts that `hat.text.byte_model` does not know."""
    experiment, config = run.experiment, run.experiment.model
    if not isinstance(run.model, LlamaModel) or experiment.data.tokenizer != "bytes":
        raise UserError(
            f"run {experiment.name} is no flat byte model; train one with data.tokenizer=bytes, such "
            "as configs/quickstart_bytes.py"
        )
    stack = config.stack
    if stack.window is None:
        raise UserError(
            f"run {experiment.name}: entropy patches need a model with a window, which sees a text "
            "of any length as it learned to; set model.stack.window"
        )
    for name in ("rope_scaling", "logit_softcap"):
        if getattr(stack, name) is not None:
            raise UserError(f"run {experiment.name}: entropy patches know no model.stack.{name}")
    if stack.qkv_bias:
        raise UserError(f"run {experiment.name}: entropy patches know no model.stack.qkv_bias")

    def array(leaf) -> np.ndarray:
        return np.asarray(leaf, np.float32)

    params = run.params
    blocks, head, table = params["backbone"], params["head"], array(params["embedding"]["table"])
    attention, mlp = blocks["attention"], blocks["mlp"]
    layers = []
    for i in range(stack.num_layers):
        norms = {}
        if stack.qk_norm:
            norms = {name: array(attention[name]["scale"][i]) for name in ("q_norm", "k_norm")}
        kernels = {name: array(attention[name]["kernel"][i]) for name in "qkvo"}
        kernels |= {name: array(mlp[name]["kernel"][i]) for name in ("gate", "up", "down")}
        layers.append(
            Layer(
                attention_norm=array(blocks["attention_norm"]["scale"][i]),
                mlp_norm=array(blocks["mlp_norm"]["scale"][i]),
                **kernels,
                **norms,
            )
        )
    kernel = table.T if config.tie_embeddings else array(head["projection"]["kernel"])
    model = ByteModel(
        embedding=table,
        layers=tuple(layers),
        norm=array(head["norm"]["scale"]),
        head=kernel[:, [*range(NUM_BYTES), EOT]],
        frequencies=array(rope_frequencies(stack.head_size, stack.rope_theta, None)),
        eps=np.float32(stack.norm_eps),
    )
    return model, stack.window
