"""Images as files of a folder, with captions beside them.

No link leads outside the folder.
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
    """All images below `root`, and the captions that have none, hidden ones left out.

    Where there are images, those of formats that are not read, and links to folders, are among
    them, so that they are counted.

    Raises:
        InputError: a folder cannot be listed, so that nobody knows how many images it has.
        OSError: the machine fails.
    """
    # all but directories: a dangling link is counted when it is read, not passed over in silence,
    # and so is a link to a directory, which nobody follows
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
    raise_machine(e, e.filename)
    raise InputError(
        f"{e.filename} cannot be listed ({e.strerror}); give read and search permission on it, or"
        " move it out of the source"
    ) from e


def _spelled(path: Path, kind: str) -> list[Path]:
    """What a file of that kind beside `path` may be called: the first that is there is read."""
    return [path.with_suffix(f".{s}") for s in (kind, kind.upper(), kind.title())]


def _beside(path: Path, kind: str) -> Path | None:
    for p in _spelled(path, kind):
        # a dangling link is one that cannot be read, and counted
        if _mode(p, follow=False) and not stat.S_ISDIR(_mode(p)):
            return p
    return None


def _mode(path: Path, follow: bool = True) -> int:
    """What kind of file it is, as `stat` tells; 0 where there is none, or no way to it.

    Raises:
        OSError: the machine fails: nobody knows whether there is one.
    """
    try:
        return path.stat(follow_symlinks=follow).st_mode
    except OSError as e:
        raise_machine(e, path)
        return 0


def read_files(root: Path, images: list[Path], captions_alone: set[Path]) -> Iterator[Item | Skip]:
    """Each image with the .txt and .json beside it; its key is its path below `root` without
    suffix.
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
                if beside := _beside(path, kind):
                    texts[kind] = _read(beside, items.MAX_TEXT_BYTES, inside)[1]
            yield make_item(key, image, texts)
        except UnusableError as e:
            yield Skip(key, e.reason, e.detail)


class UnusableError(Exception):
    """A file that is not read: `reason` is one of items'."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def locate(path: Path, inside: Path | None) -> tuple[Path, int]:
    """The file that `path` names once links are followed, and its size.

    It must be below `inside`, an absolute directory.

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
    # a RuntimeError: links in a circle; a ValueError: characters no name has
    except (OSError, RuntimeError, ValueError) as e:
        if isinstance(e, OSError):
            raise_machine(e, path)
        raise UnusableError(UNREADABLE, f"{path.name}: {str(e)[:80]}") from e


def read_image(path: Path, inside: Path) -> Image:
    """A file's bytes. Raises UnusableError, see `locate`, or that it is too large."""
    real, data = _read(path, items.MAX_IMAGE_BYTES, inside)
    return Image(data, Place(str(real), 0, len(data)))


def _read(path: Path, limit: int, inside: Path) -> tuple[Path, bytes]:
    real, size = locate(path, inside)
    if size > limit:
        raise UnusableError(TOO_LARGE, items.too_large(path.name, size, limit))
    try:
        return real, real.read_bytes()
    except OSError as e:
        raise_machine(e, path)
        raise UnusableError(UNREADABLE, f"{path.name}: {e.strerror}") from e
