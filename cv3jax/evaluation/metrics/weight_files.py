"""The files below `--weights`: found, bounded, hashed, and compared with a SHA256SUMS.

Nothing is downloaded. A file that is missing is named with its place and its source.
"""

import dataclasses
import functools
import hashlib
from pathlib import Path

from cv3jax.evaluation.metrics.needs import Need
from cv3jax.weights.digests import SUMS, digest_of, read_sums
from data_pipeline.io.errors import InputError, counted
from data_pipeline.io.regular_files import check_regular

_MOST = 2**33  # bytes of a file of weights; the largest that a metric takes has 4 GB


@dataclasses.dataclass(frozen=True)
class Found:
    """A file that is there, with the SHA-256 of its content.

    `listed` is where that SHA-256 is stated: "published", the path of a SHA256SUMS, or None.
    """

    path: Path
    sha256: str
    listed: str | None


def find_all(metric: str, weights: Path | None, needs: tuple[Need, ...]) -> dict[str, Found]:
    """Return {path below `weights`: the file} for each of `needs`.

    Raises:
        InputError: no directory is given, a file is missing, is no regular file, is too large, or
            has another SHA-256 than a SHA256SUMS beside it or in `weights` says.
    """
    if weights is None:
        raise InputError(
            f"the metric {metric} takes weights: give --weights with a directory that holds"
            f" {needs[0].path} ({needs[0].source})"
        )
    if not weights.is_dir():
        raise InputError(f"--weights {weights}: there is no such directory")
    if missing := [need for need in needs if not (weights / need.path).exists()]:
        lacking = ", and ".join(f"{need.path} from {need.source}" for need in missing)
        raise InputError(
            f"the metric {metric} takes {counted(len(missing), 'file')} that --weights {weights}"
            f" does not have: get {lacking}"
        )
    return {need.path: _find(weights, need) for need in needs}


def _find(weights: Path, need: Need) -> Found:
    path = weights / need.path
    try:
        check_regular(path, _MOST)
        state = path.stat()
    except OSError as e:
        raise InputError(f"{path}: {e.strerror}; get it again") from e
    digest = _digest(path, state.st_size, state.st_mtime_ns, state.st_ino)
    listed = None
    for folder in dict.fromkeys((weights, path.parent)):
        place = folder / SUMS
        stated = read_sums(place).get(str(path.relative_to(folder))) if place.exists() else None
        if stated and stated != digest:
            raise InputError(
                f"{path} is damaged or another file: its SHA-256 is {digest}, but {place} says"
                f" {stated}; get it again"
            )
        listed = str(place) if stated else listed
    return Found(path, digest, "published" if digest == need.sha256 else listed)


@functools.lru_cache(maxsize=64)  # several metrics may share a file of gigabytes
def _digest(path: Path, size: int, changed: int, inode: int) -> str:
    del size, changed, inode  # another file has others
    return digest_of(path)


def digests(found: dict[str, Found]) -> dict[str, str]:
    """Return {path below `--weights`: SHA-256}, for a protocol."""
    return {path: file.sha256 for path, file in found.items()}


def digest_of_bytes(data: bytes) -> str:
    """Return the SHA-256 of bytes, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
