"""Image formats: recognising them by a file's first bytes, and which of them are supported."""

import functools
import importlib

from PIL import features

from data_pipeline.io.errors import InputError
from data_pipeline.io.extras import advice

# Pillow's name of a supported format → (MIME type, suffix). An MPO is a photograph with a preview
# after it: a JPEG for every program that reads the first picture only.
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
# suffixes of unsupported formats, so that such files of a folder are counted and not ignored
OTHER_SUFFIXES = (
    *("gif", "bmp", "dib", "tif", "tiff", "jxl", "svg", "svgz", "ico", "psd", "psb", "xcf", "bpg"),
    *("jxr", "wdp", "hdp", "qoi", "exr", "dds", "flif"),
    # raw formats of cameras
    *("dng", "cr2", "cr3", "nef", "nrw", "arw", "sr2", "raf", "orf", "rw2", "pef", "srw", "3fr"),
)
# format by the first bytes → (Pillow's name of it, the feature of Pillow that it needs)
_READ = {
    "PNG": ("PNG", ""),
    "JPEG": ("JPEG", ""),
    "WebP": ("WEBP", "webp"),
    "AVIF": ("AVIF", "avif"),
    "JPEG 2000": ("JPEG2000", "jpg_2000"),
}
_HEIC = "HEIC"
_BEGINS = (  # (format, its bytes, their offset); the first match counts
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
_BRANDS = (  # brands of ISO base media files; the first format with a brand of the file counts
    ("AVIF", {b"avif", b"avis"}),
    (_HEIC, {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}),
    ("camera raw", {b"crx "}),
    ("HEIF", {b"mif1", b"msf1"}),
)
_MARKUP = (b"<svg", b"<?xml", b"<!--", b"<!doctype svg")


class UnsupportedError(InputError):
    """An image is of an unsupported format; that does not mean that it is damaged.

    `kind` is the format's name.
    """

    def __init__(self, message: str, kind: str = ""):
        """Create the error with its message and the format's name."""
        super().__init__(message)
        self.kind = kind


def _unsupported(kind: str, why: str) -> UnsupportedError:
    """Return the error for a format."""
    return UnsupportedError(f"unsupported format {kind}: {why}", kind)


def kind_of(data: bytes) -> str:
    """Return a file's format by its first bytes; empty where they are unknown."""
    if data[4:8] == b"ftyp":
        brands = {data[i : i + 4] for i in (8, *range(16, min(len(data), _box(data)), 4))}
        return next((name for name, known in _BRANDS if known & brands), "MP4")
    head = data[:4096].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if head.startswith(_MARKUP) and b"<svg" in head:
        return "SVG"
    return next((name for name, start, at in _BEGINS if data[at : at + len(start)] == start), "")


def _box(data: bytes) -> int:
    """Return the size of an ISO base media file's first box, at most 256 bytes."""
    return min(int.from_bytes(data[:4], "big"), 256)


def pillow_name(kind: str) -> str:
    """Return Pillow's name for a format that `kind_of` returned.

    Raises:
        UnsupportedError: the format is not supported; the message says which formats are, or what
            to install for it.
    """
    if kind == _HEIC:
        if not has_heif():
            raise _unsupported(kind, f"to read it, {advice('heic')} (pillow-heif)")
        return "HEIF"
    if kind not in _READ:
        raise _unsupported(kind, f"{listed()} are supported")
    name, feature = _READ[kind]
    if feature and not features.check(feature):
        raise _unsupported(
            kind, "this Pillow was built without it; pip install pillow brings one that has it"
        )
    return name


@functools.cache
def has_heif() -> bool:
    """Return whether pillow-heif is installed; if so, register it with Pillow."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        return False
    return True


def listed(last: str = "and") -> str:
    """Return the supported formats in words."""
    names = [kind for kind, (_, part) in _READ.items() if not part or features.check(part)]
    names += [_HEIC] if has_heif() else []
    return f"{', '.join(names[:-1])} {last} {names[-1]}"
