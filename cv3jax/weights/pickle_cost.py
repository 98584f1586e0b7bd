"""The cost of a pickle, found before it is unpickled.

A tuple that holds another one twice, which holds another one twice, and so on, takes a few bytes
each and doubles the time of hashing it. So a key of 200 bytes could take hours.
"""

import pickletools

MOST_STEPS = 400_000  # a tensor takes about 35
_MOST_VALUES = 10_000  # of a tuple, those of the tuples in it included
# an object that is made of arguments may be as large as they are; lists and dicts are never hashed
_GROWING = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET", "REDUCE", "NEWOBJ", "NEWOBJ_EX")
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
_GETS = ("GET", "BINGET", "LONG_BINGET")
_MARK = -1


def check_cost(data: bytes) -> None:
    """Raise ValueError where a pickle has too many steps or values, or is none.

    The stack is followed with the number of values in each of its objects in place of the object.
    """
    stack: list[int] = []
    memo: dict[int, int] = {}
    for steps, (op, argument, _) in enumerate(pickletools.genops(data)):
        if steps == MOST_STEPS:
            raise ValueError(f"its pickle has more than {MOST_STEPS:,} steps")
        try:
            _step(op, argument, stack, memo)
        except (LookupError, TypeError) as e:
            raise ValueError(f"its pickle takes what is not there ({op.name})") from e


def _step(op: pickletools.OpcodeInfo, argument: object, stack: list[int], memo: dict) -> None:
    """Do one step on the stack and the memo."""
    name = op.name
    if name in _PUTS:
        memo[argument] = stack[-1]
    elif name == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif name in _GETS:
        stack.append(memo[argument])
    elif name == "DUP":
        stack.append(stack[-1])
    elif name == "MARK":
        stack.append(_MARK)
    else:
        taken = _take(op, stack)
        if op.stack_after:
            stack.append(
                1 + sum(taken) if name in _GROWING else max(taken) if name == "BUILD" else 1
            )
            if stack[-1] > _MOST_VALUES:
                raise ValueError(f"its pickle has a tuple of more than {_MOST_VALUES:,} values")


def _take(op: pickletools.OpcodeInfo, stack: list[int]) -> list[int]:
    """Remove from the stack what a step takes, and return it."""
    before, taken = len(op.stack_before), []
    if pickletools.markobject in op.stack_before:
        while (one := stack.pop()) != _MARK:
            taken.append(one)
        before = op.stack_before.index(pickletools.markobject)
    for _ in range(before):
        taken.append(stack.pop())
    return taken
