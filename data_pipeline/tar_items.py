"""img2dataset's (webdataset's) tars: KEY.jpg, KEY.txt, KEY.json next to each other, streamed."""

import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from data_pipeline.items import BAD_TAR, IMAGE_SUFFIXES, TOO_LARGE, Image, Item, Place, Skip, limit_of, make_item, too_large

CUT_OFF = "cut off between two files: the end-of-archive mark is missing"


def read_tar(file: BinaryIO, name: str, path: str, size: int) -> Iterator[tuple[Item | Skip, int]]:
    """(Item or Skip, bytes gone through) of each key, in the order of the tar.

    A tar that breaks off loses what is after the break and the sample that was being read; its last Skip has BAD_TAR as reason
    and `name`, the tar's, as key. `path` is what the items' places name.
    """
    key, image, texts, oversize, done = None, None, {}, "", 0

    def sample() -> Item | Skip:
        return Skip(key, TOO_LARGE, oversize) if oversize else make_item(key, image, texts)

    try:
        with tarfile.open(fileobj=file, mode="r|") as tar:
            for member in tar:
                tar.members = []  # tarfile keeps every member it has seen
                if not member.isreg():
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                if not stem:  # hidden files, as macOS puts into tars
                    continue
                member_key = f"{folder}/{stem}" if folder else stem
                if member_key != key:
                    if key is not None:
                        yield sample(), member.offset - done
                        done = member.offset
                    key, image, texts, oversize = member_key, None, {}, ""
                suffix = suffix.lower()
                kind = "image" if suffix in IMAGE_SUFFIXES else suffix
                if kind not in ("image", "txt", "json"):
                    continue
                if member.size > limit_of(kind):
                    oversize = too_large(f"{name}: {member.name}", member.size, limit_of(kind))
                    continue
                data = tar.extractfile(member).read()
                if len(data) < member.size:
                    raise tarfile.ReadError("unexpected end of data")
                if kind == "image":
                    image = Image(data, Place(path, member.offset_data, member.size))
                else:
                    texts[kind] = data
            end = tar.offset
    except (tarfile.TarError, EOFError, OSError) as e:
        # The rest of this tar is lost, and the sample that was being read with it; the other tars are not.
        yield Skip(name, BAD_TAR, f"after {key}: {e}"), size - done
        return
    if key is None:
        yield Skip(name, BAD_TAR, "no files in it"), size
        return
    yield sample(), end - done
    # Python's tarfile takes a file that ends between two members for a whole one. Two blocks of zeros end a whole one; of
    # these it has gone past the first.
    if size < end + tarfile.BLOCKSIZE:
        yield Skip(name, BAD_TAR, f"after {key}: {CUT_OFF}"), 0
