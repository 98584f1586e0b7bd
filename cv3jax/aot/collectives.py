"""Count what a compiled program moves between chips: its collectives by kind, in bytes.

A collective inside a loop counts once for each step of the loop.

`payload` is the whole array that a group gathers, reduces or exchanges, in the type that travels.
`wire` is what each chip of a group of n sends (and receives) of it with ring algorithms:

    all-gather, reduce-scatter, all-to-all    payload · (n - 1) / n
    all-reduce                                payload · (n - 1) / n · 2
    collective-permute, broadcast             payload

The TPU compiler prints a reduce-scatter as a fusion named all-reduce-scatter, with an all-reduce
inside.
"""

import itertools
import math
import re
from typing import Any, NamedTuple

import jax
import numpy as np

from cv3jax.aot.hlo import SAME, Frame, Module, UnknownError
from cv3jax.aot.hlo_instruction import Instruction, array_bytes, collective

TURNS = {"all-reduce": 2}
WHOLE = ("collective-permute", "collective-broadcast")
# operations that pass on the numbers of an array, or fewer of them, or the numbers among zeros: a
# parameter that goes through these is still a parameter
PASSES = (
    *SAME,
    "transpose",
    "slice",
    "slice-start",
    "slice-done",
    "dynamic-slice",
    "pad",
    "all-reduce",
    "all-gather",
    "all-gather-start",
    "all-gather-done",
    "collective-permute",
    "collective-permute-start",
    "collective-permute-done",
)


# operations that join arrays, with the operands that they pass on
JOINS = {"dynamic-update-slice": slice(0, 2), "select": slice(1, 3), "concatenate": slice(None)}
# what the TPU compiler writes for joining slices that it copied one by one
JOINED = 'custom_call_target="ConcatBitcast"'
NOTHING = ("constant", "iota", "broadcast", "partition-id", "replica-id")
# the name scope of parameters that the step gathers itself; `jvp(gathered)` is one too
GATHERED = re.compile(r"(?:^|[/(])gathered(?:[/)]|$)")
PARAMETERS = re.compile(r"\b(params|ema|frozen)\b")  # in the name of a program's argument


class Collective(NamedTuple):
    """One collective of a compiled program."""

    kind: str
    # the chips of each group, by their number in the program; for a permutation, its pairs
    groups: tuple[tuple[int, ...], ...]
    times: int  # executions in one execution of the program
    payload: int  # bytes, in each execution
    wire: float  # bytes per chip, in each execution
    dtype: str
    parameters: bool  # whether it moves parameters and not activations or gradients
    scope: str  # the name scope in the traced function that it comes from

    @property
    def group(self) -> int:
        """The number of chips in its largest group."""
        return max(map(len, self.groups))

    @property
    def total(self) -> float:
        """The bytes on the wire per chip in one execution of the program."""
        return self.wire * self.times


def collectives(module: Module) -> list[Collective]:
    """Return the collectives of a compiled module.

    Raises UnknownError where the text does not show the length of a loop.
    """
    found = []
    for frame, it, times in module.walk():
        kind = collective(it.opcode)
        if kind == "all-reduce" and "all-reduce-scatter" in frame.computation:
            kind = "reduce-scatter"
        groups = replica_groups(it.attributes, module.devices)
        group = max(map(len, groups))
        operands = it.operands[:1] if kind == "collective-permute" else it.operands
        shapes = [module[frame, name].shape for name in operands]
        payload = sum(map(array_bytes, shapes)) * (group if kind == "all-gather" else 1)
        wire = payload if kind in WHOLE else payload * TURNS.get(kind, 1) * (group - 1) / group
        scope = it.op_name or (
            frame.call.op_name if frame.call and frame.call.opcode == "fusion" else ""
        )
        ours = kind in ("all-gather", "all-reduce", "collective-permute") and of_parameters(
            module, frame, it, scope
        )
        found.append(
            Collective(
                kind,
                groups,
                times,
                payload,
                wire,
                shapes[0].partition("[")[0].lstrip("("),
                ours,
                scope,
            )
        )
    return found


def replica_groups(attributes: str, devices: int) -> tuple[tuple[int, ...], ...]:
    """Return the chips of each replica group, or the pairs of a permutation.

    attributes: of the instruction, in any of the forms in which XLA writes groups. Raises
    UnknownError on another form.
    """
    if listed := re.search(
        r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]+\})\}", attributes
    ):
        return tuple(
            tuple(map(int, group.split(","))) for group in re.findall(r"\{([\d, ]+)\}", listed[1])
        )
    if counted := re.search(
        r"replica_groups=\[\d+,(\d+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", attributes
    ):
        return tuple(map(tuple, _iota(counted[2]).reshape(-1, int(counted[1])).tolist()))
    if mesh := re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}", attributes
    ):
        return _mesh_groups(*mesh.groups())
    if re.search(r"replica_groups=\{\}", attributes) or "replica_groups" not in attributes:
        return (tuple(range(devices)),)
    raise UnknownError(f"replica groups are written in an unknown form: {attributes[:200]}")


def _iota(text: str) -> np.ndarray:
    """Return the numbers that a form such as `[2,4]T(1,0)` means: 0..7 in two rows, transposed."""
    sizes, _, order = text.partition("T")
    sizes, order = ([int(n) for n in re.findall(r"\d+", part)] for part in (sizes, order))
    numbers = np.arange(math.prod(sizes)).reshape(sizes)
    return numbers.transpose(order) if order else numbers


def _mesh_groups(sizes: str, ids: str | None, axes: str) -> tuple[tuple[int, ...], ...]:
    """Return the replica groups of XLA's mesh form.

    sizes: as `'x'=16,'y'=4`. ids: the device numbers, as `[4,16]T(1,0)`; None for all in order.
    axes: as `'x','y'`; an axis may be only the part of it that `'x':(before)size` names.
    """
    shape = {name: int(size) for name, size in re.findall(r"'?([^',= ]+)'?=(\d+)", sizes)}
    count, step, steps = math.prod(shape.values()), 1, {}
    for name in reversed(shape):
        steps[name] = step
        step *= shape[name]
    numbers = (
        range(count)
        if not ids
        else (
            _iota(ids).ravel().tolist() if "T" in ids else [int(n) for n in re.findall(r"\d+", ids)]
        )
    )
    parts = []  # (stride in the mesh, size)
    for name, before, size in re.findall(r"'?([^',: ]+)'?(?::\((\d+)\)(\d+))?", axes):
        size = int(size or shape[name])
        parts.append((steps[name] * shape[name] // (int(before or 1) * size), size))
    offsets = [
        sum(place)
        for place in itertools.product(*(range(0, step * size, step) for step, size in parts))
    ]
    first = [at for at in range(count) if all(at // step % size == 0 for step, size in parts)]
    return tuple(tuple(numbers[at + offset] for offset in offsets) for at in first)


def of_parameters(module: Module, frame: Frame, it: Instruction, scope: str) -> bool:
    """Return whether `it` moves parameters, at most converted, sliced or padded before."""
    if GATHERED.search(scope):
        return True
    try:
        names = set().union(*(_origin(module, frame, name) for name in it.operands[:1]))
    except UnknownError:
        return False
    return bool(names) and all(PARAMETERS.search(name) for name in names)


def _origin(module: Module, frame: Frame, name: str) -> set[str]:
    """Return the names of the program's arguments that a value is made of.

    Raises UnknownError where the value is computed.
    """
    it = module[frame, name]
    if it.opcode == "parameter":
        if frame.parent is None:
            return {it.op_name or it.name}
        return _origin(module, *module.caller(frame, int(it.literal)))
    if it.opcode == "get-tuple-element" and not module[frame, it.operands[0]].opcode.startswith(
        "all-"
    ):
        return _origin(module, *module.element(frame, it.operands[0], int(it.attribute("index"))))
    if it.opcode in ("fusion", "call"):
        inner = Frame(it.calls[0], it, frame)
        return _origin(module, inner, module.roots[inner.computation])
    if it.opcode in NOTHING:
        return set()
    if it.opcode in PASSES or it.opcode == "get-tuple-element":
        return _origin(module, frame, it.operands[0])
    joined = JOINS.get("concatenate" if JOINED in it.attributes else it.opcode)
    if joined:
        return set().union(*(_origin(module, frame, operand) for operand in it.operands[joined]))
    raise UnknownError(f"{name} is not a constant but the result of {it.opcode}")


def by_kind(found: list[Collective]) -> dict[str, dict]:
    """Return the totals of each kind of collective in one execution, in bytes per chip.

    They are {kind: {count, payload_bytes, wire_bytes, wire_bytes_by_type, parameter_wire_bytes}}.
    """
    kinds: dict[str, dict] = {}
    for one in found:
        empty = {
            "count": 0,
            "payload_bytes": 0,
            "wire_bytes": 0.0,
            "wire_bytes_by_type": {},
            "parameter_wire_bytes": 0.0,
        }
        row = kinds.setdefault(one.kind, empty)
        row["count"] += one.times
        row["payload_bytes"] += one.payload * one.times
        row["wire_bytes"] += one.total
        row["wire_bytes_by_type"][one.dtype] = (
            row["wire_bytes_by_type"].get(one.dtype, 0.0) + one.total
        )
        row["parameter_wire_bytes"] += one.total * one.parameters
    return dict(sorted(kinds.items()))


class Minimum(NamedTuple):
    """The bytes on the wire per chip that one fully sharded train step needs at least."""

    gather: float
    reduce: float

    @property
    def total(self) -> float:
        """Both together."""
        return self.gather + self.reduce


def fsdp_minimum(params: Any, *, microbatches: int, gathers: int, train: bool) -> Minimum:
    """Return the least traffic of fully sharded training.

    Each parameter is gathered `gathers` times per microbatch in bfloat16. Each gradient is reduced
    once in float32.

    A gradient that is sharded over "fsdp" is reduced over it once per microbatch, since there is no
    memory to keep a whole gradient in. Over the axes that hold copies ("data", "context", and
    "fsdp" for what is not sharded) it is reduced once per step. params: ShapeDtypeStructs with
    shardings.
    """
    gather = reduce = 0.0
    for leaf in jax.tree.leaves(params):
        mesh, shard = leaf.sharding.mesh, math.prod(leaf.sharding.shard_shape(leaf.shape))
        sharded = {
            axis
            for entry in leaf.sharding.spec
            if entry
            for axis in ((entry,) if isinstance(entry, str) else entry)
        }
        ways = mesh.shape["fsdp"] if "fsdp" in sharded else 1
        copies = math.prod(
            mesh.shape[axis]
            for axis in ("data", "context", "fsdp")
            if axis in mesh.shape and axis not in sharded
        )
        gather += gathers * microbatches * min(leaf.dtype.itemsize, 2) * shard * (ways - 1)
        if train:
            reduce += 4 * shard * (microbatches * (ways - 1) + 2 * (copies - 1) / copies)
    return Minimum(gather, reduce)
