"""Reading the headers of a tar from its start to its end, within limits.

Python's tarfile follows a chain of headers by recursion, believes every size, and keeps the map of
a sparse file. So only its parser of one block is used here.
"""

import dataclasses
import re
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

BLOCK = tarfile.BLOCKSIZE
MAX_CHAIN = 16  # headers before that of a member: a tool writes one for a long name, one for a link
MAX_EXTENSION = 2**20  # bytes of such a header; one that holds extended attributes may have 64 KiB
MAX_MAP = 2**14  # blocks of a sparse file's map, each of 21 pieces
_NAME, _LINK = tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
_MAP_CONTINUES = (482, 504)  # the byte of a sparse header that says so, and that of a map's block
_LENGTH = re.compile(rb"(\d{1,10}) ")  # of a PAX record
_SIZE = re.compile(r"\d{1,20}", re.ASCII)  # 2^63 has 19 digits
_SPARSE = "GNU.sparse."


class DamagedTarError(Exception):
    """The rest of a tar cannot be read. `at` is the byte from which on it is lost."""

    def __init__(self, message: str, at: int):
        """Create the error with its message and its place."""
        super().__init__(message)
        self.at = at


@dataclasses.dataclass(frozen=True)
class Member:
    """A member of a tar, whose bytes have not been read.

    Attributes:
        kind: tarfile's type.
        link: the target of a link.
        start: the byte of its first header.
        place: the byte of its data.
        size: the bytes that are stored, which may be more than the file has.
        sparse: whether holes are left out of the stored bytes.
    """

    name: str
    kind: bytes
    link: str
    start: int
    place: int
    size: int
    sparse: bool

    def is_file(self) -> bool:
        """Return whether it is a regular file."""
        return self.kind in tarfile.REGULAR_TYPES

    def is_link(self) -> bool:
        """Return whether it is a symbolic or a hard link."""
        return self.kind in (tarfile.SYMTYPE, tarfile.LNKTYPE)


class TarReader:
    """A reader of an open tar of `size` bytes, which iterates over its members once.

    After the last member `at` is the place of the end mark. The memory and time of one step do not
    depend on what headers claim, but only on the limits of this module.

    Raises:
        DamagedTarError: a header is damaged or exceeds a limit, or the file ends too early.
        OSError: the machine or the store fails.
    """

    def __init__(self, file: BinaryIO, size: int):
        """Start at the beginning of `file`, which can seek."""
        self._file, self._size, self._place = file, size, 0
        self._shared: dict[str, str] = {}  # PAX records that hold for all later members
        self.at = 0
        file.seek(0)

    def __iter__(self) -> Iterator[Member]:
        """Yield the members. Their data is read by `read` before the next one, or skipped."""
        while (member := self._member()) is not None:
            yield member
            stored = member.is_file() or member.kind not in tarfile.SUPPORTED_TYPES
            if stored and member.place + member.size > self._size:
                raise DamagedTarError("unexpected end of data", self._size)
            self.at = member.place + (-(-member.size // BLOCK) * BLOCK if stored else 0)

    def read(self, member: Member) -> bytes:
        """Return a member's data. The caller has compared its size with a limit."""
        return self._bytes(member.place, member.size, "unexpected end of data")

    def _bytes(self, at: int, count: int, ended: str) -> bytes:
        """Return `count` bytes from `at`. Raises DamagedTarError(ended) if there are fewer."""
        if at + count > self._size:
            raise DamagedTarError(ended, self._size)
        if at != self._place:
            self._file.seek(at)
        data = self._file.read(count)
        self._place = at + len(data)
        if len(data) < count:
            raise DamagedTarError(ended, at)
        return data

    def _header(self, at: int) -> tuple[bytes, tarfile.TarInfo | None]:
        """Return the block at `at` and what it says; None where it is the end mark."""
        block = self._bytes(at, BLOCK, "unexpected end: the end-of-archive mark is missing")
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            if not any(block):
                return block, None
            raise DamagedTarError(f"damaged header at byte {at:,}", at) from None
        if info.size < 0:
            raise DamagedTarError(f"a negative size in the header at byte {at:,}", at)
        return block, info

    def _member(self) -> Member | None:
        """Return the next member, or None at the end mark."""
        start = at = self.at
        names: dict[bytes, str] = {}  # by the kind of header; of several the first counts
        own: dict[str, str] = {}
        for _ in range(MAX_CHAIN + 1):
            block, info = self._header(at)
            if info is None:
                if at == start:
                    return None
                raise DamagedTarError(f"no member after the headers at byte {start:,}", start)
            at += BLOCK
            if info.type not in (_NAME, _LINK, *_PAX):
                return self._made(info, at + self._map(info, block, at), start, names, own)
            if info.size > MAX_EXTENSION:
                said = f"a header of {info.size:,} bytes at byte {at - BLOCK:,}"
                raise DamagedTarError(f"{said}; the limit is {MAX_EXTENSION:,}", start)
            data = self._bytes(at, info.size, "unexpected end in a header")
            if info.type in (_NAME, _LINK):
                text = data.partition(b"\0")[0].decode("utf-8", "surrogateescape")
                names.setdefault(info.type, text)
            elif info.type == tarfile.XGLTYPE:
                self._shared |= _records(data, start)
            else:
                own = _records(data, start) | own
            at += -(-info.size // BLOCK) * BLOCK
        said = f"more than {MAX_CHAIN} headers before one member at byte {start:,}"
        raise DamagedTarError(said, start)

    def _map(self, info: tarfile.TarInfo, block: bytes, at: int) -> int:
        """Return the size of the blocks at `at` that continue the map of an old sparse file."""
        if info.type != tarfile.GNUTYPE_SPARSE:
            return 0
        continues, after = _MAP_CONTINUES
        if not block[continues]:
            return 0
        for count in range(MAX_MAP):
            ended = "unexpected end in the map of a sparse file"
            if not self._bytes(at + count * BLOCK, BLOCK, ended)[after]:
                return (count + 1) * BLOCK
        said = f"a sparse file with a map of more than {MAX_MAP:,} blocks at byte {at - BLOCK:,}"
        raise DamagedTarError(said, at - BLOCK)

    def _made(
        self,
        info: tarfile.TarInfo,
        place: int,
        start: int,
        names: dict[bytes, str],
        own: dict[str, str],
    ) -> Member:
        """Return the member of a header and of the extensions before it."""
        told = self._shared | own
        sparse = info.type == tarfile.GNUTYPE_SPARSE or any(n.startswith(_SPARSE) for n in told)
        size = info.size
        if "size" in told:
            if not _SIZE.fullmatch(told["size"]):
                said = f"a size that is not a number in the header at byte {start:,}"
                raise DamagedTarError(said, start)
            size = int(told["size"])
        name = told.get("path") or names.get(_NAME) or info.name
        name = told.get(f"{_SPARSE}name") or name
        link = told.get("linkpath") or names.get(_LINK) or info.linkname
        return Member(name, info.type, link, start, place, size, sparse)


def _records(data: bytes, start: int) -> dict[str, str]:
    """Return the records of a PAX header that change how a member is read.

    Raises DamagedTarError, with the place `start`, on a record that is not "LENGTH NAME=VALUE".
    """
    found, at = {}, 0
    while at < len(data) and data[at]:
        length = _LENGTH.match(data, at)
        end = at + int(length[1]) if length else 0
        name, equals, value = data[length.end() if length else 0 : max(end - 1, 0)].partition(b"=")
        if not (at < end <= len(data) and equals and data[end - 1] == 10):
            raise DamagedTarError(f"damaged PAX header at byte {start:,}", start)
        if name in (b"path", b"linkpath", b"size") or name.startswith(_SPARSE.encode()):
            found[name.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        at = end
    return found
