"""Plans in words and tables."""

from __future__ import annotations

import dataclasses

from hat.planning.formula import Plan
from hat.planning.roofline import UNCERTAINTY
from hat.planning.sweep import describe


def advice(plan: Plan) -> str:
    """What to change first when a plan does not fit in HBM."""
    held = sum(plan.state.values())
    rows = plan.batch_size // plan.accumulation_steps // (plan.mesh["replica"] * plan.mesh["fsdp"])
    if held > plan.topology.usable_bytes / 2:
        if plan.mesh["replica"] > 1:
            return "lower training.mesh.replica and raise fsdp: state is split over fsdp and tensor"
        return "take more chips: state is already split over all of them"
    if rows > 1:
        return f"raise training.accumulation_steps: a chip holds {rows} rows at a time"
    if plan.remat != "full":
        return f"set model.remat=full: {plan.remat} keeps more of the forward pass"
    return "raise training.mesh.tensor: it splits a row's heads and MLP"


def shortfall(plan: Plan) -> str:
    """One line for a plan that does not fit."""
    parts = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in plan.memory.items())
    return (
        f"{describe(plan)} needs {plan.memory_bytes / 1e9:.1f} GB of HBM a chip ({parts}; "
        f"{_source(plan)}), and {plan.topology.chip.name} has "
        f"{plan.topology.usable_bytes / 1e9:.1f} GB; {advice(plan)}"
    )


def text(name: str, plan: Plan) -> str:
    """A plan in full."""
    times, work = plan.times, plan.work
    lines = [
        f"{name} on {plan.topology.name}: {describe(plan)}",
        f"  by {_source(plan)}; {UNCERTAINTY}",
        "",
        f"HBM per chip      {plan.memory_bytes / 1e9:8.1f} GB of "
        f"{plan.topology.usable_bytes / 1e9:.1f} ({plan.memory_bytes / plan.topology.usable_bytes:.0%})",
        *(f"  {part:<16}{size / 1e9:8.1f} GB" for part, size in plan.memory.items()),
        f"FLOPs per chip    {work.flops / 1e12:8.1f} TFLOP a step, of which the model's "
        f"{plan.model_flops / 1e12:.1f}",
        f"HBM traffic       {work.hbm_bytes / 1e9:8.1f} GB a step",
        "received per chip",
        *(
            f"  {kind:<16}{size / 1e9:8.1f} GB over {', '.join(axes)}"
            f"{', hidden' if hidden else ', exposed'}"
            for (kind, axes, hidden), size in sorted(_traffic(plan).items())
        ),
        "",
        f"compute           {times.compute:8.3f} s at the chip's peak",
        f"HBM               {times.hbm:8.3f} s",
        f"interconnect      {times.interconnect:8.3f} s",
        f"step, predicted   {times.step:8.3f} s; the largest bound is {times.bound}",
        f"MFU, predicted    {plan.mfu:8.1%}",
        f"throughput        {plan.positions_per_second / 1e6:8.2f} million {plan.unit}/s, "
        f"{plan.positions_per_second / plan.topology.num_chips:,.0f} a chip",
    ]
    lines += [f"not counted: {what}" for what in plan.uncounted]
    return "\n".join(lines)


def table(plans: list[Plan]) -> str:
    """Plans as rows of a Markdown table."""
    lines = [
        "| replica | fsdp | tensor | remat | batch | accumulation | HBM GB | compute s | HBM s "
        "| interconnect s | step s | MFU | million/s | by |",
        "|" + "---:|" * 3 + "---|" + "---:|" * 9 + "---|",
    ]
    for plan in plans:
        mesh = " | ".join(str(size) for size in plan.mesh.values())
        times = plan.times
        seconds = " | ".join(
            f"{s:.2f}" for s in (times.compute, times.hbm, times.interconnect, times.step)
        )
        fits = "" if plan.fits else " (does not fit)"
        lines.append(
            f"| {mesh} | {plan.remat} | {plan.batch_size} | {plan.accumulation_steps} "
            f"| {plan.memory_bytes / 1e9:.1f}{fits} | {seconds} | {plan.mfu:.0%} "
            f"| {plan.positions_per_second / 1e6:.2f} | {_source(plan)} |"
        )
    return "\n".join(lines)


def as_dict(plan: Plan) -> dict:
    """A plan for JSON: bytes, FLOPs and seconds."""
    return {
        "topology": plan.topology.name,
        "chips": plan.topology.num_chips,
        "mesh": plan.mesh,
        "remat": plan.remat,
        "batch_size": plan.batch_size,
        "accumulation_steps": plan.accumulation_steps,
        "compiled": plan.compiled,
        "fits": plan.fits,
        "memory_bytes": plan.memory,
        "memory_limit_bytes": plan.topology.usable_bytes,
        "flops": plan.work.flops,
        "model_flops": plan.model_flops,
        "hbm_bytes": plan.work.hbm_bytes,
        "collectives": [
            {"kind": kind, "axes": axes, "hidden": hidden, "bytes": size}
            for (kind, axes, hidden), size in sorted(_traffic(plan).items())
        ],
        "seconds": dataclasses.asdict(plan.times),
        "bound": plan.times.bound,
        "mfu": plan.mfu,
        f"{plan.unit}_per_second": plan.positions_per_second,
        "uncounted": plan.uncounted,
        "uncertainty": UNCERTAINTY,
    }


def _source(plan: Plan) -> str:
    return "compilation" if plan.compiled else "formula"


def _traffic(plan: Plan) -> dict[tuple, float]:
    total: dict[tuple, float] = {}
    for one in plan.work.traffic:
        key = one.kind, one.axes, one.hidden
        total[key] = total.get(key, 0.0) + one.bytes
    return total
