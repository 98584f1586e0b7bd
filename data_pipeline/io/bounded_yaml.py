"""YAML from outside within limits: the one place of both packages that parses it.

It is YAML's core: lists, mappings, texts, numbers, truth values and null. Dates are texts. Anchors
that are used again, tags of other types and names given twice are refused. PyYAML's constructors
raise any of Python's errors on a value that does not fit its tag; here each is a ParseError.
"""

import functools
import math
from pathlib import Path
from typing import Any

import yaml

from data_pipeline.io.bounded_json import (
    Limits,
    ParseError,
    check_text,
    read_bytes,
    twice,
)

# PyYAML reads some 50,000 bytes a second
_LIMITS = Limits(bytes=2**18, values=10_000)
_TAG = "tag:yaml.org,2002:"
# characters; PyYAML converts groups of base 60 in quadratic time
_NUMBER = 100


def load_yaml(path: str | Path, limits: Limits = _LIMITS) -> Any:
    """Return the content of a YAML file, None for an empty one. Raises OSError, ParseError."""
    return parse_yaml(read_bytes(path, limits.bytes), limits)


def parse_yaml(data: bytes | str, limits: Limits = _LIMITS) -> Any:
    """Return what YAML says. Raises ParseError where it is not YAML or exceeds a limit."""
    if len(data) > limits.bytes:
        raise ParseError(f"it has more than {limits.bytes:,} bytes")
    try:
        loader = _Loader(data, limits)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except ParseError:
        raise
    # the last two: of PyYAML's scanner, for escapes beyond Unicode and versions without end
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as e:
        raise ParseError(" ".join(str(e).split())[:200]) from e


class _Loader(yaml.SafeLoader):
    """PyYAML's loader with limits; see the module's description."""

    def __init__(self, data: bytes | str, limits: Limits):
        super().__init__(data)
        self.limits, self.depth, self.values = limits, 0, 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        """Return a node within the limits."""
        if self.check_event(yaml.AliasEvent):
            alias = self.peek_event()
            raise ParseError(f"it has an alias, *{alias.anchor[:40]}; write the value itself")
        self.values += 1
        if self.values > self.limits.values:
            raise ParseError(f"it has more than {self.limits.values:,} values")
        collection = not self.check_event(yaml.ScalarEvent)
        self.depth += collection
        if self.depth > self.limits.depth:
            raise ParseError(f"it is nested more than {self.limits.depth} deep")
        node = super().compose_node(parent, index)
        self.depth -= collection
        if not collection:
            check_text(node.value, self.limits)
        return node

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        """Return a mapping whose names are given once."""
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise ParseError("a name in it is a list or a mapping; give a text")
                name = self.construct_object(key) if key.tag != f"{_TAG}merge" else "<<"
                if name in seen:
                    raise ParseError(twice(name))
                seen.add(name)
        return super().construct_mapping(node, deep)


def _number(kind: Any, words: str, loader: _Loader, node: yaml.ScalarNode) -> Any:
    """Return the number of a scalar, by PyYAML's constructor `kind`."""
    text = loader.construct_scalar(node)
    shown = f"{text[:40]!r} is no {words}"
    if len(text) > _NUMBER or sum(map(str.isdigit, text)) > loader.limits.digits:
        raise ParseError(f"{shown}: it has too many digits")
    try:
        value = kind(loader, node)
    except (ValueError, LookupError, ArithmeticError) as e:
        raise ParseError(shown) from e
    if not math.isfinite(value):
        raise ParseError(f"{shown} that can be used here")
    return value


def _truth(loader: _Loader, node: yaml.ScalarNode) -> bool:
    try:
        return yaml.SafeLoader.construct_yaml_bool(loader, node)
    except LookupError as e:
        raise ParseError(f"{node.value[:40]!r} is neither true nor false") from e


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rows if tag != f"{_TAG}timestamp"]
    for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.yaml_constructors = {
    f"{_TAG}null": yaml.SafeLoader.construct_yaml_null,
    f"{_TAG}bool": _truth,
    f"{_TAG}int": functools.partial(_number, yaml.SafeLoader.construct_yaml_int, "whole number"),
    f"{_TAG}float": functools.partial(_number, yaml.SafeLoader.construct_yaml_float, "number"),
    f"{_TAG}str": yaml.SafeLoader.construct_yaml_str,
    f"{_TAG}seq": yaml.SafeLoader.construct_yaml_seq,
    f"{_TAG}map": yaml.SafeLoader.construct_yaml_map,
    None: yaml.SafeLoader.construct_undefined,
}
