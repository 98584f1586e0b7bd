"""A picture that a client gives to be enlarged: read, padded, and cropped again."""

import numpy as np
from PIL import Image

from cv3jax.cascade import own_pictures
from cv3jax.cascade.own_pictures import Layers
from cv3jax.cascade.sizes import Size
from cv3jax.serving.http.plan import Plan
from cv3jax.web.errors import ApiError
from data_pipeline.images.decode import (
    TooLargeError,
    decode_layers,
    is_animated,
    open_image,
    upright_size,
)
from data_pipeline.images.formats import UnsupportedError
from data_pipeline.io.errors import InputError


def size_of(data: bytes, most: int) -> Size:
    """Return the upright size of an encoded picture of at most `most` pixels.

    Raises ApiError on another file; no pixel is decoded for a picture that is too large.
    """
    try:
        image = open_image(data, max_pixels=most)
        if is_animated(image):
            raise InputError("an animation; give a still picture")
        return Size(*upright_size(image))
    except InputError as e:
        raise _error(e) from e


def layers_of(data: bytes, plan: Plan, most: int) -> Layers:
    """Return an encoded picture as the relay takes it, padded to the first size of the plan.

    Raises ApiError on a file that is damaged.
    """
    try:
        colours, alpha = decode_layers(open_image(data, max_pixels=most))
    except InputError as e:
        raise _error(e) from e
    return own_pictures.padded(colours, alpha, plan.sizes[0])


def restored(layers: Layers, made: np.ndarray, plan: Plan) -> Image.Image:
    """Return what the relay made of a picture, cropped, with the picture's colours and alpha."""
    return own_pictures.restored(layers, made, plan.colour_fix)[0]


def _error(e: InputError) -> ApiError:
    if isinstance(e, TooLargeError):
        return ApiError(413, f"image: {e}", code="image_too_large", param="image")
    code = "unsupported_image" if isinstance(e, UnsupportedError) else "invalid_image"
    return ApiError(400, f"image: {e}", code=code, param="image")
