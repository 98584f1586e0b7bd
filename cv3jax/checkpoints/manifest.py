"""The content of a finished checkpoint: size and SHA-256 of each of its files.

It is written before the checkpoint appears, and compared before the checkpoint is read. orbax's
storage notices some damage only: flipped bytes may come back as other numbers.
"""

import concurrent.futures
import hashlib
import json
import os
from pathlib import Path

from data_pipeline.io.bounded_json import load_json

NAME = "manifest.json"
# orbax changes these after the manifest is written; nothing reads them
_OTHERS = (NAME, "_CHECKPOINT_METADATA", "commit_success.txt")


def write(directory: Path) -> None:
    """Write the hash of every file below `directory` into its manifest.json.

    All files are on the disk before the manifest is.
    """
    files = {
        str(path.relative_to(directory)): path
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in _OTHERS
    }
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        entries = dict(zip(files, pool.map(_settle, files.values()), strict=True))
    with (directory / NAME).open("w") as file:
        json.dump({"files": entries, "sha256": _digest(entries)}, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())


def damage(directory: Path) -> str | None:
    """Return how `directory` differs from its manifest, with the name of the file, or None."""
    try:
        content = load_json(directory / NAME)
        files = content["files"]
        if content["sha256"] != _digest(files):
            return f"{NAME} differs from what was written"
        wanted = {name: (int(size), str(digest)) for name, (size, digest) in files.items()}
    except FileNotFoundError:
        return f"{NAME} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{NAME} cannot be read"
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(
            lambda item: _compare(directory / item[0], *item[1]), sorted(wanted.items())
        )
        return next(
            (
                f"{name} {problem}"
                for name, problem in zip(sorted(wanted), found, strict=True)
                if problem
            ),
            None,
        )


def _digest(files: dict) -> str:
    """Return the hash of a manifest's entries, which tells a damaged name from a missing file."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _compare(path: Path, size: int, digest: str) -> str | None:
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != size:
        return f"has {path.stat().st_size:,} bytes where {size:,} were written"
    with path.open("rb") as file:
        return (
            None
            if hashlib.file_digest(file, "sha256").hexdigest() == digest
            else "differs from what was written"
        )


def _settle(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
        return file.tell(), digest
