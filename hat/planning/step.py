"""The training step of an experiment, traced for devices that need not be there."""

from __future__ import annotations

import dataclasses
import functools
import math
import re

import jax
import numpy as np

from hat.dynamic_tokenization.objective import Dynamic
from hat.errors import UserError
from hat.models.attention.splash import block_size
from hat.models.flops import TRAINING_FACTOR
from hat.models.hat_2025 import Hat2025Config
from hat.models.hypernetwork import RowPredictorConfig
from hat.models.llama import LlamaConfig
from hat.models.layers import StackConfig
from hat.models.model import LanguageModel
from hat.planning.flops import Counted, count
from hat.planning.topology import Topology
from hat.training.config import LoraConfig, MeshConfig, PreferenceConfig
from hat.training.distill_config import DistillConfig
from hat.training.experiment import Experiment
from hat.training.objectives import Objective, Openers, make_objective
from hat.training.program import Program
from hat.training.sharding import (
    AnyMesh,
    make_abstract_device,
    make_abstract_mesh,
    param_shardings,
    state_shardings,
)
from hat.training.step import TrainState


def batch_shapes(experiment: Experiment) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays of a global batch, [B, T] and [B, N]."""
    data, rows = experiment.data, experiment.training.batch_size
    answers = () if data.format == "text" else ("answer",)
    if isinstance(experiment.model, LlamaConfig):
        names = ("tokens", "segment", "position", "token_bytes", *answers)
        return dict.fromkeys(names, (rows, data.row_length))
    per_byte = ("bytes", "segment", "position", "word", "guide", *answers)
    return dict.fromkeys(per_byte, (rows, data.row_length)) | dict.fromkeys(
        ("word_segment", "word_position"), (rows, data.row_words)
    )


def annotated_shapes(experiment: Experiment, objective: Objective) -> dict[str, tuple[int, ...]]:
    """The same with what the objective needs besides: its shapes do not depend on the text."""
    shapes = batch_shapes(experiment)
    padding = {name: np.zeros((1, *shape[1:]), np.int32) for name, shape in shapes.items()}
    rows = experiment.training.batch_size
    return {
        name: (rows, *row.shape[1:]) for name, row in objective.annotate(padding, 0).items()
    }


def trace_step(experiment: Experiment, mesh: AnyMesh) -> jax.stages.Traced:
    """The step that `hat train` would run on `mesh`, of the dearest stage of its objective.
    UserError: see `Program`."""
    return _dearest(_program(experiment, mesh))[0]


class _NoTexts:
    """In place of a ByteTeacher, whose part is before the step: rows of padding have no text."""

    def logprobs_of(self, texts):
        return []


def planned_objective(experiment: Experiment) -> Objective:
    """That of the experiment, without text. UserError: a hypernetwork; what it rests on is not
    there."""
    if isinstance(experiment.model, RowPredictorConfig):
        raise UserError(
            "a hypernetwork makes its rows once a step and not once a row, which hat plan cannot "
            "count; plan its base with configs/dynamic_adaptation.py, and leave room for it"
        )
    dynamic = functools.partial(Dynamic.open, read_text=False)
    return make_objective(experiment, Openers(lambda folder: _NoTexts(), dynamic))


def _program(experiment: Experiment, mesh: AnyMesh) -> Program:
    objective = planned_objective(experiment)
    return Program(experiment, [annotated_shapes(experiment, objective)], mesh, objective)


def _dearest(program: Program) -> tuple[jax.stages.Traced, Counted]:
    """Of the stages of an objective."""
    steps = [(step, count(step.jaxpr)) for step in program.traced_steps.values()]
    return max(steps, key=lambda pair: pair[1].total_flops)


@dataclasses.dataclass(frozen=True)
class Outline:
    """What a plan needs to know of an experiment that no mesh and no batch size changes."""

    model: LanguageModel
    objective: Objective
    state: TrainState  # ShapeDtypeStructs
    row: Counted  # what the step computes for one row
    model_flops: float  # what MFU credits for a row without padding that holds one document


def outline(experiment: Experiment, topology: Topology) -> Outline:
    """Traces the step for one row on one chip of the topology: seconds."""
    training = dataclasses.replace(
        experiment.training, batch_size=1, accumulation_steps=1, mesh=MeshConfig(1, 1, 1)
    )
    kind = f"TPU {topology.chip.name}", "tpu"
    device = make_abstract_device(*(kind if topology.is_pod else (topology.chip.name, "gpu")))
    mesh = make_abstract_mesh(training.mesh, 1, device)
    one_row = dataclasses.replace(experiment, training=training)
    program = counted = _program(one_row, mesh)
    if training.lora.rank is not None:
        # The sums are made once for all rows, and cost next to nothing: a row's work is another's.
        every_weight = dataclasses.replace(training, lora=LoraConfig())
        counted = _program(dataclasses.replace(one_row, training=every_weight), mesh)
    data = experiment.data
    sizes = {"segment": data.row_length, "word_segment": data.row_words}
    row = {name: np.ones((1, size), np.int32) for name, size in sizes.items()}
    return Outline(
        model=program.model,
        objective=program.objective,
        state=program.abstract_state,
        row=add_attention(one_row, _dearest(counted)[1]),
        model_flops=TRAINING_FACTOR * sum(program.model.batch_flops(row).values()),
    )


def add_attention(experiment: Experiment, row: Counted) -> Counted:
    """`row` of an experiment whose attention runs in kernels that do not say what they cost, with
    their FLOPs by formula: whole blocks of keys, forward; twice where it runs again; backward in
    two kernels with 7 products together to the 2 of the forward pass."""
    kernels = [name for name in row.uncounted if re.search("splash|dot_product_attention", name)]
    if not kernels:
        return row
    passes = 1 + 7 / 2 + (experiment.model.remat in ("dots", "full"))
    flops = 0.0
    for stack, positions in stacks(experiment):
        block = block_size(positions)
        blocks = -(-positions // block)
        # A block of queries sees those blocks of keys that its own and the window reach.
        reach = blocks if stack.window is None else 1 + -(-(stack.window - 1) // block)
        seen = sum(min(i + 1, reach) for i in range(blocks))
        heads = stack.num_heads * stack.head_size
        flops += stack.num_layers * 4.0 * heads * seen * block * block
    rest = [name for name in row.uncounted if name not in kernels]
    if isinstance(experiment.training.objective, (DistillConfig, PreferenceConfig)):
        rest.append("attention of the model that is not trained")
    return row._replace(kernel_flops=row.kernel_flops + passes * flops, uncounted=tuple(rest))


def shard_bytes(outline: Outline, mesh: AnyMesh) -> dict[str, float]:
    """Bytes that one chip holds: "parameters" that are trained, the "optimizer"'s state, and, where
    there are any, parameters that are "frozen".

    UserError: a large parameter that no axis of the mesh divides.
    """
    objective = outline.objective
    trained = objective.trained(outline.model)
    params = trained.abstract_params()
    shardings = param_shardings(mesh, trained.logical_axes(), params)
    frozen = param_shardings(mesh, objective.frozen_axes, objective.frozen)

    def total(tree, shardings) -> float:
        return math.fsum(
            math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf, sharding in zip(
                jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True
            )
        )

    optimizer = outline.state.opt_state
    found = {
        "parameters": total(outline.state.params, shardings),
        "optimizer": total(optimizer, state_shardings(mesh, optimizer, params, shardings)),
        "frozen": total(objective.frozen, frozen),
    }
    return {name: size for name, size in found.items() if size or name != "frozen"}


def check_model(experiment: Experiment, mesh: dict[str, int]) -> None:
    """UserError unless `tensor` divides the heads and the MLP of every stack, `fsdp` its width."""
    for stack, _ in stacks(experiment):
        for axis, names in (
            ("tensor", ("num_heads", "kv_heads", "intermediate_size")),
            ("fsdp", ("hidden_size",)),
        ):
            for name in names:
                if getattr(stack, name) % mesh[axis]:
                    raise UserError(
                        f"training.mesh.{axis}={mesh[axis]} does not divide {name} "
                        f"{getattr(stack, name)} of a stack of {stack.num_layers} layers; choose a "
                        f"divisor of {math.gcd(*(getattr(s, name) for s, _ in stacks(experiment)))}"
                    )


def stacks(experiment: Experiment) -> list[tuple[StackConfig, int]]:
    """Every stack of blocks and its positions in a row."""
    model, data = experiment.model, experiment.data
    if isinstance(model, LlamaConfig):
        return [(model.stack, data.row_length)]
    positions = data.row_length
    if isinstance(model, Hat2025Config):  # and one before every word
        positions += data.row_words
    return [
        (model.encoder, positions),
        (model.backbone, data.row_words),
        (model.decoder, positions),
    ]
