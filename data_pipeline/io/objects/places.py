"""Where this machine keeps what belongs to addresses in object stores.

Each address has a directory: `work` of a run or an output, and `read-HASH` of what was fetched.
`address` in it says whose it is.
"""

import hashlib
import json
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from data_pipeline.io.bounded_json import OWN, ParseError, load_json
from data_pipeline.io.files import replacing
from data_pipeline.io.objects.store import address_of

PLACE, DEFAULT = "CV3JAX_STORES", "~/.cache/cv3jax/stores"
FILES = "cv3jax-files"  # the folder of a run's objects at its address, which are written once
ADDRESS = "address"
TREE = ".tree"  # ends the name of the file beside a copy that says which objects it is of


def base() -> Path:
    """Return the directory of all addresses."""
    return Path(os.environ.get(PLACE) or os.path.expanduser(DEFAULT)).absolute()


def place_of(address: str) -> Path:
    """Return the directory of this machine that belongs to an address."""
    return base() / hashlib.sha256(address.encode()).hexdigest()[:16]


def mark(address: str) -> Path:
    """Make the directory that belongs to an address, and return it."""
    place = place_of(address)
    with replacing(place / ADDRESS) as temporary:
        temporary.write_text(address)
    return place


def new_version() -> str:
    """Return a folder of objects that nobody has used."""
    return f"{FILES}/{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"


def shown(path: str | Path) -> str:
    """Return `ADDRESS#PATH` of a path that belongs to an address; of another its absolute path.

    So another machine finds it too, by `reading.found`.
    """
    path = Path(path).absolute()
    for place in path.parents:
        if place.parent == base() and (place / ADDRESS).is_file():
            inside = path.relative_to(place).parts[1:]
            return f"{(place / ADDRESS).read_text()}#{'/'.join(inside)}"
    return str(path)


def public(path: str | Path) -> str:
    """Return the address of what is written at `path` for an address; of another path itself."""
    place, mark, inside = shown(path).partition("#")
    return "/".join(filter(None, (place, inside))) if mark and address_of(place) else str(path)


def remember(copy: Path, address: str, files: Mapping[str, list]) -> None:
    """Note of which objects a fetched copy is."""
    with replacing(copy.with_name(copy.name + TREE)) as temporary:
        temporary.write_text(json.dumps({"address": address, "files": dict(files)}))


def objects_near(address: str) -> dict[str, str]:
    """Return SHA-256 → full address of objects, in the store of `address`, of copies that are here.

    The store can copy those by itself. A note that cannot be read is left out.
    """
    known: dict[str, str] = {}
    for note in base().glob(f"*/*{TREE}"):
        try:
            value = load_json(note, OWN)
            home, files = value["address"], value["files"]
            if address_of(home) == home and home[:5] == address[:5] and home != address:
                known |= {
                    digest: f"{home}/{place}"
                    for _, digest, place in files.values()
                    if place.startswith(f"{FILES}/")  # others may have been replaced
                }
        except (OSError, ParseError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return known
