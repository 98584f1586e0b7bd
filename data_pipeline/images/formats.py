"""Kinds of image files: known by how they begin, whatever they are called, and which are read."""

import functools
import importlib

from PIL import features

from data_pipeline.io.errors import InputError
from data_pipeline.io.extras import advice

# Pillow's name of a kind that is read → its MIME type, and how its files are called. An MPO is a
# photograph with its own preview behind it: a JPEG to everybody who reads the first picture.
TYPES = {
    "PNG": ("image/png", "png"),
    "JPEG": ("image/jpeg", "jpg"),
    "MPO": ("image/jpeg", "jpg"),
    "WEBP": ("image/webp", "webp"),
    "AVIF": ("image/avif", "avif"),
    "JPEG2000": ("image/jp2", "jp2"),
    "HEIF": ("image/heic", "heic"),
}
SUFFIXES = (
    *("png", "apng", "jpg", "jpeg", "jpe", "jfif", "mpo", "webp", "avif", "avifs"),
    *("jp2", "j2k", "j2c", "jpc", "jpf", "jpx", "heic", "heics", "heif", "heifs", "hif"),
)
# of pictures that are not read, so that a folder's are counted and not passed over
OTHER_SUFFIXES = (
    *("gif", "bmp", "dib", "tif", "tiff", "jxl", "svg", "svgz", "ico", "psd", "psb", "xcf", "bpg"),
    *("jxr", "wdp", "hdp", "qoi", "exr", "dds", "flif"),
    # cameras' own
    *("dng", "cr2", "cr3", "nef", "nrw", "arw", "sr2", "raf", "orf", "rw2", "pef", "srw", "3fr"),
)
# what a file is by its first bytes → Pillow's name, and the feature of Pillow's that it takes
_READ = {
    "PNG": ("PNG", ""),
    "JPEG": ("JPEG", ""),
    "WebP": ("WEBP", "webp"),
    "AVIF": ("AVIF", "avif"),
    "JPEG 2000": ("JPEG2000", "jpg_2000"),
}
_HEIC = "HEIC"
_BEGINS = (  # name, bytes, at which byte; the first that fits
    ("PNG", b"\x89PNG\r\n\x1a\n", 0),
    ("JPEG", b"\xff\xd8\xff", 0),
    ("WebP", b"WEBP", 8),
    ("JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n", 0),
    ("JPEG 2000", b"\xff\x4f\xff\x51", 0),
    ("JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n", 0),
    ("JPEG XL", b"\xff\x0a", 0),
    ("JPEG XR", b"II\xbc\x01", 0),
    ("GIF", b"GIF8", 0),
    ("BMP", b"BM", 0),
    ("TIFF", b"II*\0", 0),
    ("TIFF", b"MM\0*", 0),
    ("BigTIFF", b"II+\0", 0),
    ("BigTIFF", b"MM\0+", 0),
    ("Photoshop", b"8BPS", 0),
    ("ICO", b"\0\0\1\0", 0),
    ("QOI", b"qoif", 0),
    ("OpenEXR", b"\x76\x2f\x31\x01", 0),
    ("Radiance", b"#?RADIANCE", 0),
    ("DDS", b"DDS ", 0),
    ("XCF", b"gimp xcf", 0),
    ("FLIF", b"FLIF", 0),
    ("BPG", b"BPG\xfb", 0),
    ("PDF", b"%PDF-", 0),
    ("PostScript", b"%!PS", 0),
    ("camera raw", b"FUJIFILM", 0),
    ("camera raw", b"IIRO", 0),
    ("camera raw", b"IIRS", 0),
    ("camera raw", b"IIU\0", 0),
    ("Matroska", b"\x1a\x45\xdf\xa3", 0),
    ("gzip", b"\x1f\x8b\x08", 0),
)
_BRANDS = (  # of an ISO base media file; the first of which it names one
    ("AVIF", {b"avif", b"avis"}),
    (_HEIC, {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}),
    ("camera raw", {b"crx "}),
    ("HEIF", {b"mif1", b"msf1"}),
)
_MARKUP = (b"<svg", b"<?xml", b"<!--", b"<!doctype svg")


class UnsupportedError(InputError):
    """An image of a format that is not read; told apart because it is not damaged.

    `kind` is the format's name.
    """

    def __init__(self, message: str, kind: str = ""):
        super().__init__(message)
        self.kind = kind


def _unsupported(kind: str, why: str) -> UnsupportedError:
    return UnsupportedError(f"unsupported format {kind}: {why}", kind)


def kind_of(data: bytes) -> str:
    """What a file is by its first bytes; empty where they are nothing known."""
    if data[4:8] == b"ftyp":
        brands = {data[i : i + 4] for i in (8, *range(16, min(len(data), _box(data)), 4))}
        return next((name for name, known in _BRANDS if known & brands), "MP4")
    head = data[:4096].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if head.startswith(_MARKUP) and b"<svg" in head:
        return "SVG"
    return next((name for name, start, at in _BEGINS if data[at : at + len(start)] == start), "")


def _box(data: bytes) -> int:
    """Bytes of the first box of an ISO base media file, of which no more than 256 are looked at."""
    return min(int.from_bytes(data[:4], "big"), 256)


def pillow_name(kind: str) -> str:
    """Pillow's name of a `kind_of` that is read.

    Raises:
        UnsupportedError: it is not; the message says what is, or what would have to be installed.
    """
    if kind == _HEIC:
        if not has_heif():
            raise _unsupported(kind, f"{advice('heic')} (pillow-heif) reads it")
        return "HEIF"
    if kind not in _READ:
        raise _unsupported(kind, f"{listed()} are read")
    name, feature = _READ[kind]
    if feature and not features.check(feature):
        raise _unsupported(kind, "this Pillow was built without it; pip install pillow")
    return name


@functools.cache
def has_heif() -> bool:
    """Whether pillow-heif is installed; Pillow knows HEIC once this was asked."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        return False
    return True


def listed(last: str = "and") -> str:
    """The kinds that are read here, in words."""
    names = [kind for kind, (_, part) in _READ.items() if not part or features.check(part)]
    names += [_HEIC] if has_heif() else []
    return f"{', '.join(names[:-1])} {last} {names[-1]}"
