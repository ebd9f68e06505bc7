"""A plan by formula: what one chip holds, computes, moves and receives in a step.

Takes milliseconds, so a sweep can look at hundreds of meshes. The model behind it, per chip, with
f = fsdp, t = tensor, r = replica, and a micro-batch of m rows a chip:

- parameters, moments and gradients are split f x t ways; a gathered copy of two layers is held
- each micro-batch gathers all matrices over f once forward and once backward, in bfloat16, while
  it computes, and scatters sums of their gradients over f and r, while it does not; what libtpu
  0.0.42 does otherwise over many chips, see SCATTERED_CHIPS
- each block sums its output over t twice in every pass
- the compiler's temporaries, fitted to compiled steps, see FITTED below
"""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np

from hat.models.hat import HatConfig
from hat.planning.roofline import Times, Traffic, Work, step_times
from hat.planning.step import Outline, check_model, shard_bytes, stacks
from hat.planning.topology import Topology
from hat.training.experiment import Experiment
from hat.training.sharding import check_rows, make_abstract_mesh

# Over more chips libtpu 0.0.42 gives every chip the whole sum of gradients, and over all chips of
# a torus of three dimensions it gathers by sums as well, while nothing is computed.
SCATTERED_CHIPS = 128

# FITTED to the first compiled step of launch/tpu.md.
UNFUSED = 0.6  # bytes moved outside products, per byte that products move
PRODUCTS_HELD = 3.0  # of the largest product (attention scores), in the backward pass of a block
POOLED_HELD = 3.0  # float32 copies of the bytes' values in the connector
KEPT_WITHOUT_REMAT = 3.0  # bytes kept for the backward pass, per byte of the products' results
GRADIENT_COPIES = 2.0  # of the float32 gradients, while the optimizer runs or micro-batches add


@dataclasses.dataclass(frozen=True)
class Plan:
    """One experiment on one topology. Bytes and FLOPs are of one chip and one step."""

    topology: Topology
    mesh: dict[str, int]  # devices along every axis
    remat: str
    batch_size: int
    accumulation_steps: int
    memory: dict[str, float]  # bytes, by what for
    work: Work
    times: Times
    model_flops: float
    row_length: int
    unit: str  # what a position of a row is: bytes, or tokens
    compiled: bool
    uncounted: tuple[str, ...] = ()

    @property
    def state(self) -> dict[str, float]:
        """The memory that holds the train state, and what is frozen: it is exact."""
        names = ("parameters", "optimizer", "frozen")
        return {name: self.memory[name] for name in names if name in self.memory}

    @property
    def memory_bytes(self) -> float:
        return math.fsum(self.memory.values())

    @property
    def can_fit(self) -> bool:
        """Whether the train state alone, and gradients as large as the parameters, fit."""
        least = sum(self.state.values()) + self.memory["parameters"]
        return least <= self.topology.usable_bytes

    @property
    def fits(self) -> bool:
        return self.memory_bytes <= self.topology.usable_bytes

    @property
    def mfu(self) -> float:
        """Predicted model FLOPs, on full rows, over the peak of the chips."""
        return self.model_flops / self.times.step / self.topology.chip.flops_per_second

    @property
    def positions_per_second(self) -> float:
        """Of all chips, in `unit`, on full rows."""
        return self.batch_size * self.row_length / self.times.step


def plan_by_formula(experiment: Experiment, topology: Topology, outline: Outline) -> Plan:
    """UserError: the mesh does not divide the chips or the model, or the batch does not divide."""
    training = experiment.training
    abstract = make_abstract_mesh(training.mesh, topology.num_chips)
    mesh = dict(abstract.shape)
    check_model(experiment, mesh)
    check_rows(abstract, training.batch_size, training.accumulation_steps)
    state = shard_bytes(outline, abstract)
    rows = training.batch_size // training.accumulation_steps // (mesh["replica"] * mesh["fsdp"])
    work = _work(experiment, topology, mesh, outline, rows)
    return Plan(
        topology=topology,
        mesh=mesh,
        remat=experiment.model.remat,
        batch_size=training.batch_size,
        accumulation_steps=training.accumulation_steps,
        memory=state | {"temporaries": _temporaries(experiment, mesh, outline, rows, state)},
        work=work,
        times=step_times(work, topology, mesh),
        model_flops=training.batch_size * outline.model_flops / topology.num_chips,
        row_length=experiment.data.row_length,
        unit="bytes" if experiment.data.tokenizer in (None, "bytes") else "tokens",
        compiled=False,
        uncounted=outline.row.uncounted,
    )


def _temporaries(experiment, mesh, outline, rows, state) -> float:
    """Bytes, with `rows` rows a chip and micro-batch. state: what `shard_bytes` says."""
    remat, tensor = experiment.model.remat, mesh["tensor"]
    size = np.dtype(outline.model.config.dtype).itemsize
    kept, widest = 0.0, 0.0
    for stack, positions in stacks(experiment):
        projected = stack.head_size * (2 * stack.num_heads + 2 * stack.kv_heads)
        inner = projected + 2 * stack.intermediate_size
        block = stack.hidden_size * (projected + 3 * stack.intermediate_size)
        # Between blocks the stream is whole along tensor; inside, it is split.
        edge = positions * stack.hidden_size * size
        dots = positions * (inner / tensor + 2 * stack.hidden_size) * size
        # Without recomputation what lies between the products stays too, float32 and products'
        # operands alike, and the scores of attention.
        scores = outline.row.largest_product / tensor
        everything = KEPT_WITHOUT_REMAT * dots + scores * 1.5
        attention = positions * projected / tensor * size
        per_row = {
            "full": edge, "attention": edge + attention, "dots": edge + dots, "none": everything,
        }[remat]  # fmt: skip
        kept += stack.num_layers * rows * per_row
        widest = max(
            widest,
            rows * positions * (6 * stack.hidden_size + 6 * stack.intermediate_size / tensor) * size
            + 2 * block / tensor * size,
        )
    held = PRODUCTS_HELD * rows * outline.row.largest_product / tensor
    if isinstance(experiment.model, HatConfig):
        pooled = experiment.data.row_length * experiment.model.connector.hidden_size * 4
        held += POOLED_HELD * rows * pooled / tensor
    copies = GRADIENT_COPIES + (experiment.training.accumulation_steps > 1)
    params = state["parameters"]
    if experiment.training.lora.rank is not None:  # the sums and their gradients
        held += 2 * state["frozen"]
    return kept + widest + held + copies * params + params * size / 4


def _work(experiment, topology, mesh, outline, rows) -> Work:
    """Of one chip, with `rows` rows in each micro-batch."""
    steps, tensor, fsdp = experiment.training.accumulation_steps, mesh["tensor"], mesh["fsdp"]
    size = np.dtype(outline.model.config.dtype).itemsize
    num_params = sum(outline.model.parameter_counts().values())
    share = rows * steps / tensor  # rows' worth of work that this chip does in a step
    products = share * outline.row.product_bytes
    num_trained = sum(leaf.size for leaf in jax.tree.leaves(outline.state.params))
    state = 6 * 4 * num_trained / (fsdp * tensor)  # read and write parameters and both moments
    unfused = UNFUSED * products + state

    def collective(kind, axis, gathered, passes, hidden):
        """`passes` times, the arrays of `gathered` bytes are split or whole over `axis`."""
        ways = mesh[axis]
        return Traffic(kind, (axis,), passes * gathered * (ways - 1) / ways, hidden)

    weights = num_params * size / tensor
    streams = math.fsum(
        stack.num_layers * rows * positions * stack.hidden_size * size
        for stack, positions in stacks(experiment)
    )
    # Twice forward, twice backward, and twice more where the forward pass runs again; a sum is a
    # scatter and a gather.
    sums = 2 * (4 if experiment.model.remat == "none" else 6)
    gather = collective("all-gather", "fsdp", weights, 2 * steps, True)
    gradients = collective("reduce-scatter", "fsdp", weights, steps, False)
    if topology.is_pod and fsdp > SCATTERED_CHIPS:
        gradients = collective("all-reduce", "fsdp", weights, 2 * steps, False)
    if topology.chip.torus_dims == 3 and fsdp == topology.num_chips > SCATTERED_CHIPS:
        gather = collective("all-reduce", "fsdp", weights, 4 * steps, False)
    traffic = (
        gather,
        gradients,
        collective("all-reduce", "replica", weights / fsdp, 2 * steps, False),
        collective("all-reduce", "tensor", streams, sums * steps, False),
    )
    return Work(
        flops=share * outline.row.total_flops,
        kernel_flops=share * outline.row.kernel_flops,
        hbm_bytes=products + unfused,
        products=((share * outline.row.flops, products),),
        traffic=tuple(item for item in traffic if item.bytes),
    )
