"""Read the pictures that `cv3jax upscale` is given. No JAX is needed to refuse a bad file."""

import hashlib
import warnings
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from cv3jax.cascade.own_pictures import Layers, layers_of
from cv3jax.cascade.sizes import Size, enlarged_sizes
from cv3jax.checkpoints.description import CascadeDescription
from data_pipeline.images.decode import MAX_IMAGE_BYTES, open_image
from data_pipeline.io.errors import InputError
from data_pipeline.io.regular_files import read_regular


class Given(NamedTuple):
    """A picture to enlarge."""

    path: Path
    prompt: str  # what it shows
    layers: Layers
    sha256: str  # of the file
    sizes: tuple[Size, ...]  # of what the relay starts from, and after each pass


def read_pictures(
    pictures: list[tuple[Path, str]], description: CascadeDescription, factor: int
) -> list[Given]:
    """Return pictures [(file, prompt)], decoded as the relay of a cascade takes them.

    factor: by which they are to be enlarged. Raises InputError, which names the file, on one that
    is no picture, is damaged or is too large.
    """
    given = []
    for path, prompt in pictures:
        try:
            image, digest = _opened(path)
            layers = layers_of(image, description)
            first = Size(*layers.colours.shape[:2])
            sizes = enlarged_sizes(description, first, first.times(factor))
        except InputError as e:
            raise InputError(f"--image {path}: {e}") from e
        given.append(Given(path, prompt, layers, digest, sizes))
    return given


def _opened(path: Path) -> tuple[Image.Image, str]:
    """Return (the picture in a file, with only its header read; the file's SHA-256).

    Raises InputError where it is no picture.
    """
    try:
        data = read_regular(path, MAX_IMAGE_BYTES)
        with warnings.catch_warnings():  # a line refuses a large picture; Pillow need not warn
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return open_image(data), hashlib.sha256(data).hexdigest()
    except OSError as e:
        raise InputError(e.strerror or str(e)) from e
