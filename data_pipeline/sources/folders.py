"""Reading images that are files of a folder, with captions in files beside them.

Links that lead outside the folder are not followed.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.io.errors import InputError, raise_machine
from data_pipeline.sources import items
from data_pipeline.sources.items import (
    IMAGE_SUFFIXES,
    LINKED,
    MISSING,
    NO_IMAGE,
    OTHER_SUFFIXES,
    OUTSIDE,
    TOO_LARGE,
    UNREADABLE,
    Image,
    Item,
    Place,
    Skip,
    make_item,
)


def list_files(root: Path) -> tuple[list[Path], set[Path]]:
    """Return all images below `root`, and the captions without an image; hidden files are left out.

    Where there are images, the list also has those in unsupported formats and links to folders, so
    that they are counted.

    Raises:
        InputError: a folder cannot be listed, so that the number of its images is unknown.
        OSError: the machine fails.
    """
    # everything but directories: a dangling link is counted when it is read, not left out silently,
    # and so is a link to a directory, which is not followed
    files = []
    for folder, folders, names in os.walk(root, onerror=_unlisted):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        files += [Path(folder, name) for name in (*names, *links) if not name.startswith(".")]
        folders[:] = [name for name in folders if not name.startswith(".")]
    files.sort()
    # `p.suffix` and not `glob("*.png")`: camera files are called .JPG
    images = [p for p in files if p.suffix[1:].lower() in IMAGE_SUFFIXES and not os.path.isdir(p)]
    if images:
        known = set(images)
        images += [
            p
            for p in files
            if p not in known and (os.path.isdir(p) or p.suffix[1:].lower() in OTHER_SUFFIXES)
        ]
        images.sort()
    there = set(files)
    captions = {p for p in files if p.suffix.lower() == ".txt"}
    read = {next((p for p in _spelled(image, "txt") if p in there), None) for image in images}
    return images, captions - read


def _unlisted(e: OSError) -> None:
    """Raise the error of a folder that cannot be listed."""
    raise_machine(e, e.filename)
    raise InputError(
        f"{e.filename} cannot be listed ({e.strerror}); give read and search permission on it, or"
        " move it out of the source"
    ) from e


def _spelled(path: Path, kind: str) -> list[Path]:
    """Return the names that a file of that kind beside `path` may have, the preferred one first."""
    return [path.with_suffix(f".{s}") for s in (kind, kind.upper(), kind.title())]


def beside_of(path: Path, kind: str) -> Path | None:
    """Return the file of that kind beside `path`, or None."""
    for p in _spelled(path, kind):
        # a dangling link counts as a file that cannot be read
        if _mode(p, follow=False) and not stat.S_ISDIR(_mode(p)):
            return p
    return None


def _mode(path: Path, follow: bool = True) -> int:
    """Return the file's mode as `stat` gives it; 0 where there is no file, or no access to it.

    Raises:
        OSError: the machine fails, so that it is unknown whether the file exists.
    """
    try:
        return path.stat(follow_symlinks=follow).st_mode
    except OSError as e:
        raise_machine(e, path)
        return 0


def read_files(root: Path, images: list[Path], captions_alone: set[Path]) -> Iterator[Item | Skip]:
    """Yield each image with the .txt and .json beside it, as an Item or a Skip.

    Its key is its path below `root` without the suffix.
    """
    inside = root.resolve()
    for path in sorted([*images, *captions_alone]):
        if path in captions_alone:
            yield Skip(path.relative_to(root).with_suffix("").as_posix(), NO_IMAGE)
            continue
        key = path.relative_to(root).with_suffix("").as_posix()
        texts: dict[str, bytes] = {}
        try:
            image = read_image(path, inside)
            for kind in ("txt", "json"):
                if beside := beside_of(path, kind):
                    texts[kind] = read_text(beside, inside)
            yield make_item(key, image, texts)
        except UnusableError as e:
            yield Skip(key, e.reason, e.detail)


class UnusableError(Exception):
    """A file cannot be used; `reason` is one of those of items.py."""

    def __init__(self, reason: str, detail: str):
        """Create the error with a reason and a detail, which is its message."""
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def locate(path: Path, inside: Path | None) -> tuple[Path, int]:
    """Return the file that `path` names after links are followed, and its size in bytes.

    inside: the absolute directory that must contain it.

    Raises:
        UnusableError: it is outside, missing, or not a file.
        OSError: the machine fails.
    """
    try:
        real = path.resolve()
        if inside and not real.is_relative_to(inside):
            raise UnusableError(OUTSIDE, path.name)
        mode = _mode(real)
        if stat.S_ISDIR(mode):
            raise UnusableError(LINKED, f"{path.name}: links to folders are not followed")
        if not stat.S_ISREG(mode):  # a pipe or a device would block
            raise UnusableError(MISSING, path.name)
        return real, real.stat().st_size
    # RuntimeError: a circle of links; ValueError: characters that no file name can have
    except (OSError, RuntimeError, ValueError) as e:
        if isinstance(e, OSError):
            raise_machine(e, path)
        raise UnusableError(UNREADABLE, f"{path.name}: {str(e)[:80]}") from e


def read_image(path: Path, inside: Path) -> Image:
    """Return a file's bytes and place.

    Raises UnusableError as `locate` does, or where the file is too large.
    """
    real, data = _read(path, items.MAX_IMAGE_BYTES, inside)
    return Image(data, Place(str(real), 0, len(data)))


def read_text(path: Path, inside: Path) -> bytes:
    """Return the bytes of a text file. Raises UnusableError as `read_image` does."""
    return _read(path, items.MAX_TEXT_BYTES, inside)[1]


def _read(path: Path, limit: int, inside: Path) -> tuple[Path, bytes]:
    """Return (the path after links are followed, the bytes) of a file of at most `limit` bytes."""
    real, size = locate(path, inside)
    if size > limit:
        raise UnusableError(TOO_LARGE, items.too_large(path.name, size, limit))
    try:
        return real, real.read_bytes()
    except OSError as e:
        raise_machine(e, path)
        raise UnusableError(UNREADABLE, f"{path.name}: {e.strerror}") from e
