"""Streaming the tars of img2dataset (WebDataset): KEY.jpg, KEY.txt and KEY.json in sequence."""

import struct
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from data_pipeline.io.errors import raise_machine
from data_pipeline.io.storage import is_remote
from data_pipeline.sources.items import (
    BAD_TAR,
    IMAGE_SUFFIXES,
    LINKED,
    OTHER_SUFFIXES,
    SECOND,
    TOO_LARGE,
    UNREADABLE,
    Image,
    Item,
    Place,
    Skip,
    limit_of,
    make_item,
    too_large,
)

MAX_TAIL = 2**20  # bytes of zeros after the end mark: tools pad to records of 10 KiB, some to more
# the exceptions that tarfile raises on damaged headers
_DAMAGED = (
    tarfile.TarError,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    IndexError,
    struct.error,
)


class _Sample:
    """The files of one key that were read so far."""

    def __init__(self, key: str, start: int):
        """Start the sample of `key`, whose first header is at byte `start` of the tar."""
        self.key, self.start = key, start
        self.image: Image | None = None
        self.texts: dict[str, bytes] = {}
        self.unusable: Skip | None = None
        self.suffixes: set[str] = set()  # those of its images and texts
        self.shown = ""  # the suffix of the image that is used
        self.others: list[Skip] = []  # the other images

    def kinds(self) -> set[str]:
        """Return the kinds of files that it has."""
        return {*self.texts, *(["image"] if self.image or self.unusable else [])}

    def made(self) -> list[Item | Skip]:
        """Return its Item or Skip, and a Skip for each further image."""
        return [self.unusable or make_item(self.key, self.image, self.texts), *self.others]


def read_tar(file: BinaryIO, name: str, path: str, size: int) -> Iterator[tuple[Item | Skip, int]]:
    """Yield (Item or Skip, bytes read) for each key, in the order of the tar.

    A file name that occurs twice starts another sample of the same key. Of several images of one
    sample (a.jpg, a.png) the first is used, and each other gives a Skip.

    A tar that ends early loses what is after the break. Its last Skip has the reason BAD_TAR and
    the key `name`. The sample before the break is lost too, unless it has all the kinds of files
    that the sample before it had: its json may be missing, which says where it came from.

    Args:
        file: the open tar; it can seek.
        name: the tar's name for reports.
        path: the tar's path for the places of items.
        size: the tar's size in bytes.

    Raises:
        OSError: the machine or the store fails.
    """
    sample, before, end, broken = None, None, 0, ""
    try:
        with tarfile.open(fileobj=file, mode="r|") as tar:
            for member in tar:
                tar.members = []  # tarfile keeps every member it has seen
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                # macOS puts hidden files into tars
                if not stem or not (member.isreg() or _links(member, suffix)):
                    continue
                key = f"{folder}/{stem}" if folder else stem
                if member.issym() and not suffix:
                    said = f"{name}: {base} is a link to {member.linkname[:80]}"
                    yield Skip(key, LINKED, said), 0
                    continue
                if sample is None or key != sample.key or suffix.lower() in sample.suffixes:
                    if sample is not None:
                        yield from _counted(sample.made(), member.offset - sample.start)
                    before, sample = sample, _Sample(key, member.offset if sample else 0)
                _read_member(tar, member, sample, name, path)
            end = tar.offset
    except _DAMAGED as e:
        if isinstance(e, OSError):
            if is_remote(path):
                raise  # the store may be to blame and not the tar: the runner tries again
            raise_machine(e, path)
        broken = str(e) or type(e).__name__
    if not broken:
        broken = _wrong_end(file, end, size)
    where = f"after {sample.key}: " if sample else ""
    start = sample.start if sample else 0
    if sample and (not broken or (before and sample.kinds() >= before.kinds())):
        yield from _counted(sample.made(), size - start)
        start = size
    if broken or not sample:
        yield (
            Skip(name, BAD_TAR, f"{where}{broken}" if broken else "no files in it", size - start),
            size - start,
        )


def _links(member: tarfile.TarInfo, suffix: str) -> bool:
    """Return whether a member is a link that is counted but not followed.

    Those are links that have the name of a picture, or that may be links to folders.
    """
    picture = suffix.lower() in (*IMAGE_SUFFIXES, *OTHER_SUFFIXES)
    return (member.issym() and not suffix) or ((member.islnk() or member.issym()) and picture)


def _counted(made: list[Item | Skip], size: int) -> Iterator[tuple[Item | Skip, int]]:
    """Yield what a sample gave; all its bytes are counted for the first."""
    for i, one in enumerate(made):
        yield one, size if i == 0 else 0


def _wrong_end(file: BinaryIO, end: int, size: int) -> str:
    """Return what is wrong after the last member, or an empty text.

    tarfile takes a damaged or missing header for the end. A block of zeros is the end mark. Much
    more than that is a file that was allocated before it was filled.
    """
    file.seek(end)
    tail = file.read(MAX_TAIL)
    if len(tail) < tarfile.BLOCKSIZE:
        return "unexpected end: the end-of-archive mark is missing"
    if any(tail[: tarfile.BLOCKSIZE]):
        return f"damaged header at byte {end:,}"
    return f"{size - end:,} bytes after its end mark" if size - end > MAX_TAIL or any(tail) else ""


def _read_member(
    tar: tarfile.TarFile, member: tarfile.TarInfo, sample: _Sample, name: str, path: str
) -> None:
    """Read one member into its sample."""
    suffix = member.name.rpartition("/")[2].partition(".")[2].lower()
    kind = "image" if suffix in (*IMAGE_SUFFIXES, *OTHER_SUFFIXES) else suffix
    if kind not in ("image", "txt", "json"):
        return
    sample.suffixes.add(suffix)
    if kind == "image" and not _is_taken(sample, suffix, name):
        return
    if member.size > limit_of(kind):
        sample.unusable = Skip(
            sample.key, TOO_LARGE, too_large(f"{name}: {member.name}", member.size, limit_of(kind))
        )
        return
    if not member.isreg():
        sample.unusable = Skip(
            sample.key, UNREADABLE, f"{name}: {member.name} is a link to {member.linkname[:80]}"
        )
        return
    if member.issparse():  # its bytes are not contiguous
        sample.unusable = Skip(
            sample.key, UNREADABLE, f"{name}: {member.name} is stored as a sparse file"
        )
        return
    data = tar.extractfile(member).read()
    if len(data) < member.size:
        raise tarfile.ReadError("unexpected end of data")
    if kind == "image":
        sample.image = Image(data, Place(path, member.offset_data, member.size))
    else:
        sample.texts[kind] = data


def _is_taken(sample: _Sample, suffix: str, name: str) -> bool:
    """Return whether an image is the one that its sample uses; count the other image.

    The sample uses its first image, or the first of a supported format.
    """
    better = sample.shown in OTHER_SUFFIXES and suffix in IMAGE_SUFFIXES
    taken = not sample.shown or better
    if sample.shown:
        left = sample.shown if taken else suffix
        base = f"{sample.key}.{left}".rpartition("/")[2]
        sample.others.append(Skip(sample.key, SECOND, f"{name}: {base}"))
    if taken:
        sample.shown = suffix
    return taken
