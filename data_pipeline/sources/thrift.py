"""Thrift's compact protocol, in which parquet stores its footer and the headers of its pages.

The values are read without believing any length or any depth.
"""

from collections.abc import Iterator
from typing import Any

_MAX_DEPTH = 32  # structs and lists within one another: parquet's own are a dozen deep
LIST, _BYTE, _DOUBLE, _BINARY, _SET, _MAP, _STRUCT = 9, 3, 7, 8, 10, 11, 12
INTEGERS, _BOOLEANS = (4, 5, 6), (1, 2)


class ThriftError(ValueError):
    """Bytes are not Thrift's compact protocol."""


class Reader:
    """A reader of the bytes `data`; `at` is its place.

    Raises:
        IndexError: the data ends within a value.
        ThriftError: a type that does not exist, structs nested too deeply, or an endless number.
    """

    def __init__(self, data: bytes, at: int = 0):
        """Start at the byte `at`."""
        self.data, self.at = data, at

    def fields(self, depth: int = 0) -> Iterator[tuple[int, int]]:
        """Yield (id, type) of each field of a struct; `value` or `skip` must read it then."""
        if depth > _MAX_DEPTH:
            raise ThriftError("structs nested too deeply")
        number = 0
        while head := self._byte():
            delta, kind = head >> 4, head & 15
            number = number + delta if delta else self.integer()
            yield number, kind

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Return {id: value} of a struct; texts and lists are skipped and not in it."""
        found = {}
        for number, kind in self.fields(depth):
            if kind in _BOOLEANS:
                found[number] = kind == 1
            elif kind in INTEGERS:
                found[number] = self.integer()
            elif kind == _STRUCT:
                found[number] = self.struct(depth + 1)
            else:
                self.skip(kind, depth)
        return found

    def skip(self, kind: int, depth: int = 0) -> None:
        """Skip the value of a field of that type."""
        if depth > _MAX_DEPTH:
            raise ThriftError("values nested too deeply")
        if kind in _BOOLEANS:
            return
        if kind in INTEGERS:
            self.varint()
        elif kind in (_BYTE, _DOUBLE):
            self._jump(1 if kind == _BYTE else 8)
        elif kind == _BINARY:
            self._jump(self.varint())
        elif kind in (LIST, _SET):
            count, element = self.list_head()
            for _ in range(count):
                self._skip_element(element, depth)
        elif kind == _MAP:
            if count := self.varint():
                kinds = self._byte()
                for _ in range(count):
                    self._skip_element(kinds >> 4, depth)
                    self._skip_element(kinds & 15, depth)
        elif kind == _STRUCT:
            for _, field in self.fields(depth + 1):
                self.skip(field, depth + 1)
        else:
            raise ThriftError(f"no type {kind}")

    def list_head(self) -> tuple[int, int]:
        """Return (the number of elements, their type) of a list."""
        head = self._byte()
        return head >> 4 if head >> 4 < 15 else self.varint(), head & 15

    def integer(self) -> int:
        """Return a signed integer."""
        number = self.varint()
        return (number >> 1) ^ -(number & 1)

    def varint(self) -> int:
        """Return an unsigned integer of at most 64 bits."""
        data, at = self.data, self.at
        number = shift = 0
        while True:
            byte = data[at]
            at += 1
            number |= (byte & 127) << shift
            if byte < 128:
                self.at = at
                return number
            shift += 7
            if shift > 63:
                raise ThriftError("an integer of more than 64 bits")

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _jump(self, count: int) -> None:
        self.at += count
        if self.at > len(self.data):
            raise IndexError

    def _skip_element(self, kind: int, depth: int) -> None:
        """Skip an element of a list or map, where a boolean has a byte of its own."""
        if kind in _BOOLEANS:
            self._jump(1)
        else:
            self.skip(kind, depth + 1)
