"""A record's image as a chat carries it: a base64 data URL, the bytes as they are where the model
would see the same image.
"""

import base64
import io

from PIL import Image

from data_pipeline.images.decode import decode_rgb, is_plain, open_image, upright_size
from data_pipeline.images.formats import TYPES

_SENT = ("image/png", "image/jpeg", "image/webp")  # what every server reads


def data_url(data: bytes, side: int) -> str:
    """Encoded image → "data:image/…;base64,…", at most `side` pixels long.

    A larger one, one of a kind that not every server reads, and one of which a plain decoder would
    make other pixels than training sees (`decode.is_plain`) become an upright RGB JPEG in sRGB.

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
