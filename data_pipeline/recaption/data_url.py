"""A record's image as a chat carries it: a base64 data URL, the bytes as they are where the model
would see the same image.
"""

import base64
import io

from PIL import Image

from data_pipeline.images.decode import decode_rgb, open_image, upright_size

_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


def data_url(data: bytes, side: int) -> str:
    """Encoded image → "data:image/…;base64,…", at most `side` pixels long.

    A larger one, one that EXIF turns, and one with transparency become an upright RGB JPEG on
    white, which is what training sees.

    Raises:
        InputError: the image is damaged or too large to decode.
    """
    image = open_image(data)
    kind = image.format
    height, width = upright_size(image)
    longest = max(height, width)
    if (
        longest > side
        or (width, height) != image.size
        or image.getexif().get(0x0112, 1) != 1
        or image.has_transparency_data
    ):
        scale = min(1.0, side / longest)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = decode_rgb(image, short_side=min(size))
        if pixels.size != size:
            pixels = pixels.resize(size, Image.Resampling.LANCZOS)
        out = io.BytesIO()
        pixels.save(out, "JPEG", quality=92)
        data, kind = out.getvalue(), "JPEG"
    return f"data:{_TYPES[kind]};base64,{base64.b64encode(data).decode('ascii')}"
