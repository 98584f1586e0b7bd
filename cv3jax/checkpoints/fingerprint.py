"""SHA-256 of what decides a result: an encoder of a cascade, or the parts that draw pictures."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cv3jax.checkpoints import cascades, manifest
from cv3jax.checkpoints.description import CascadeDescription


def encoder_fingerprint(directory: Path, description: CascadeDescription, part: str) -> str:
    """Return the hash of `part`, vae or t5, of the cascade at `directory`.

    It covers the sizes, the parameters, and the text encoder's tokenizer.
    """
    section, (place, within) = description.section(part), cascades.place_of(directory, part)
    found = hashlib.sha256()
    _add_json(found, [part, section.model, getattr(section, "length", None)])
    _add_parameters(found, place, within, without="tokenizer")
    _add_files(found, cascades.place_of(directory, f"{part}/tokenizer")[0])
    return found.hexdigest()


def parts_fingerprint(path: str | Path, parts: Sequence[str]) -> str:
    """Return the hash of these parts of the checkpoint at `path`.

    It covers their descriptions, their parameters, and the tokenizer.
    """
    directory, description = cascades.read_cascade(path)
    found = hashlib.sha256()
    for part in parts:
        _add_json(found, [part, description.section(part).to_json()])
        _add_parameters(found, *cascades.place_of(directory, part))
    _add_files(found, cascades.place_of(directory, "t5/tokenizer")[0])
    return found.hexdigest()


def _add_json(found: Any, value: list) -> None:
    found.update(json.dumps(value, sort_keys=True).encode())


def _add_parameters(
    found: Any, place: Path, within: tuple[str, ...], without: str | None = None
) -> None:
    """Add the hashes that a part was written with.

    Where the part is `within` a run's checkpoint, these are the hashes of all its files. A part of
    another program has no hashes, so the sizes of its files are added, except for those below a
    folder `without`.
    """
    place = place.parent if within else place
    if (place / manifest.NAME).is_file():
        found.update((place / manifest.NAME).read_bytes())
        return
    files = ((file.relative_to(place), file) for file in place.rglob("*") if file.is_file())
    _add_json(
        found,
        sorted(
            (str(name), file.stat().st_size) for name, file in files if without not in name.parts
        ),
    )


def _add_files(found: Any, folder: Path) -> None:
    """Add the names and bytes of the files in a folder, which may be missing.

    Their manifest says the same, and older folders have none.
    """
    for file in sorted(each for each in folder.glob("*") if each.name != manifest.NAME):
        found.update(file.name.encode() + file.read_bytes())
