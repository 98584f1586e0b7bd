"""The content of a finished checkpoint: size and SHA-256 of each of its files.

It is written before the checkpoint appears, and compared before the checkpoint is read. orbax's
storage notices some damage only: flipped bytes may come back as other numbers.
"""

import concurrent.futures
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from data_pipeline.io.bounded_json import load_json

NAME = "manifest.json"
# orbax changes these after the manifest is written; nothing reads them
_OTHERS = (NAME, "_CHECKPOINT_METADATA", "commit_success.txt")


Entry = tuple[int, str]  # the size of a file in bytes, and its SHA-256


def write(directory: Path, known: dict[str, Entry] | None = None) -> None:
    """Write the hash of every file below `directory` into its manifest.json.

    All files are on the disk before the manifest is. known: name → entry of files that another
    process has brought to the disk and hashed already (`settled`).
    """
    known = known or {}
    found = files(directory)
    entries = {name: known[name] for name in found if name in known}
    entries |= settled({name: path for name, path in found.items() if name not in known})
    with (directory / NAME).open("w") as file:
        json.dump({"files": entries, "sha256": _digest(entries)}, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())


def files(directory: Path) -> dict[str, Path]:
    """Return the files below `directory` that its manifest covers, by their names within it."""
    return {
        str(path.relative_to(directory)): path
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in _OTHERS
    }


def settled(files: dict[str, Path]) -> dict[str, Entry]:
    """Return the entries of files, in many threads. They are on the disk when it returns."""
    with _threads() as pool:
        return dict(zip(files, pool.map(_settle, files.values()), strict=True))


def damage(directory: Path, share: tuple[int, int] = (0, 1)) -> str | None:
    """Return how `directory` differs from its manifest, with the name of the file, or None.

    share: (i, n), to look only at the i-th of n parts of the files, which have about as many bytes
    each.
    """
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
    names = sorted(_share({name: size for name, (size, _) in wanted.items()}, *share))
    with _threads() as pool:
        found = pool.map(lambda name: _compare(directory / name, *wanted[name]), names)
        return next(
            (f"{name} {problem}" for name, problem in zip(names, found, strict=True) if problem),
            None,
        )


def _threads() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1))


def _share(sizes: dict[str, int], index: int, count: int) -> Iterable[str]:
    """Return the names of one of `count` parts; the largest file goes where there is least."""
    loads, parts = [0] * count, [[] for _ in range(count)]
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        least = loads.index(min(loads))
        loads[least] += sizes[name]
        parts[least].append(name)
    return parts[index]


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
