"""What a traced program computes, counted on its jaxpr: recomputation and loops included.

Products of matrices alone, a multiply-add as 2 FLOPs, as in hat.models.flops. XLA's own count
will not do: it counts the body of a loop once and hand-written kernels not at all.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from jax.extend import core


class Counted(NamedTuple):
    """Of one run of a program, over all devices."""

    flops: float  # of matrix products
    kernel_flops: float  # of hand-written kernels, by their own estimates
    product_bytes: float  # operands and results of all of these
    largest_product: float  # bytes of the largest result
    uncounted: tuple[str, ...]  # kernels and loops that do not say what they cost

    @property
    def total_flops(self) -> float:
        return self.flops + self.kernel_flops

    def then(self, other: Counted, times: float = 1) -> Counted:
        """This, then `other` so many times."""
        return Counted(
            self.flops + times * other.flops,
            self.kernel_flops + times * other.kernel_flops,
            self.product_bytes + times * other.product_bytes,
            max(self.largest_product, other.largest_product),
            tuple(dict.fromkeys(self.uncounted + other.uncounted)),
        )


_NOTHING = Counted(0.0, 0.0, 0.0, 0.0, ())


def count(jaxpr: core.ClosedJaxpr | core.Jaxpr) -> Counted:
    """Counts `jaxpr`, such as `jax.jit(f).trace(...).jaxpr`."""
    total = _NOTHING
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            total = total.then(_product(equation))
        elif name == "pallas_call":
            total = total.then(_kernel(params))
        elif name.startswith("dot_product_attention"):  # cuDNN's
            total = total.then(_NOTHING._replace(uncounted=(f"kernel {name}",)))
        elif name == "cond":  # one branch runs: the dearest
            total = total.then(max(map(count, params["branches"]), key=lambda c: c.total_flops))
        else:
            for inner in _jaxprs(params):
                counted = count(inner)
                if name == "while" and counted.total_flops:
                    unknown = "a loop of unknown length, counted once"
                    counted = counted._replace(uncounted=(*counted.uncounted, unknown))
                total = total.then(counted, _times(name, params))
    return total


def _product(equation) -> Counted:
    (contracted, _), _ = equation.params["dimension_numbers"]
    operands, result = [v.aval for v in equation.invars], equation.outvars[0].aval
    inner = math.prod(operands[0].shape[dim] for dim in contracted)
    moved = sum(_bytes(aval) for aval in (*operands, result))
    return Counted(2.0 * inner * math.prod(result.shape), 0.0, moved, _bytes(result), ())


def _kernel(params: dict) -> Counted:
    estimate = params["cost_estimate"]
    if estimate is None:
        return _NOTHING._replace(uncounted=(f"kernel {params.get('name') or params['name_and_src_info']}",))
    return Counted(0.0, estimate.flops, estimate.bytes_accessed, 0.0, ())


def _bytes(aval) -> float:
    return float(math.prod(aval.shape) * aval.dtype.itemsize)


def _times(name: str, params: dict) -> int:
    """How often the jaxprs inside an equation run, over all devices."""
    if name == "scan":
        return params["length"]
    if name == "shard_map":  # its body is what one device computes
        axes = params.get("newly_manual_axes", params.get("manual_axes"))  # jax's names for it
        return math.prod(params["mesh"].shape[axis] for axis in axes)
    return 1


def _jaxprs(params: dict):
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, (core.ClosedJaxpr, core.Jaxpr)):
                yield item
