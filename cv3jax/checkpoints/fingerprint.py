"""SHA-256 of what decides a result: a cascade's parts, a job's settings."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from cv3jax.checkpoints import cascades, manifest


def fingerprint(directory: Path, description: dict, part: str) -> str:
    """Of an encoder in the cascade at `directory`: its sizes, the hashes that it was written with,
    the text encoder's tokenizer.
    """
    place = directory / part
    found = hashlib.sha256(
        json.dumps(
            [part, description[part]["model"], description[part].get("length")], sort_keys=True
        ).encode()
    )
    if (place / manifest.NAME).is_file():
        found.update((place / manifest.NAME).read_bytes())
    else:  # of another program, which is taken as it is
        files = (
            file
            for file in place.rglob("*")
            if file.is_file() and "tokenizer" not in file.relative_to(place).parts
        )
        found.update(
            json.dumps(
                sorted((str(file.relative_to(place)), file.stat().st_size) for file in files)
            ).encode()
        )
    for file in sorted((place / "tokenizer").glob("*")):
        found.update(file.name.encode() + file.read_bytes())
    return found.hexdigest()


def digest(path: str | Path, parts: Sequence[str]) -> str:
    """Of these parts of the checkpoint at `path`: their descriptions, the hashes that they were
    written with, the tokenizer.
    """
    directory, description = cascades.read_cascade(path)
    found = hashlib.sha256()
    for part in parts:
        found.update(
            json.dumps(
                [part, description["stages"].get(part) or description[part]], sort_keys=True
            ).encode()
        )
        place = directory / part
        if (place / manifest.NAME).is_file():
            found.update((place / manifest.NAME).read_bytes())
        else:  # of another program, which is taken as it is
            sizes = sorted(
                (str(file.relative_to(place)), file.stat().st_size)
                for file in place.rglob("*")
                if file.is_file()
            )
            found.update(json.dumps(sizes).encode())
    for file in sorted((directory / "t5" / "tokenizer").glob("*")):
        found.update(file.name.encode() + file.read_bytes())
    return found.hexdigest()
