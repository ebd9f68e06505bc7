"""What a compiled TPU program does, read off its text: collectives, products, bytes moved, cycles.

XLA's own totals count the body of a loop once. Here the number of turns is read from the constant
in the loop's condition. An asynchronous collective occurs several times under one channel; it is
counted once. Arrays in on-chip memory (`S(1)` and above) move no bytes of HBM.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator

import numpy as np

KINDS = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all",
    "collective-permute",
)  # fmt: skip
_FREE = {  # move nothing themselves
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "partition-id", "replica-id", "custom-call",
}  # fmt: skip
_ITEM_BITS = {"pred": 8, "token": 0, "opaque": 0, "s4": 4, "u4": 4}


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    shape: str  # as written, with its layout
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool


Computation = dict[str, Instruction]  # in the order of the schedule


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective, run `times` times. bytes: received by a chip each time.

    axes: those of the mesh that it joins. hidden: started before it is waited for.
    """

    kind: str
    axes: tuple[str, ...]
    bytes: float
    times: int
    hidden: bool


@dataclasses.dataclass(frozen=True)
class Product:
    """An instruction with products of matrices, run `times` times: each time's FLOPs and bytes."""

    flops: float
    bytes: float
    times: int


@dataclasses.dataclass(frozen=True)
class Costs:
    """Of one run of a program on one chip. Kernels written by hand are in none of it."""

    collectives: tuple[Collective, ...]
    products: tuple[Product, ...]
    hbm_bytes: float
    cycles: float  # the compiler's estimates, added up, 0 before it has generated code


def read_costs(text: str, mesh: dict[str, int]) -> Costs:
    """text: an optimized, scheduled module; mesh: sizes of the axes, the outermost first."""
    computations, entry = parse(text)
    collectives: list[Collective] = []
    products: list[Product] = []
    moved = cycles = 0.0
    for name, times in scheduled(computations, entry):
        computation = computations[name]
        collectives += _collectives(computations, name, times, mesh)
        for instruction in computation.values():
            size = _bytes_moved(instruction, computation, computations)
            moved += times * size
            if flops := _flops(instruction, computation, computations):
                products.append(Product(flops, size, times))
            found = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
            cycles += times * int(found[1]) if found else 0
    return Costs(tuple(collectives), tuple(products), moved, cycles)


# --- text -----------------------------------------------------------------------------------------

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_START = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r" ([\w\-]+)\(")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """The computations of a module, and the name of the entry."""
    computations: dict[str, Computation] = {}
    current, entry = {}, ""
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif start := _START.match(line):
            shape_end = _end_of_shape(line, start.end())
            opcode = _OPCODE.match(line, shape_end)
            if opcode is None:
                continue  # the header of the module
            close = _closing(line, opcode.end() - 1)
            operands = tuple(re.findall(r"%([\w.\-]+)", line[opcode.end() : close]))
            current[start[2]] = Instruction(
                start[2], line[start.end() : shape_end], opcode[1], operands, line[close + 1 :],
                bool(start[1]),
            )  # fmt: skip
            if opcode[1] in ("constant", "parameter"):  # its value or number stands for operands
                value = line[opcode.end() : close]
                current[start[2]] = dataclasses.replace(current[start[2]], operands=(value,))
    return computations, entry


def _end_of_shape(line: str, start: int) -> int:
    return _closing(line, start) + 1 if line[start] == "(" else line.index(" ", start)


def _closing(line: str, start: int) -> int:
    """Where the bracket opened at `start` closes."""
    depth = 0
    for index in range(start, len(line)):
        depth += (line[index] == "(") - (line[index] == ")")
        if not depth:
            return index
    raise ValueError(f"no end to the bracket at {start} of {line[:200]}")


def arrays(shape: str) -> list[tuple[float, bool]]:
    """(bytes, whether in HBM) of every array of a shape."""
    found = []
    for kind, dims, layout in _ARRAY.findall(shape):
        number = re.search(r"\d+", kind)
        bits = _ITEM_BITS.get(kind, int(number[0]) if number else 32)
        size = math.prod(int(dim) for dim in dims.split(",") if dim) * bits / 8
        found.append((size, "S(" not in layout))
    return found


def _size(shape: str) -> float:
    return sum(size for size, _ in arrays(shape))


def _called(instruction: Instruction, *keys: str) -> list[str]:
    """Names of the computations that an instruction names under `keys`."""
    found = []
    for key in keys:
        for one, many in re.findall(rf"\b{key}=(?:%?([\w.\-]+)|\{{([^}}]*)\}})",
                                    instruction.attributes):
            found += [one] if one else re.findall(r"[\w.\-]+", many)
    return found


# --- loops ----------------------------------------------------------------------------------------


def scheduled(computations: dict[str, Computation], entry: str) -> Iterator[tuple[str, int]]:
    """(name, how often it runs) of every computation outside fusions."""
    todo = [(entry, 1)]
    while todo:
        name, times = todo.pop()
        yield name, times
        for instruction in computations[name].values():
            if instruction.opcode == "while":
                (condition,) = _called(instruction, "condition")
                turns = trip_count(computations[condition])
                todo += [(body, times * turns) for body in _called(instruction, "body")]
            elif instruction.opcode in ("call", "conditional"):
                keys = ("to_apply", "true_computation", "false_computation", "branch_computations")
                todo += [(inner, times) for inner in _called(instruction, *keys)]


def trip_count(condition: Computation) -> int:
    """Turns of a loop that counts from 0 up to the one integer constant of its condition.

    ValueError: a condition of another kind.
    """
    constants = {
        int(instruction.operands[0])
        for instruction in condition.values()
        if instruction.opcode == "constant" and re.match(r"[su]32\[\]", instruction.shape)
    }
    if len(constants) != 1:
        raise ValueError(f"a loop whose condition has the constants {sorted(constants)}")
    return constants.pop()


# --- collectives ----------------------------------------------------------------------------------


def _collectives(computations, name, times, mesh) -> Iterator[Collective]:
    """Those of a scheduled computation, its fusions among them, each channel once.

    An asynchronous one occurs in the fusion that starts it, in every fusion that computes
    meanwhile (`async_collective_fusion`), and in the one that ends it.
    """
    occurrences: dict[tuple[str, str], list[tuple]] = {}
    for instruction, home, inside in _with_fusions(computations, name, ()):
        kind = instruction.opcode.removesuffix("-start")
        if kind in KINDS:
            channel = re.search(r"channel_id=(\d+)", instruction.attributes)
            key = kind, channel[1] if channel else instruction.name
            occurrences.setdefault(key, []).append((instruction, home, inside))
    for (kind, _), found in occurrences.items():
        instruction, home, inside = found[0]
        group = first_group(instruction.attributes)
        axes = axes_of(group, mesh)
        if not axes:
            continue  # a group of one
        given = sum(_size(home[operand].shape) for operand in instruction.operands)
        result = _size(instruction.shape)
        if instruction.opcode in ("all-gather-start", "collective-permute-start"):
            result -= given  # its tuple holds the operands too
        others = (len(group) - 1) / len(group)
        if kind == "all-reduce" and any("all-reduce-scatter" in fusion for fusion in inside):
            kind = "reduce-scatter"
        received = {
            "all-reduce": 2 * others * result,
            "reduce-scatter": others * given,
            "collective-permute": result,
        }.get(kind, others * result)
        hidden = any(
            instruction.opcode.endswith("-start") or any("async" in fusion for fusion in inside)
            for instruction, _, inside in found
        )
        yield Collective(kind, axes, received, times, hidden)


def _with_fusions(computations, name, inside) -> Iterator[tuple[Instruction, Computation, tuple]]:
    """Instructions of a computation and of what it fuses or starts: (it, its computation, names
    of the fused computations around it)."""
    for instruction in computations[name].values():
        yield instruction, computations[name], inside
        if instruction.opcode in ("fusion", "async-start", "custom-call"):
            for inner in _called(instruction, "calls", "called_computations"):
                yield from _with_fusions(computations, inner, (*inside, inner))


def first_group(attributes: str) -> list[int]:
    """The devices of a collective's first group, in any of the notations of HLO.

    ValueError: none of them.
    """
    if found := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", attributes):
        return [int(found[1]), int(found[2])]
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return [int(number) for number in found[1].split(",")]
    if found := re.search(
        r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes
    ):
        return _iota(found[3], found[4]).reshape(int(found[1]), int(found[2]))[0].tolist()
    if found := re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? "
        r"\{((?:'[^']+',?)+)\}",
        attributes,
    ):
        sizes = {axis: int(size) for axis, size in re.findall(r"'([^']+)'=(\d+)", found[1])}
        joined = set(re.findall(r"'([^']+)'", found[4]))
        ids = _iota(found[2] or str(math.prod(sizes.values())), found[3])
        ids = ids.reshape(list(sizes.values()))
        return ids[tuple(slice(None) if axis in joined else 0 for axis in sizes)].ravel().tolist()
    raise ValueError(f"cannot read the groups of a collective: {attributes[:200]}")


def _iota(dims: str, order: str | None) -> np.ndarray:
    """0, 1, 2 ... in an array of `dims`, its axes then in this `order`; both as in "2,4"."""
    sizes = [int(size) for size in dims.split(",")]
    axes = [int(axis) for axis in order.split(",")] if order else range(len(sizes))
    return np.arange(math.prod(sizes)).reshape(sizes).transpose(axes)


def axes_of(group: Iterable[int], mesh: dict[str, int]) -> tuple[str, ...]:
    """The axes of `mesh` along which the devices of `group` differ."""
    places = np.array(np.unravel_index(list(group), tuple(mesh.values())))
    return tuple(axis for axis, row in zip(mesh, places) if len(set(row.tolist())) > 1)


# --- products -------------------------------------------------------------------------------------


def _flops(instruction: Instruction, computation: Computation, computations) -> float:
    """Of the matrix products in an instruction and in what it fuses."""
    if instruction.opcode == "convolution":
        return convolution_flops(
            instruction.attributes,
            *(_dims(computation[name].shape) for name in instruction.operands),
            _dims(instruction.shape),
        )
    if instruction.opcode != "fusion":
        return 0.0
    return sum(
        _flops(inner, computations[name], computations)
        for name in _called(instruction, "calls")
        for inner in computations[name].values()
    )


def convolution_flops(attributes: str, left: list[int], right: list[int], out: list[int]) -> float:
    """A multiply-add as 2, taps that fall on padding as none. The TPU compiler writes every product
    of matrices as a convolution, often with heads as positions of which padding leaves one tap."""
    left_labels, right_labels, out_labels = re.search(
        r"dim_labels=(\w+)_(\w+)->(\w+)", attributes
    ).groups()
    window = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(re.findall(r"(\w+)=([\d_x\-]+)", window[1] if window else ""))
    flops = 2.0 * right[right_labels.index("i")]
    flops *= math.prod(out[out_labels.index(label)] for label in "bf")
    for label in filter(str.isdigit, out_labels):

        def field(name: str, default: str) -> int:
            values = fields[name].split("x") if name in fields else None
            return int((values[int(label)] if values else default).split("_")[0])

        stride, before = field("stride", "1"), field("pad", "0")
        left_gap, right_gap = field("lhs_dilate", "1"), field("rhs_dilate", "1")
        position = np.arange(out[out_labels.index(label)])[:, None] * stride - before
        position = position + np.arange(right[right_labels.index(label)]) * right_gap
        end = left[left_labels.index(label)] * left_gap
        flops *= ((position >= 0) & (position < end) & (position % left_gap == 0)).sum()
    return float(flops)


def _dims(shape: str) -> list[int]:
    return [int(dim) for dim in _ARRAY.search(shape)[2].split(",") if dim]


# --- bytes of HBM ---------------------------------------------------------------------------------


def _bytes_moved(instruction, computation, computations) -> float:
    """Read from and written to HBM by one instruction of a schedule."""
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done") or opcode.removesuffix("-start") in KINDS:
        return 0.0
    operands = [computation[name].shape for name in instruction.operands if name in computation]
    written = arrays(instruction.shape)
    if opcode.endswith("-start"):  # (destination, source, ...): a copy between memories
        return sum(size for size, in_hbm in written[:2] if in_hbm and size == written[0][0])
    inner = None
    if opcode == "fusion":
        (called,) = _called(instruction, "calls")
        inner = computations[called]
    read = 0.0
    for number, shape in enumerate(operands):
        whole = sum(size for size, in_hbm in arrays(shape) if in_hbm)
        read += min(whole, _part_read(inner, number, computations)) if inner else whole
    if inner is None and opcode in ("dynamic-slice", "gather", "slice"):
        read = min(read, _size(instruction.shape))
    if opcode == "dynamic-update-slice":
        update = _size(operands[1])
        return 2 * min(update, sum(size for size, in_hbm in written if in_hbm))
    if inner:  # in place: only what changes
        written = [
            (min(size, changed), in_hbm)
            for (size, in_hbm), changed in zip(written, _changed(inner), strict=True)
        ]
    return read + sum(size for size, in_hbm in written if in_hbm)


def _changed(fused: Computation) -> list[float]:
    """Bytes that change of every array that a fusion gives: of an update in place, the update's."""
    (root,) = (i for i in fused.values() if i.is_root)
    results = [fused[name] for name in root.operands] if root.opcode == "tuple" else [root]
    changed = []
    for result in results:
        while result.opcode == "bitcast":
            result = fused[result.operands[0]]
        if result.opcode in ("dynamic-update-slice", "scatter"):
            changed.append(_update(result, fused))
        else:
            changed += [math.inf] * len(arrays(result.shape))
    return changed


def _part_read(fused: Computation, number: int, computations) -> float:
    """Bytes that a fusion, and those inside it, read of its operand `number`, where they take
    slices of it; infinity where all of it is read."""
    (parameter,) = [
        i for i in fused.values() if i.opcode == "parameter" and i.operands == (str(number),)
    ]
    names, total = {parameter.name}, 0.0
    for instruction in fused.values():
        if not names & set(instruction.operands):
            continue
        if instruction.opcode == "bitcast":
            names.add(instruction.name)
        elif instruction.opcode in ("dynamic-slice", "gather", "slice"):
            total += _size(instruction.shape)
        elif instruction.opcode in ("dynamic-update-slice", "scatter") and (
            instruction.operands[0] in names
        ):
            total += 0.0  # overwritten in place
        elif instruction.opcode == "fusion":
            (called,) = _called(instruction, "calls")
            total += sum(
                _part_read(computations[called], place, computations)
                for place, name in enumerate(instruction.operands)
                if name in names
            )
        else:
            return math.inf
    return total


def _update(instruction: Instruction, computation: Computation) -> float:
    return _size(computation[instruction.operands[-1 if instruction.opcode == "scatter" else 1]].shape)
