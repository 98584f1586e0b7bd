"""What a compiled program moves between chips: collectives by kind, counted with the loops they
stand in, in bytes.

`payload`: the whole array that a group gathers, reduces or exchanges, in the type it travels in.
`wire`: what each chip sends (and receives) of it with ring algorithms, in a group of n:

    all-gather, reduce-scatter, all-to-all    payload · (n - 1) / n
    all-reduce                                payload · (n - 1) / n · 2
    collective-permute, broadcast             payload

What the TPU compiler prints as a fusion named all-reduce-scatter, with an all-reduce inside, is a
reduce-scatter.
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
# what passes numbers on, perhaps fewer of them, or among zeros: an array that goes through these is
# still a parameter
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


# and their operands that are passed on
JOINS = {"dynamic-update-slice": slice(0, 2), "select": slice(1, 3), "concatenate": slice(None)}
# the TPU compiler's, of slices that it copied one by one
JOINED = 'custom_call_target="ConcatBitcast"'
NOTHING = ("constant", "iota", "broadcast", "partition-id", "replica-id")
# the name scope of parameters that the step gathers itself, `jvp(gathered)` too
GATHERED = re.compile(r"(?:^|[/(])gathered(?:[/)]|$)")
PARAMETERS = re.compile(r"\b(params|ema|frozen)\b")  # in the name of a program's argument


class Collective(NamedTuple):
    kind: str
    # the chips of each, by their number in the program; of a permutation, its pairs
    groups: tuple[tuple[int, ...], ...]
    times: int  # in one execution of the program
    payload: int  # bytes, each time
    wire: float  # bytes a chip, each time
    dtype: str
    parameters: bool  # whether it moves parameters, and not activations or gradients
    scope: str  # where in the traced function it comes from

    @property
    def group(self) -> int:
        """Chips in one."""
        return max(map(len, self.groups))

    @property
    def total(self) -> float:
        """Bytes on the wire of a chip in one execution."""
        return self.wire * self.times


def collectives(module: Module) -> list[Collective]:
    """Of a compiled module. Raises UnknownError where the length of a loop cannot be told."""
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
    """The chips of each replica group, in any of the forms that XLA writes them; of a permutation,
    its pairs.
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
    raise UnknownError(f"replica groups in an unknown form: {attributes[:200]}")


def _iota(text: str) -> np.ndarray:
    """`[2,4]T(1,0)`: 0..7 in two rows, transposed."""
    sizes, _, order = text.partition("T")
    sizes, order = ([int(n) for n in re.findall(r"\d+", part)] for part in (sizes, order))
    numbers = np.arange(math.prod(sizes)).reshape(sizes)
    return numbers.transpose(order) if order else numbers


def _mesh_groups(sizes: str, ids: str | None, axes: str) -> tuple[tuple[int, ...], ...]:
    """`'x'=16,'y'=4`, `[4,16]T(1,0)` (or all numbers), `'x','y'`; an axis may be the part of it
    that `'x':(before)size` names.
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
    parts = []  # (how far apart in the mesh, how many)
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
    """Whether what `it` moves comes from the program's parameters, only converted, sliced or padded
    on the way.
    """
    if GATHERED.search(scope):
        return True
    try:
        names = set().union(*(_origin(module, frame, name) for name in it.operands[:1]))
    except UnknownError:
        return False
    return bool(names) and all(PARAMETERS.search(name) for name in names)


def _origin(module: Module, frame: Frame, name: str) -> set[str]:
    """Names of the program's arguments that a value is made of.

    Raises UnknownError where it is computed.
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
    raise UnknownError(f"{name} is computed, by {it.opcode}")


def by_kind(found: list[Collective]) -> dict[str, dict]:
    """{kind: {count, payload_bytes, wire_bytes, wire_bytes_by_type, parameter_wire_bytes}} of one
    execution, bytes of a chip.
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
    """Bytes on the wire of a chip that fully sharded training cannot do without, in one step."""

    gather: float
    reduce: float

    @property
    def total(self) -> float:
        return self.gather + self.reduce


def fsdp_minimum(params: Any, *, microbatches: int, gathers: int, train: bool) -> Minimum:
    """Each parameter gathered `gathers` times a microbatch in bfloat16; each gradient reduced once
    in float32.

    What is sharded over "fsdp" is reduced over it once a microbatch, since a whole gradient has no
    place to wait in; over the axes that hold copies ("data", "context", and "fsdp" of what is not
    sharded) once a step. params: ShapeDtypeStructs with shardings.
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
