"""Encoded image bytes → upright RGB, within bounds: the one place where foreign pixels are
decoded.
"""

import io
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from data_pipeline.io.errors import InputError

FORMATS = ("PNG", "JPEG", "WEBP")
# how files of other kinds begin: name, bytes, at which byte
_OTHERS = (
    ("GIF", b"GIF8", 0),
    ("BMP", b"BM", 0),
    ("TIFF", b"II*\0", 0),
    ("TIFF", b"MM\0*", 0),
    ("AVIF or HEIF", b"ftyp", 4),
    ("JPEG XL", b"\xff\x0a", 0),
)
MAX_IMAGE_BYTES = 64 * 2**20  # of the encoded file
MAX_PIXELS = 64 * 2**20  # 8192²: below PIL's own limit of 89 million, and 192 MB once decoded
# long side over short: a square crop of more would show less than an eighth, which no caption of it
# describes
MAX_ASPECT = 8


class UnsupportedError(InputError):
    """An image of a format that is not read; told apart because it is not damaged."""


class TooLargeError(InputError):
    """More bytes or pixels than are read; told apart because it is not the image's fault."""


def open_image(
    data: bytes, *, max_bytes: int = MAX_IMAGE_BYTES, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Reads the header only, and refuses what is too large to decode.

    Raises:
        TooLargeError: more than `max_bytes` or more than `max_pixels`.
        UnsupportedError: another kind of image.
        InputError: not a png, jpeg or webp.
    """
    if len(data) > max_bytes:
        raise TooLargeError(f"image of {len(data):,} bytes; at most {max_bytes:,} are read")
    if kind := next(
        (name for name, start, at in _OTHERS if data[at : at + len(start)] == start), None
    ):
        raise UnsupportedError(f"a {kind} image; png, jpeg and webp are read")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as e:
        raise TooLargeError(f"too many pixels to decode: {e}") from e
    # Pillow's decoders raise whatever damaged bytes lead them to: struct.error, KeyError,
    # SyntaxError, ...
    except Exception as e:
        raise InputError(f"not a readable png, jpeg or webp image ({type(e).__name__})") from e
    width, height = image.size
    if width * height > max_pixels:
        raise TooLargeError(f"image of {width}x{height} pixels; at most {max_pixels:,} are decoded")
    return image


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) as displayed, that is, after the EXIF orientation, without decoding
    pixels.
    """
    width, height = image.size
    try:
        turned = image.getexif().get(0x0112) in (5, 6, 7, 8)
    except Exception as e:  # as above
        raise InputError(f"image with a damaged EXIF block ({type(e).__name__})") from e
    return (width, height) if turned else (height, width)


def is_animated(image: Image.Image) -> bool:
    """Whether it has frames beside the first. An MPO has not: a photograph with its own preview.

    Raises:
        InputError: the frame count is damaged.
    """
    try:
        return image.format != "MPO" and getattr(image, "n_frames", 1) > 1
    except Exception as e:  # as above
        raise InputError(f"image with a damaged number of frames ({type(e).__name__})") from e


def decode_rgb(image: Image.Image, *, short_side: int | None = None) -> Image.Image:
    """Decodes what `open_image` opened: mode RGB, EXIF orientation applied, transparency on white,
    first frame only.

    Args:
        image: not decoded yet.
        short_side: if given, a JPEG may be decoded at 1/2, 1/4 or 1/8 as long as no side falls
            below it. This saves most of the work for large photographs that are about to be reduced
            anyway.

    Raises:
        InputError: the pixels are damaged or truncated.
    """
    try:
        if short_side is not None and image.format == "JPEG":
            image.draft(None, (short_side, short_side))
        image.load()
        # copies nothing where there is nothing to turn
        ImageOps.exif_transpose(image, in_place=True)
        # 16-bit greyscale: convert() would clip it to 255 instead of scaling
        if image.mode.startswith("I"):
            values = np.asarray(image, np.float32) / 257.0
            image = Image.fromarray(np.clip(values + 0.5, 0, 255).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it
    except Exception as e:  # as above
        raise InputError(f"damaged image data ({type(e).__name__}: {str(e)[:80]})") from e


def encode_png(pixels: np.ndarray, *, compress_level: Literal[1, 6, 9] = 1) -> bytes:
    """uint8 [H, W, 3] → PNG bytes.

    Level 1 is several times faster than the default and a few percent larger.
    """
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=compress_level)
    return out.getvalue()
