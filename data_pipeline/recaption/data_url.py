"""A record's image for a chat: a base64 data URL.

It contains the image's own bytes where the model sees the same image as training.
"""

import base64
import io

from PIL import Image

from data_pipeline.images.decode import decode_rgb, is_plain, open_image, upright_size
from data_pipeline.images.formats import TYPES

_SENT = ("image/png", "image/jpeg", "image/webp")  # the formats that every server reads


def data_url(data: bytes, side: int) -> str:
    """Return "data:image/…;base64,…" of an encoded image, at most `side` pixels long.

    The image is converted to an upright RGB JPEG in sRGB if it is larger, if its format is not read
    by every server, or if a plain decoder would show other pixels than training sees
    (`decode.is_plain`).

    Raises:
        InputError: the image is damaged or too large to decode.
    """
    image = open_image(data)
    kind, _ = TYPES[image.format]
    height, width = upright_size(image)
    longest = max(height, width)
    if longest > side or kind not in _SENT or not is_plain(image):
        scale = min(1.0, side / longest)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = decode_rgb(image, short_side=min(size))
        if pixels.size != size:
            pixels = pixels.resize(size, Image.Resampling.LANCZOS)
        out = io.BytesIO()
        pixels.save(out, "JPEG", quality=92)
        data, kind = out.getvalue(), "image/jpeg"
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
