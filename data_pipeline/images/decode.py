"""Decoding image bytes into upright RGB of bounded size: no other code decodes foreign pixels."""

import contextlib
import io
import re
from collections.abc import Iterator
from typing import Literal

import numpy as np
from PIL import ExifTags, Image

from data_pipeline.images import avif, formats, jpeg, jpeg2000, png
from data_pipeline.images.bounds import MAX_SIDE, Watched, orientation_alone
from data_pipeline.images.colour import changes, to_srgb
from data_pipeline.io.errors import InputError

MAX_IMAGE_BYTES = 64 * 2**20  # size of the encoded file
MAX_PIXELS = 64 * 2**20  # 8192²: below Pillow's own limit of 89 million, and 192 MB when decoded
# long side over short side: a square crop of a longer image would show less than an eighth of it,
# which the caption does not describe
MAX_ASPECT = 8
_UPRIGHT = {  # EXIF orientation (1 is upright already) → what makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DAMAGED = "damaged image data ({0}: {1})"
_XMP = r'tiff:Orientation(="|>)([0-9])'
_PLAIN = ("1", "L", "P", "RGB")  # modes that all decoders read in the same way


class TooLargeError(InputError):
    """An image has more bytes or pixels than are read; that does not mean that it is damaged."""


def open_image(
    data: bytes, *, max_bytes: int = MAX_IMAGE_BYTES, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Return the image with only its header read; refuse one that is too large to decode.

    The image's `format` is a key of `formats.TYPES`.

    Raises:
        TooLargeError: more than `max_bytes` or `max_pixels`, or more than MAX_SIDE pixels a side.
        TooCostlyError: decoding would take too much time or memory for another reason.
        UnsupportedError: an image of a format that is not supported.
        InputError: not an image, or a damaged one.
    """
    if len(data) > max_bytes:
        raise TooLargeError(f"image of {len(data):,} bytes; the limit is {max_bytes:,}")
    if not (kind := formats.kind_of(data)):
        raise InputError(f"not a readable {formats.listed('or')} image")
    name = formats.pillow_name(kind)
    lean, profile = _prepared(data, name, max_pixels)
    with _blaming(f"not a readable {kind} image ({{0}})"):
        try:
            image = Image.open(Watched(lean), formats=(name,))
        except Image.DecompressionBombError as e:
            # Pillow refuses more than twice the number that it warns of
            least = 2 * (Image.MAX_IMAGE_PIXELS or 0)
            raise TooLargeError(
                f"image of more than {least:,} pixels; the limit is {max_pixels:,}"
            ) from e
    if profile:
        image.info["icc_profile"] = profile
    if name == "PNG" and "transparency" in image.info:
        image.info["transparency"] = png.transparent(image.info["transparency"], data, image.mode)
    width, height = image.size
    if width * height > max_pixels:
        raise TooLargeError(f"image of {width}x{height} pixels; the limit is {max_pixels:,}")
    if max(width, height) > MAX_SIDE:  # the rows of a narrow one take more memory than its pixels
        raise TooLargeError(f"image of {width}x{height} pixels; the limit is {MAX_SIDE:,} a side")
    return image


def _prepared(data: bytes, name: str, max_pixels: int) -> tuple[bytes, bytes | None]:
    """Return (the file without what Pillow may fail on, a PNG's ICC profile or None).

    name: Pillow's name of the format. Raises TooCostlyError.
    """
    if name == "PNG":
        return png.without_extras(data)
    if name == "AVIF":
        avif.check(data)
    if name == "JPEG2000":
        jpeg2000.check(data, max_pixels)
    return (jpeg.checked(data) if name == "JPEG" else data), None


@contextlib.contextmanager
def _blaming(said: str) -> Iterator[None]:
    """Raise InputError with the message `said` in place of any exception of the block.

    In `said`, {0} is the exception's class and {1} its text. On damaged bytes, Pillow's decoders
    may raise anything: struct.error, KeyError, SyntaxError, ... A MemoryError is not replaced: the
    sizes that a header claims are bounded by then, so the machine is to blame.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as e:
        raise InputError(said.format(type(e).__name__, str(e)[:80])) from e


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1..8; 1, upright, where there is none that can be read.

    Viewers do the same.

    Raises:
        InputError: the pixels of a PNG, after which the EXIF may be, are damaged.
    """
    if image.format == "PNG" and "exif" not in image.info:
        _load(image)
    value = None
    # damaged pixels are refused when they are decoded
    with contextlib.suppress(InputError), _blaming("unreadable EXIF ({0})"):
        value = _told_orientation(image)
    return int(value) if value in _UPRIGHT else 1


def _told_orientation(image: Image.Image) -> object:
    """Return the orientation that EXIF or else XMP tells, or None.

    Pillow gets the one tag alone: it would copy the values of all, which may be the same megabytes.
    """
    block, text = image.info.get("exif"), image.info.get("Raw profile type exif")
    if block is None and text:
        block = bytes.fromhex("".join(text.split("\n")[3:]))
    if block is None and image.format is None:  # made here, with nothing from outside
        return image.getexif().get(ExifTags.Base.Orientation)
    exif = Image.Exif()
    exif.load(orientation_alone(block or b""))
    if ExifTags.Base.Orientation in exif:
        return exif[ExifTags.Base.Orientation]
    xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp")
    found = xmp and re.search(_XMP.encode() if isinstance(xmp, bytes) else _XMP, xmp)
    return int(found[2]) if found else None


def _load(image: Image.Image) -> None:
    """Decode the pixels. Raises InputError where they are damaged or take too long."""
    if isinstance(file := getattr(image, "fp", None), Watched):
        file.start()
    with _blaming(_DAMAGED):
        image.load()


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (height, width) as displayed, after the EXIF orientation, without decoding pixels."""
    width, height = image.size
    return (width, height) if orientation(image) >= 5 else (height, width)


def is_plain(image: Image.Image) -> bool:
    """Return whether every decoder shows the file as `decode_rgb` does.

    This is false for pictures that EXIF rotates, with transparency, with 16-bit grey, in CMYK, or
    with colours of a profile other than sRGB.
    """
    return (
        image.mode in _PLAIN
        and not image.has_transparency_data
        and orientation(image) == 1
        and not changes(image.info.get("icc_profile"), _without_palette(image.mode))
    )


def is_animated(image: Image.Image) -> bool:
    """Return whether the image has more frames than the first.

    MPO and HEIC are never animated: their further pictures are a preview or other photographs.

    Raises:
        InputError: the number of frames is damaged.
    """
    with _blaming("image with a damaged number of frames ({0})"):
        return image.format not in ("MPO", "HEIF") and getattr(image, "n_frames", 1) > 1


def decode_rgb(image: Image.Image, *, short_side: int | None = None) -> Image.Image:
    """Decode an image of `open_image`: mode RGB, sRGB, upright, on white, the first frame only.

    The EXIF orientation is applied, and transparent pixels are put on white.

    Args:
        image: the image, not decoded yet.
        short_side: if given, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as no
            side becomes shorter than this. That saves most of the work for large photographs that
            are about to be reduced anyway.

    Raises:
        InputError: the pixels are damaged or truncated.
    """
    colours, alpha = decode_layers(image, short_side=short_side)
    with _blaming(_DAMAGED):
        return _on_white(colours, alpha)


def decode_layers(
    image: Image.Image, *, short_side: int | None = None
) -> tuple[Image.Image, Image.Image | None]:
    """Return (the colours as RGB in sRGB, the alpha channel as L or None), both upright.

    image: of `open_image`, not decoded yet. The colours of transparent pixels are those of the
    file. short_side: as for `decode_rgb`. Raises InputError where the pixels are damaged or
    truncated.
    """
    if short_side is not None and image.format == "JPEG":
        with _blaming(_DAMAGED):
            image.draft(None, (short_side, short_side))
    _load(image)
    with _blaming(_DAMAGED):
        profile, turn = image.info.get("icc_profile"), _UPRIGHT.get(orientation(image))
        # transpose the pixels alone: rewriting the EXIF block fails on tags that Pillow only reads
        image = image if turn is None else image.transpose(turn)
        image, alpha = _opaque(_eight_bits(image) if image.mode.startswith("I") else image)
        return to_srgb(image, profile), alpha


def _on_white(image: Image.Image, alpha: Image.Image | None) -> Image.Image:
    """Return the colours on white, mode RGB."""
    if alpha is not None:
        image.putalpha(alpha)
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    # `convert` would copy an image that is RGB already
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return 16-bit grey as L or LA.

    `convert` would clip it to 255 instead of scaling it, and lose which grey is transparent.
    """
    values = np.asarray(image, np.float32)
    grey = Image.fromarray(np.clip(values / 257.0 + 0.5, 0, 255).astype(np.uint8))
    if isinstance(clear := image.info.get("transparency"), int):
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _opaque(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return (the image as L, RGB or CMYK, its alpha channel or None)."""
    if not image.has_transparency_data:
        mode = _without_palette(image.mode)
        return (image if image.mode == mode else image.convert(mode)), None
    both = image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")
    return both.convert(both.mode[:-1]), both.getchannel("A")


def _without_palette(mode: str) -> str:
    """Return the mode L, RGB or CMYK that holds an image of `mode` without transparency."""
    return mode if mode in ("L", "RGB", "CMYK") else "L" if mode == "1" else "RGB"


def encode_png(pixels: np.ndarray, *, compress_level: Literal[1, 6, 9] = 1) -> bytes:
    """Return the PNG of uint8 [H, W, 3].

    compress_level: 1 is several times faster than 6, Pillow's default, and a few percent larger.
    """
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=compress_level)
    return out.getvalue()
