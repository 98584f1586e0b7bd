"""Make small tars that would cost their reader memory, time or its stack: one table of them.

Each is written header by header, because no library writes them.
"""

import tarfile

from image_shards import encoded

LONG, PAX, GLOBAL = b"L", b"x", b"g"


def number(value: int, width: int) -> bytes:
    """Return a number in base 256, as GNU tar writes those that octal digits cannot hold."""
    return b"\x80" + value.to_bytes(width - 1, "big")


def header(
    name: bytes = b"a.png",
    size: int | bytes = 0,
    kind: bytes = b"0",
    *,
    extra: bytes = b"",
    magic: bytes = b"ustar  \0",
    link: bytes = b"",
) -> bytes:
    """Return a header of 512 bytes; `extra` is what stands at byte 345, where GNU has its own."""
    size = b"%011o\0" % size if isinstance(size, int) else size
    fields = name.ljust(100, b"\0")[:100] + b"0000644\0" + b"0000000\0" * 2 + size + b"0" * 11
    fields += b"\0" + b" " * 8 + kind + link.ljust(100, b"\0") + magic.ljust(88, b"\0")
    block = (fields + extra).ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % tarfile.BLOCKSIZE)


def member(name: bytes | str, data: bytes, kind: bytes = b"0", **fields) -> bytes:
    name = name.encode() if isinstance(name, str) else name
    return header(name, len(data), kind, **fields) + padded(data)


def record(name: bytes | str, value: bytes | str | int) -> bytes:
    """Return a record of a PAX header; its own length is a part of its length."""
    name = name.encode() if isinstance(name, str) else name
    value = value if isinstance(value, bytes) else str(value).encode()
    length = len(name) + len(value) + 3
    while len(str(length)) + len(name) + len(value) + 3 != length:
        length = len(str(length)) + len(name) + len(value) + 3
    return b"%d %s=%s\n" % (length, name, value)


def pax(*records: tuple[str, bytes | str | int], kind: bytes = PAX) -> bytes:
    return member(b"pax", b"".join(record(*each) for each in records), kind)


def good(number: int) -> bytes:
    return member(f"{number:03d}.png", encoded(number)) + member(f"{number:03d}.txt", b"a caption")


def sparse_map(*pieces: tuple[int, int], more: bool = False, size: int | bytes = 0) -> bytes:
    """Return what stands at byte 345 of an old GNU sparse header."""
    size = b"%011o\0" % size if isinstance(size, int) else size
    table = b"".join(b"%011o\0%011o\0" % piece for piece in pieces).ljust(96, b"\0")
    return bytes(41) + table + bytes([more]) + size


def sparse_block(more: bool) -> bytes:
    return bytes(504) + bytes([more]) + bytes(7)


def end(data: bytes) -> bytes:
    return data + bytes(1024)


GIB = 2**30
_CHAIN = 5_000
_FIRST, _LAST = good(0) + good(1), good(2)


def _pax_size(size: int) -> bytes:
    return _FIRST + pax(("size", size)) + member("9.png", b"x") + _LAST


def _based(size: int | bytes) -> bytes:
    size = size if isinstance(size, bytes) else number(size, 12)
    return _FIRST + header(b"9.png", size) + padded(b"x") + _LAST


def _sparse(*records: tuple[str, bytes | str | int], data: bytes = b"") -> bytes:
    return _FIRST + pax(*records) + member("9.png", data) + _LAST


# what is after the good samples 000 and 001 → the tar, mostly with the good sample 002 at its end
HOSTILE: dict[str, bytes] = {
    "5,000 GNU names": _FIRST + member(b"L", b"9.png\0", LONG) * _CHAIN + _LAST,
    "5,000 GNU links": _FIRST + member(b"L", b"9.png\0", b"K") * _CHAIN + _LAST,
    "5,000 PAX headers": _FIRST + pax(("path", "9.png")) * _CHAIN + _LAST,
    "5,000 global headers": _FIRST + pax(("path", "9.png"), kind=GLOBAL) * _CHAIN + _LAST,
    "5,000 Solaris headers": _FIRST + pax(("path", "9.png"), kind=b"X") * _CHAIN + _LAST,
    "names and PAX in turn": (
        _FIRST + (member(b"L", b"9.png\0", LONG) + pax(("mtime", 1))) * _CHAIN + _LAST
    ),
    "PAX size of 2^60": _pax_size(2**60),
    "PAX size of 2^85": _pax_size(2**85),
    "PAX size past the end": _pax_size(10 * GIB),
    "PAX size below 0": _pax_size(-(2**40)),
    "PAX size of 4,000 digits": _FIRST + pax(("size", "9" * 4000)) + member("9.png", b"x") + _LAST,
    "PAX size of a million digits": (
        _FIRST + pax(("size", "9" * 10**6)) + member("9.png", b"x") + _LAST
    ),
    "PAX size that is no number": _FIRST + pax(("size", "x")) + member("9.png", b"x") + _LAST,
    "base-256 size of 2^60": _based(2**60),
    "base-256 size of 2^85": _based(2**85),
    "base-256 size past the end": _based(10 * GIB),
    "base-256 size below 0": _based(b"\xff" * 12),
    "base-256 size of -2^90": _based(b"\xff" + b"\x04" + bytes(10)),
    "octal size past the end": _FIRST + header(b"9.png", 0o77777777777) + _LAST,
    "GNU sparse of 6 GB": (
        _FIRST + header(b"9.png", 0, b"S", extra=sparse_map(size=6 * GIB)) + _LAST
    ),
    "GNU sparse text of 6 GB": (
        _FIRST + header(b"9.txt", 0, b"S", extra=sparse_map(size=6 * GIB)) + _LAST
    ),
    "GNU sparse of 2^85": (
        _FIRST + header(b"9.png", 0, b"S", extra=sparse_map(size=number(2**85, 12))) + _LAST
    ),
    "GNU sparse below 0": (
        _FIRST + header(b"9.png", 0, b"S", extra=sparse_map(size=b"\xff" * 12)) + _LAST
    ),
    "GNU sparse, 20,000 map blocks": (
        _FIRST
        + header(b"9.png", 0, b"S", extra=sparse_map(more=True, size=6 * GIB))
        + sparse_block(True) * 20_000
        + sparse_block(False)
        + _LAST
    ),
    "PAX sparse 0.0 of 6 GB": _sparse(("GNU.sparse.size", 6 * GIB), ("GNU.sparse.numblocks", 0)),
    "PAX sparse 0.1 of 6 GB": _sparse(("GNU.sparse.size", 6 * GIB), ("GNU.sparse.map", "0,1")),
    "PAX sparse 1.0 of 6 GB": _sparse(
        ("GNU.sparse.major", 1),
        ("GNU.sparse.minor", 0),
        ("GNU.sparse.name", "9.png"),
        ("GNU.sparse.realsize", 6 * GIB),
        data=padded(b"1\n0\n1\n"),
    ),
    "PAX sparse 1.0, map of a billion": _sparse(
        ("GNU.sparse.major", 1),
        ("GNU.sparse.minor", 0),
        ("GNU.sparse.realsize", 6 * GIB),
        data=padded(b"1000000000\n0\n1\n"),
    ),
    "PAX sparse map of a million": _sparse(
        ("GNU.sparse.size", 6 * GIB), ("GNU.sparse.map", "0,1," * 250_000 + "0,1")
    ),
    "PAX sparse map that is no number": _sparse(("GNU.sparse.map", "x,y")),
    "PAX record of length 0": _FIRST + member(b"p", b"0 path=x\n", PAX) + _LAST,
    "PAX record past its header": _FIRST + member(b"p", b"999999 path=x\n", PAX) + _LAST,
    "PAX record of a long length": _FIRST + member(b"p", b"9" * 300_000, PAX) + _LAST,
    "PAX records without end": _FIRST + member(b"p", b"5 a=b" * 60_000, PAX) + _LAST,
    "PAX header of 200,000 records": (
        _FIRST + pax(*[(f"k{i}", i) for i in range(200_000)]) + member("9.png", b"x") + _LAST
    ),
    "PAX header of 2^60 bytes": _FIRST + header(b"p", number(2**60, 12), PAX) + _LAST,
    "PAX header below 0": _FIRST + header(b"p", b"\xff" * 12, PAX) + _LAST,
    "GNU name of 2^60 bytes": _FIRST + header(b"L", number(2**60, 12), LONG) + _LAST,
    "GNU name of 3 MB": (
        _FIRST + member(b"L", b"9" * 3_000_000 + b".png\0", LONG) + member("9.png", b"x") + _LAST
    ),
    "GNU name below 0": _FIRST + header(b"L", b"\xff" * 12, LONG) + _LAST,
    "a name alone at the end": _FIRST + _LAST + member(b"L", b"9.png\0", LONG),
    "PAX name of a megabyte": (
        _FIRST + pax(("path", "9" * 2**20 + ".png")) + member("9.png", b"x") + _LAST
    ),
    "PAX name of NULs": _FIRST + pax(("path", b"\0" * 9)) + member("9.png", b"x") + _LAST,
    "PAX name that is not UTF-8": (
        _FIRST + pax(("path", b"\xff\xfe.png")) + member("9.png", b"x") + _LAST
    ),
    "PAX character set of no name": (
        _FIRST + pax(("hdrcharset", "x"), ("path", "9.png")) + member("9.png", b"x") + _LAST
    ),
    "a link to a megabyte": (
        _FIRST + pax(("linkpath", "9" * 2**20)) + header(b"9.png", 0, b"2") + _LAST
    ),
    "a folder with a size": _FIRST + header(b"9/", 2**20, b"5") + _LAST,
    "a device with a size": _FIRST + header(b"9.png", 2**30, b"3") + _LAST,
    "a kind that nobody knows": _FIRST + member("9.png", b"x", b"~") + _LAST,
    "a checksum that is no number": (
        _FIRST + header(b"9.png")[:148] + b"xxxxxxxx" + header(b"9.png")[156:] + _LAST
    ),
    "an owner that is no number": (
        _FIRST + member("9.png", b"x").replace(b"0000000\0", b"zzzzzzz\0", 1) + _LAST
    ),
    "headers of nothing but links": _FIRST + header(b"9", 0, b"2", link=b"9") * 20_000 + _LAST,
    "one name 20,000 times": _FIRST + header(b"9.png") * 20_000 + _LAST,
}


def tiny(count: int) -> bytes:
    """Return a tar of so many samples of one member with one byte each."""
    return b"".join(member(f"{i:06d}.txt", b"x") for i in range(count)) + bytes(1024)
