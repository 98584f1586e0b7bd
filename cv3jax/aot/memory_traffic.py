"""Estimate the bytes that a compiled program moves to and from a chip's memory, from its text.

The body of a loop counts once for each of its steps. Each instruction outside a fusion reads its
operands and writes its result once. Of what a fusion only slices, the slice is read; of what it
updates in place, the update is written. The estimate knows no cache. XLA's own figure is made the
same way, but takes the body of a loop once.
"""

import re

from cv3jax.aot.hlo import STARTS, Frame, Module
from cv3jax.aot.hlo_instruction import ARRAY, Instruction, array_bytes

FREE = (
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "optimization-barrier",
    "add-dependency",
)
FREE_CALLS = ('custom_call_target="AllocateBuffer"', 'custom_call_target="ConcatBitcast"')
ENTERED = ("while", "conditional", "call")
SLICES = ("dynamic-slice", "slice", "gather")
# an array in another memory than the main one
ELSEWHERE = re.compile(r"\b[a-z]+\d*[a-z0-9]*\[[\d,]*\]\{[^}]*S\([1-9]\d*\)[^}]*\}")


def traffic(module: Module, on_chip: bool) -> int:
    """Return the bytes that one execution moves on one chip.

    on_chip: whether other memory spaces are within the chip (a TPU's) and therefore free.

    Raises:
        UnknownError: the text does not show the length of a loop.
    """
    return _computation(module, module.main, on_chip)


def _computation(module: Module, frame: Frame, on_chip: bool) -> int:
    total = 0
    for it in module.computations[frame.computation].values():
        if (
            it.opcode in FREE
            or it.opcode.endswith("-update")
            or any(target in it.attributes for target in FREE_CALLS)
        ):
            continue
        if it.opcode in ENTERED:
            repeats = module.trips(frame, it) if it.opcode == "while" else 1
            inside = [
                _computation(module, Frame(name, it, frame), on_chip)
                for name in it.calls
                if name != it.attribute("condition")
            ]
            total += repeats * (max(inside) if it.opcode == "conditional" else sum(inside))
            continue
        if not it.opcode.endswith("-done"):
            total += _reads(module, frame, it, on_chip)
        if not it.opcode.endswith("-start"):
            total += _writes(module, frame, it, on_chip)
    return total


def _reads(module: Module, frame: Frame, it: Instruction, on_chip: bool) -> int:
    sizes = [_size(module[frame, name].shape, on_chip) for name in it.operands]
    if it.opcode in SLICES:
        return min(sizes[0], array_bytes(it.shape))
    if it.opcode == "slice-start":  # ((operand), slice, …)
        return min(
            sizes[0], array_bytes(it.shape) - array_bytes(module[frame, it.operands[0]].shape)
        )
    if it.opcode == "dynamic-update-slice":
        return sizes[1]
    if it.opcode != "fusion":
        return sum(sizes)
    inner = module.computations[it.calls[0]]
    total = 0
    for parameter in (one for one in inner.values() if one.opcode == "parameter"):
        parts = [
            _part(module, it.calls[0], user, parameter.name)
            for user in inner.values()
            if parameter.name in user.operands
        ]
        whole = sizes[int(parameter.literal)]
        total += whole if None in parts else min(whole, sum(parts))
    return total


def _part(module: Module, computation: str, user: Instruction, name: str) -> int | None:
    """Return the bytes of an array that a user reads, or None where it reads all of it.

    They are those of a slice. An array that the user overwrites, returns or continues is not read.
    """
    if user.opcode in SLICES and user.operands[0] == name:
        return array_bytes(user.shape)
    overwritten = user.opcode == "dynamic-update-slice" and user.operands[0] == name
    return (
        0 if overwritten or user.opcode == "tuple" or module.continues(computation, user) else None
    )


def _writes(module: Module, frame: Frame, it: Instruction, on_chip: bool) -> int:
    if it.opcode == "dynamic-update-slice":
        return min(_size(it.shape, on_chip), _size(module[frame, it.operands[1]].shape, on_chip))
    if it.opcode != "fusion":
        return _size(it.shape, on_chip)
    computation = it.calls[0]
    inner, root = module.computations[computation], module.root(computation)
    if root.opcode != "tuple":
        return min(_size(it.shape, on_chip), _written(module, computation, root))
    written = 0
    for one in (inner[name] for name in root.operands):
        if _size(one.shape, on_chip):
            written += _written(module, computation, one)
    return written


def _written(module: Module, computation: str, it: Instruction) -> int:
    """Return the bytes of one result that a fusion writes."""
    inner, shape = module.computations[computation], it.shape
    while it.opcode in ("bitcast", "convert", "copy"):
        it = inner[it.operands[0]]
    if it.opcode == "parameter" or module.continues(computation, it):
        return 0
    if STARTS in it.attributes:
        return array_bytes(inner[it.operands[0]].shape)
    return array_bytes(
        inner[it.operands[1]].shape if it.opcode == "dynamic-update-slice" else shape
    )


def _size(shape: str, on_chip: bool) -> int:
    """Return the bytes of the arrays in a written shape that are in the main memory."""
    if on_chip:
        shape = ELSEWHERE.sub("", shape)
    return array_bytes(shape) if ARRAY.search(shape) else 0
