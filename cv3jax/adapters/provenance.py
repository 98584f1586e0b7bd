"""What an adapter was trained on, and which adapters a cascade has in its weights already."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.fingerprint import parts_fingerprint
from data_pipeline.io import kept_fields
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import json_bytes, read_json, replacing

BASE = "cv3jax.base"  # in an adapter's header: the fingerprint of the stage that it was trained on
MERGED = "adapters.json"  # in a cascade's directory: the records of those in its weights
_RECORD = {
    "file": kept_fields.text("The name of its file."),
    "sha256": kept_fields.text("The hash of what it changes.", 64),
    "stage": kept_fields.text("The stage whose weights have it."),
    "weight": kept_fields.number("What its change was multiplied by.", -1000.0, 1000.0),
}


def merged_in(source: str | Path) -> list[dict[str, Any]]:
    """Return the records of the adapters that are in the weights of the cascade at `source`.

    Raises InputError where the list is damaged.
    """
    place = cascades.cascade_at(source)
    if place is None or not (place / MERGED).is_file():
        return []
    found = read_json(place / MERGED).get("adapters", [])
    for one in found if isinstance(found, list) else [None]:
        if said := kept_fields.wrong(one, _RECORD):
            raise InputError(f"{place / MERGED} is damaged ({said}); remove it, or restore it")
    return found


def write_merged(directory: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write which adapters are in the weights of the cascade in `directory`."""
    with replacing(directory / MERGED) as temporary:
        temporary.write_bytes(json_bytes({"adapters": [dict(one) for one in records]}))


def trained_elsewhere(
    metadata: Mapping[str, str], stage: str, source: str | Path, where: str
) -> str:
    """Return what to say of an adapter that was trained on another stage than that of `source`.

    It is "" where the header says the same one, or nothing. An adapter of a teacher may well be
    put into the stage that was distilled from it, so this is no error.
    """
    base = metadata.get(BASE)
    if not base or base == parts_fingerprint(source, (stage,)):
        return ""
    return (
        f"{where} was trained on another {stage} than that of {source} (hash {base[:14]}); that is"
        " right where the one was distilled from the other"
    )
