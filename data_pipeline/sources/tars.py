"""Streaming the tars of img2dataset (WebDataset): KEY.jpg, KEY.txt and KEY.json in sequence."""

import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from data_pipeline.io.errors import raise_machine
from data_pipeline.io.storage import is_remote
from data_pipeline.sources.items import (
    BAD_TAR,
    IMAGE_SUFFIXES,
    LINKED,
    MAX_KEY,
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
from data_pipeline.sources.tar_headers import DamagedTarError, Member, TarReader

MAX_TAIL = 2**20  # bytes of zeros after the end mark: tools pad to records of 10 KiB, some to more


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
    sample, before, broken = None, None, None
    reader = TarReader(file, size)
    try:
        for member in reader:
            folder, _, base = member.name.rpartition("/")
            stem, _, suffix = base.partition(".")
            # macOS puts hidden files into tars
            if not stem or not (member.is_file() or _links(member, suffix)):
                continue
            key = f"{folder}/{stem}" if folder else stem
            if member.kind == tarfile.SYMTYPE and not suffix:
                said = f"{name}: {base} is a link to {member.link[:80]}"
                yield Skip(key, LINKED, said), 0
                continue
            if sample is None or key != sample.key or suffix.lower() in sample.suffixes:
                if sample is not None:
                    yield from _counted(sample.made(), member.start - sample.start)
                before, sample = sample, _Sample(key, member.start if sample else 0)
            _read_member(reader, member, sample, name, path)
        broken = _wrong_end(file, reader.at, size)
    except DamagedTarError as e:
        broken = e
    except OSError as e:
        if is_remote(path):
            raise  # the store may be to blame and not the tar: the runner tries again
        raise_machine(e, path)
        broken = DamagedTarError(str(e), reader.at)
    where = f"after {sample.key}: " if sample else ""
    start = sample.start if sample else 0
    if sample and (not broken or (before and sample.kinds() >= before.kinds())):
        end = broken.at if broken else size
        yield from _counted(sample.made(), end - start)
        start = end
    if broken or not sample:
        said = f"{where}{broken}" if broken else "no files in it"
        yield Skip(name, BAD_TAR, said, size - start), size - start


def _links(member: Member, suffix: str) -> bool:
    """Return whether a member is a link that is counted but not followed.

    Those are links that have the name of a picture, or that may be links to folders.
    """
    picture = suffix.lower() in (*IMAGE_SUFFIXES, *OTHER_SUFFIXES)
    folder = member.kind == tarfile.SYMTYPE and not suffix
    return folder or (member.is_link() and picture)


def _counted(made: list[Item | Skip], size: int) -> Iterator[tuple[Item | Skip, int]]:
    """Yield what a sample gave; all its bytes are counted for the first."""
    for i, one in enumerate(made):
        yield one, size if i == 0 else 0


def _wrong_end(file: BinaryIO, end: int, size: int) -> DamagedTarError | None:
    """Return what is wrong after the end mark at `end`, or None.

    Much more than the mark is a file that was allocated before it was filled.
    """
    file.seek(end)
    if size - end <= MAX_TAIL and not any(file.read(MAX_TAIL)):
        return None
    return DamagedTarError(f"{size - end:,} bytes after its end mark", end)


def _read_member(reader: TarReader, member: Member, sample: _Sample, name: str, path: str) -> None:
    """Read one member into its sample."""
    suffix = member.name.rpartition("/")[2].partition(".")[2].lower()
    kind = "image" if suffix in (*IMAGE_SUFFIXES, *OTHER_SUFFIXES) else suffix
    if kind not in ("image", "txt", "json"):
        return
    sample.suffixes.add(suffix)
    if kind == "image" and not _is_taken(sample, suffix, name):
        return
    if wrong := _unusable(member, kind, name):
        sample.unusable = Skip(sample.key, *wrong)
        return
    data = reader.read(member)
    if kind == "image":
        sample.image = Image(data, Place(path, member.place, member.size))
    else:
        sample.texts[kind] = data


def _unusable(member: Member, kind: str, name: str) -> tuple[str, str] | None:
    """Return the reason and the detail why a member is not read, or None."""
    shown = f"{name}: {member.name[:MAX_KEY]}"
    if not member.is_file():
        return UNREADABLE, f"{shown} is a link to {member.link[:80]}"
    if member.sparse:  # its bytes are not contiguous
        return UNREADABLE, f"{shown} is stored as a sparse file"
    if member.size > limit_of(kind):
        return TOO_LARGE, too_large(shown, member.size, limit_of(kind))
    return None


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
