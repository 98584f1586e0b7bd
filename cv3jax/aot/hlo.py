"""Read the text of a compiled XLA module: instructions, calls, and how often each loop runs.

Text is the one form that every backend gives of what it compiled, and nothing here depends on a
backend. A `Frame` is a call of a computation. Through it a parameter is traced to the value that
the caller passes. In this way the length of a loop is found where the compiler does not state it,
and an operand is traced back to the arguments of the program.
"""

import functools
import operator
import re
from collections.abc import Iterator
from typing import NamedTuple

from cv3jax.aot.hlo_instruction import Instruction, collective, parse_instruction

LONGEST = 100_000  # steps of a loop that are followed before it counts as endless
# operations whose result has the same numbers as their operand
SAME = ("copy", "bitcast", "convert", "reshape", "copy-start", "copy-done", "optimization-barrier")
ARITHMETIC = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "minimum": min,
    "maximum": max,
}
COMPARE = {
    "LT": operator.lt,
    "LE": operator.le,
    "GT": operator.gt,
    "GE": operator.ge,
    "EQ": operator.eq,
    "NE": operator.ne,
}
STARTS = 'custom_call_target="AsyncCollectiveStart"'
HEADER = re.compile(r"^(ENTRY )?%?([^ ]+) \(.*\) -> .* \{$")
LINE = re.compile(r"^\s+(ROOT )?%?([^ ]+) = ")


class UnknownError(ValueError):
    """A value that the text does not show."""


class Frame(NamedTuple):
    """One call of a computation.

    `state`: elements of a loop's state at one of its steps.
    """

    computation: str
    call: Instruction | None = None
    parent: "Frame | None" = None
    state: dict[int, int] | None = None


class Module:
    """A parsed module: computations by name.

    Each computation is a dict of instructions by name, in the order of the text.
    """

    def __init__(self, text: str):
        """Parse the text of a module. Raises ValueError where it has no ENTRY."""
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.roots: dict[str, str] = {}
        self.entry = ""
        header = text.partition("\n")[0]
        self.devices = _figure("num_partitions", header) * _figure("replica_count", header)
        body: dict[str, Instruction] = {}
        for line in text.splitlines():
            if started := HEADER.match(line):
                body = self.computations.setdefault(started[2], {})
                name = started[2]
                self.entry = name if started[1] else self.entry
            elif (found := LINE.match(line)) and self.computations:
                instruction = parse_instruction(found[2], line[found.end() :])
                body[found[2]] = instruction
                if found[1]:
                    self.roots[name] = found[2]
        if not self.entry:
            raise ValueError("this is not the text of an XLA module: it has no ENTRY")

    @functools.cached_property
    def main(self) -> Frame:
        """The frame of the entry computation."""
        return Frame(self.entry)

    def __getitem__(self, place: tuple[Frame, str]) -> Instruction:
        """Return the instruction of that name in that frame's computation."""
        return self.computations[place[0].computation][place[1]]

    def root(self, computation: str) -> Instruction:
        """Return the instruction whose value a computation returns."""
        return self.computations[computation][self.roots[computation]]

    def caller(self, frame: Frame, number: int) -> tuple[Frame, str]:
        """Return (frame, name) of the value that parameter `number` of a called computation takes.

        Raises UnknownError for the program's own parameters.
        """
        if frame.parent is None:
            raise UnknownError("the value is an argument of the program")
        if frame.call.opcode == "conditional":
            number = 1 + frame.call.calls.index(frame.computation)
        return frame.parent, frame.call.operands[number]

    def element(self, frame: Frame, name: str, index: int) -> tuple[Frame, str]:
        """Return (frame, name) of the value that became element `index` of the tuple `name`.

        The carry of a loop is traced to the value with which the loop began. Raises UnknownError.
        """
        it = self[frame, name]
        if it.opcode == "tuple":
            return frame, it.operands[index]
        if it.opcode == "parameter":
            return self.element(*self.caller(frame, int(it.literal)), index)
        if it.opcode in ("while", *SAME):
            return self.element(frame, it.operands[0], index)
        if it.opcode == "get-tuple-element":
            return self.element(
                *self.element(frame, it.operands[0], int(it.attribute("index"))), index
            )
        if it.opcode in ("fusion", "call"):
            inner = Frame(it.calls[0], it, frame)
            return self.element(inner, self.roots[inner.computation], index)
        raise UnknownError(f"no element {index} of {name} can be found through {it.opcode}")

    def number(self, frame: Frame, name: str) -> int:
        """Return the integer that the scalar `name` holds.

        Raises UnknownError where it is known only when the program runs.
        """
        it = self[frame, name]
        if it.opcode == "constant":
            if it.literal in ("true", "false"):
                return int(it.literal == "true")
            try:
                return int(it.literal)
            except ValueError as e:
                raise UnknownError(f"{name} is {it.literal[:40]}, not an integer") from e
        if it.opcode in SAME:
            return self.number(frame, it.operands[0])
        if it.opcode == "parameter":
            return self.number(*self.caller(frame, int(it.literal)))
        if it.opcode in ARITHMETIC:
            return ARITHMETIC[it.opcode](*(self.number(frame, operand) for operand in it.operands))
        if it.opcode == "compare":
            return int(
                COMPARE[it.attribute("direction")](
                    *(self.number(frame, operand) for operand in it.operands)
                )
            )
        if it.opcode == "and":
            return int(all(self.number(frame, operand) for operand in it.operands))
        if it.opcode in ("fusion", "call"):
            inner = Frame(it.calls[0], it, frame)
            return self.number(inner, self.roots[inner.computation])
        if it.opcode == "get-tuple-element":
            return self._carried(frame, it)
        raise UnknownError(f"{name} is not a constant but the result of {it.opcode}")

    def _carried(self, frame: Frame, it: Instruction) -> int:
        index, source = int(it.attribute("index")), self[frame, it.operands[0]]
        if source.opcode == "parameter" and frame.call and frame.call.opcode == "while":
            if frame.state is not None and index in frame.state:
                return frame.state[index]
            if not self._invariant(frame.call, index):
                raise _NeededError(index)
        return self.number(*self.element(frame, it.operands[0], index))

    def _invariant(self, loop: Instruction, index: int) -> bool:
        body = loop.attribute("body")
        carried = self.root(body)
        if carried.opcode != "tuple":
            return False
        it = self.computations[body][carried.operands[index]]
        while it.opcode in SAME:
            it = self.computations[body][it.operands[0]]
        if it.opcode != "get-tuple-element" or int(it.attribute("index")) != index:
            return False
        return self.computations[body][it.operands[0]].opcode == "parameter"

    def trips(self, frame: Frame, loop: Instruction) -> int:
        """Return how often the body of a while loop runs.

        The compiler's own figure is taken; where it gives none, the loop's counter is followed from
        step to step.

        Raises:
            UnknownError: the counter depends on something computed.
        """
        if said := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(said[1])
        body, condition = loop.attribute("body"), loop.attribute("condition")
        state: dict[int, int] = {}  # the counter, and whatever else its next value depends on
        while True:
            try:
                return self._follow(frame, loop, body, condition, dict(state))
            except _NeededError as e:
                if e.index in state:
                    raise UnknownError(
                        f"loop {loop.name}: element {e.index} of its state is unknown"
                    ) from e
                state[e.index] = self.number(*self.element(frame, loop.operands[0], e.index))

    def _follow(
        self, frame: Frame, loop: Instruction, body: str, condition: str, state: dict[int, int]
    ) -> int:
        steps = 0
        while self.number(Frame(condition, loop, frame, state), self.roots[condition]):
            now, before = Frame(body, loop, frame, state), state
            state = {
                index: self.number(*self.element(now, self.roots[body], index)) for index in state
            }
            steps += 1
            if state == before or steps > LONGEST:
                raise UnknownError(f"loop {loop.name}: its number of iterations cannot be found")
        return steps

    def walk(
        self, frame: Frame | None = None, times: int = 1
    ) -> Iterator[tuple[Frame, Instruction, int]]:
        """Yield every collective with its frame and how often it runs.

        Every branch of a conditional counts.

        Raises:
            UnknownError: the text does not show the length of a loop with collectives.
        """
        frame = frame or self.main
        for it in self.computations[frame.computation].values():
            if collective(it.opcode):
                if not self.continues(frame.computation, it):
                    yield frame, it, times
            elif it.opcode.endswith(("-done", "-update")):
                continue
            elif busy := [name for name in it.calls if name in self.busy]:
                repeats = self.trips(frame, it) if it.opcode == "while" else 1
                for name in busy:
                    yield from self.walk(Frame(name, it, frame), times * repeats)

    def continues(self, computation: str, it: Instruction) -> bool:
        """Return whether a collective continues one that another fusion started.

        The TPU compiler prints such a collective in each fusion that it overlaps with.
        """
        if "chain_id=" not in it.attributes or not collective(it.opcode):
            return False
        return not any(STARTS in one.attributes for one in self.computations[computation].values())

    @functools.cached_property
    def busy(self) -> frozenset[str]:
        """The computations that contain a collective, or call one that does."""

        @functools.cache
        def busy(computation: str) -> bool:
            return any(
                collective(it.opcode)
                or any(busy(name) for name in it.calls if name in self.computations)
                for it in self.computations[computation].values()
            )

        return frozenset(filter(busy, self.computations))


class _NeededError(UnknownError):
    def __init__(self, index: int):
        super().__init__(f"element {index} of a loop's state is needed")
        self.index = index


def _figure(name: str, header: str) -> int:
    found = re.search(rf"\b{name}=(\d+)", header)
    return int(found[1]) if found else 1
