"""Thrift's compact protocol as trees that can be changed and written again."""

import copy
import dataclasses
import random
from collections.abc import Iterator
from typing import Any

_STOP, _TRUE, _BYTE, _INTEGERS, _DOUBLE, _BINARY = 0, 1, 3, (4, 5, 6), 7, 8
_LISTS, STRUCT = (9, 10), 12
_NUMBERS = (0, 1, -1, 2, 3, 5, 8, 100, 2**15, 2**20, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1)


@dataclasses.dataclass
class Value:
    """A value of a type of Thrift.

    Attributes:
        kind: the type.
        value: an int, bytes, None for a truth value of a struct; {id: Value} of a struct, and of a
            list its Values.
        inner: the type of a list's elements.
    """

    kind: int
    value: Any
    inner: int = 0


Struct = dict[int, Value]


def parse(data: bytes, at: int = 0) -> tuple[Struct, int]:
    """Return (the struct that begins at a byte of valid data, the byte after it)."""
    fields: Struct = {}
    number = 0
    while head := data[at]:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _signed(data, at)
        fields[number], at = _parsed(data, at, head & 15, in_list=False)
    return fields, at + 1


def _parsed(data: bytes, at: int, kind: int, in_list: bool) -> tuple[Value, int]:
    inner = 0
    if kind in (_TRUE, _TRUE + 1):
        value, at = (data[at], at + 1) if in_list else (None, at)
    elif kind == _BYTE:
        value, at = data[at], at + 1
    elif kind in _INTEGERS:
        value, at = _signed(data, at)
    elif kind == _DOUBLE:
        value, at = data[at : at + 8], at + 8
    elif kind == _BINARY:
        size, at = _unsigned(data, at)
        value, at = data[at : at + size], at + size
    elif kind in _LISTS:
        count, inner, at = data[at] >> 4, data[at] & 15, at + 1
        if count == 15:
            count, at = _unsigned(data, at)
        value = []
        for _ in range(count):
            element, at = _parsed(data, at, inner, in_list=True)
            value.append(element)
    else:
        assert kind == STRUCT, kind
        value, at = parse(data, at)
    return Value(kind, value, inner), at


def written(fields: Struct) -> bytes:
    """Return the bytes of a struct."""
    out, last = b"", 0
    for number, field in fields.items():
        delta, kind = number - last, field.kind
        out += bytes([delta << 4 | kind]) if 0 < delta < 16 else bytes([kind]) + integer(number)
        out, last = out + _value(field, in_list=False), number
    return out + b"\0"


def _value(each: Value, in_list: bool) -> bytes:
    kind, value = each.kind, each.value
    if kind in (_TRUE, _TRUE + 1):
        return bytes([value or 0]) if in_list else b""
    if kind == _BYTE:
        return bytes([value & 255])
    if kind in _INTEGERS:
        return integer(value)
    if kind == _DOUBLE:
        return value
    if kind == _BINARY:
        return _varint(len(value)) + value
    if kind in _LISTS:
        told = b"".join(_value(element, in_list=True) for element in value)
        return bytes([0xF0 | each.inner]) + _varint(len(value)) + told
    return written(value)


def change(fields: Struct, rng: random.Random) -> None:
    """Change one value somewhere in a struct; its type mostly stays."""
    places = list(_within(fields))
    inside, key = rng.choice(places)
    each, kind = inside[key], rng.randrange(8)
    others = [group[at] for group, at in places if group[at].kind == each.kind]
    if kind == 0 or each.value is None:
        inside[key] = copy.deepcopy(rng.choice(others))
    elif kind == 1:
        del inside[key]
    elif each.kind in _LISTS:
        again = [copy.deepcopy(rng.choice(each.value)) for _ in range(2)] if each.value else []
        each.value = rng.choice((each.value + again, each.value[1:], each.value[::-1], []))
    elif isinstance(each.value, int):
        near = (each.value - 1, each.value + 1, 2 * each.value, each.value // 2, -each.value)
        each.value = rng.choice(_NUMBERS if kind < 5 else near)
    elif isinstance(each.value, bytes):
        new = bytearray(each.value or b"x")
        new[rng.randrange(len(new))] = rng.randrange(256)
        new = bytes(new)
        whole = each.kind == _DOUBLE
        each.value = new if whole else rng.choice((new, new[: len(new) // 2], new * 2, b""))
    else:
        names = list(each.value)
        rng.shuffle(names)
        each.value = {name: each.value[name] for name in names}


def _within(group: Any) -> Iterator[tuple[Any, int]]:
    """Yield (struct or list, key) of every value within a struct or a list."""
    for key in list(group) if isinstance(group, dict) else range(len(group)):
        yield group, key
        if isinstance(group[key].value, (dict, list)):
            yield from _within(group[key].value)


def integer(number: int) -> bytes:
    """Return a signed integer."""
    return _varint((number << 1 ^ number >> 63) & 2**64 - 1)


def _varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def _unsigned(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte, at = data[at], at + 1
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number, at


def _signed(data: bytes, at: int) -> tuple[int, int]:
    number, at = _unsigned(data, at)
    return (number >> 1) ^ -(number & 1), at
