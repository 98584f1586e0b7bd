"""What the lines of a recaptioning journal must hold."""

import json
import zlib
from typing import Any


def checked(line: Any, turns: int) -> dict[str, Any]:
    """Return a line that `Journal.write` wrote. Raises ValueError on anything else."""
    fields = line if isinstance(line, dict) else {}
    texts = ("text",) if fields.get("event") == "answer" else ("reason", "detail")
    tokens = fields.get("tokens")
    if (
        fields.get("event") not in ("answer", "failed")
        or "tokens" not in fields
        or not all(isinstance(fields.get(name), str) for name in ("id", *texts))
        or not _is_count(fields.get("turn"), turns - 1)
        or not _is_count(fields.get("attempts"))
        or not (tokens is None or (isinstance(tokens, list) and len(tokens) == 2))
        or not all(map(_is_count, tokens or ()))
    ):
        raise ValueError("it is no event of a journal")
    if "crc" in line and line["crc"] != _sum(line):  # older journals have none
        raise ValueError("its checksum is another")
    return line


def sealed(line: dict[str, Any]) -> dict[str, Any]:
    """Return a line with its checksum, by which `checked` finds a changed letter."""
    return {**line, "crc": _sum(line)}


def _sum(line: dict[str, Any]) -> int:
    """Return the CRC-32 of all other fields."""
    fields = {name: value for name, value in line.items() if name != "crc"}
    return zlib.crc32(json.dumps(fields, sort_keys=True).encode())


def _is_count(value: Any, most: int = 2**40) -> bool:
    return type(value) is int and 0 <= value <= most
