"""Places where a command looks for an adapter and finds something else, or an odd name."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import special_files
from bad_adapters import GOOD, WHOLE

from cv3jax.adapters import formats

NAME = "a\x1b[2J\u202e\nb.safetensors"  # clears a terminal, and turns its letters around


def _link(at: Path, target: str) -> Path:
    (at / "a.safetensors").symlink_to(target)
    return at / "a.safetensors"


def _bytes(at: Path, name: str, data: bytes) -> Path:
    (at / name).write_bytes(data)
    return at / name


def _kind(at: Path, kind: str) -> Path:
    special_files.KINDS[kind](at / "a.safetensors")
    return at / "a.safetensors"


def _in_folder(at: Path, name: str, kind: str) -> Path:
    """Write PEFT's folder, one file of which is of another kind."""
    formats.write(at / "peft", GOOD, "peft")
    (at / "peft" / name).unlink()
    if kind == "loop":
        (at / "peft" / name).symlink_to(name)
    else:
        special_files.KINDS[kind](at / "peft" / name)
    return at / "peft"


# what is there → what puts it into a folder and returns its path
PLACES: dict[str, Callable[[Path], Path]] = {
    **{kind: lambda at, kind=kind: _kind(at, kind) for kind in special_files.KINDS},
    "null device": lambda at: _link(at, "/dev/null"),
    "loop of links": lambda at: _link(at, "a.safetensors"),
    "link to nothing": lambda at: _link(at, "nowhere"),
    "link to its folder": lambda at: _link(at, "."),
    "truncated": lambda at: _bytes(at, "a.safetensors", WHOLE[:-100]),
    "largest header": lambda at: _bytes(at, "a.safetensors", struct.pack("<Q", 2**63) + b"{"),
    "control characters": lambda at: _bytes(at, NAME, WHOLE[:-100]),
    "no UTF-8": lambda at: _bytes(at, os.fsdecode(b"\xff\xfe.safetensors"), WHOLE[:-100]),
    **{
        f"{kind} for PEFT's {name}": lambda at, name=name, kind=kind: _in_folder(at, name, kind)
        for name in ("adapter_config.json", "adapter_model.safetensors")
        for kind in ("pipe", "zero", "folder", "loop")
    },
}
