"""One instruction in the text of a compiled XLA module: its parts, shape and collective kind."""

import re
from typing import NamedTuple

# the other types have their bits in the name: f32, bf16, s4, f8e4m3fn
BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}
ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
CALLS = re.compile(
    r"\b(?:calls|to_apply|body|condition|called_computations|branch_computations"
    r"|true_computation|false_computation)=(\{[^}]*\}|%?[^ ,}]+)"
)
KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
    "ragged-all-to-all",
    "collective-broadcast",
)


class Instruction(NamedTuple):
    """The parts of one instruction, as text."""

    name: str
    opcode: str
    shape: str  # as written, layouts included
    operands: tuple[str, ...]
    literal: str  # the text between the parentheses of a constant or parameter
    attributes: str  # the text after the operands

    def attribute(self, name: str) -> str | None:
        """Return the computation or word given as `name=`, or None."""
        found = re.search(rf"\b{name}=%?([^ ,}}]+)", self.attributes)
        return found and found[1]

    @property
    def op_name(self) -> str:
        """The name scopes of the traced function that this comes from."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @property
    def calls(self) -> list[str]:
        """The computations that it runs, in the order of the text."""
        return [
            name
            for group in CALLS.findall(self.attributes)
            for name in re.findall(r"[^ ,{}%]+", group)
        ]


def parse_instruction(name: str, rest: str) -> Instruction:
    """Return the instruction of the text `shape opcode(operands), attributes`."""
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    start = rest.index("(", end)
    stop = _closing(rest, start)
    inside = rest[start + 1 : stop]
    operands = tuple(re.findall(r"%([^ ,()]+)", inside))
    return Instruction(
        name, rest[end:start].strip(), rest[:end], operands, inside.strip(), rest[stop + 1 :]
    )


def collective(opcode: str) -> str | None:
    """Return the kind of collective that an opcode begins, or None.

    An asynchronous collective counts where it starts.
    """
    kind = opcode.removesuffix("-start")
    return kind if kind in KINDS else None


def array_bytes(shape: str) -> int:
    """Return the bytes of the arrays in a written shape, without padding."""
    total = 0
    for kind, sizes in ARRAY.findall(shape):
        bits = BITS.get(kind) or int((re.search(r"\d+", kind) or [0])[0])
        elements = 1
        for size in filter(None, sizes.split(",")):
            elements *= int(size)
        total += (bits * elements + 7) // 8
    return total


def _closing(text: str, start: int) -> int:
    """Return the index of the parenthesis that closes the one at `start`, ignoring quoted ones."""
    depth = 0
    for found in re.compile(r'"(?:[^"\\]|\\.)*"|[()]').finditer(text, start):
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        if not depth:
            return found.start()
    raise ValueError(f"unbalanced: {text[:80]}")
