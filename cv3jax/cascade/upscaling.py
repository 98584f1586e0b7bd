"""Enlarge a picture of any size by relay passes, and give it back with its own colours."""

import dataclasses
import math
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from cv3jax.cascade import COLOUR_FIXES, own_pictures
from cv3jax.cascade.limits import check_trained
from cv3jax.cascade.pipeline import Cascade
from cv3jax.cascade.sampler_settings import AS_DESCRIBED, SamplerSettings
from cv3jax.cascade.sizes import FACTORS, Size, enlarged_sizes, has_relay
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.distributed.mesh import batch_ways
from cv3jax.reports.pictures import save_png
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import check_file


@dataclasses.dataclass(frozen=True)
class Enlarging:
    """How a picture is enlarged.

    factor: one of FACTORS. seed: of the noise. settings: of the relay. colour_fix: one of
    COLOUR_FIXES.
    """

    factor: int = 2
    seed: int = 0
    settings: SamplerSettings = AS_DESCRIBED
    colour_fix: str = "wavelet"

    def check(self, description: CascadeDescription) -> None:
        """Raise InputError where the cascade cannot enlarge a picture so."""
        if not has_relay(description):
            raise InputError("this cascade has no relay stage, which enlarges pictures")
        if self.factor not in FACTORS:
            allowed = ", ".join(map(str, FACTORS))
            raise InputError(f"factor {self.factor!r}: give one of {allowed}")
        if self.colour_fix not in COLOUR_FIXES:
            allowed = ", ".join(COLOUR_FIXES)
            raise InputError(f"colour fix {self.colour_fix!r}: give one of {allowed}")
        check_trained(description, {"relay": self.settings})


@dataclasses.dataclass(frozen=True)
class Upscaled:
    """An enlarged picture, and how its colours differ from those of the picture that was given.

    texts: what its PNG says of how it was made, by keyword.
    """

    image: Image.Image  # RGB, or RGBA where the picture was transparent
    # mean absolute differences of low frequencies, 0..255: of what the relay made, of the result
    drift: dict[str, float]
    texts: dict[str, str] = dataclasses.field(default_factory=dict, repr=False)

    def save(self, path: str | Path, *, metadata: bool = True) -> Path:
        """Write the picture as a PNG, making its directory, and return the path.

        metadata: whether the PNG says what it was made from. Raises ValueError on a name that does
        not end with ".png", and where no file of this name can be written.
        """
        path = Path(path)
        if path.is_dir():
            raise ValueError(f"{path} is a directory; give the name of a file in it, with .png")
        if path.suffix.lower() != ".png":
            raise ValueError(f"{path}: give a name that ends with .png")
        try:
            check_file(path, "path")
        except InputError as e:
            raise ValueError(str(e)) from e
        save_png(path, np.asarray(self.image), texts=self.texts if metadata else {})
        return path

    def _repr_png_(self) -> bytes:
        return self.image._repr_png_()


def passes_of(factor: int) -> int:
    """Return the number of relay passes that enlarge by `factor`."""
    return round(math.log2(factor))


def upscale(cascade: Cascade, layers: own_pictures.Layers, prompt: str, how: Enlarging) -> Upscaled:
    """Return a picture, of `layers_of`, enlarged `how.factor` times by the relay.

    prompt: what it shows.

    Raises InputError where the cascade, the picture's size or the settings do not allow it.
    """
    how.check(cascade.description)
    first = Size(*layers.colours.shape[:2])
    enlarged_sizes(cascade.description, first, first.times(how.factor))
    ways = 1 if cascade.mesh is None else batch_ways(cascade.mesh)
    text = cascade.text([prompt] * ways)
    keys = jax.vmap(jax.random.key)(cascade.put_rows(np.full(ways, how.seed, np.uint32)))
    made = np.repeat(layers.colours[None], ways, 0)
    settings = dataclasses.replace(how.settings, copies=True)
    for number in range(1, passes_of(how.factor) + 1):
        made = cascade.enlarge(text, keys, made, number, final=True, settings=settings)["relay"]
    plain, before = own_pictures.restored(layers, made[0], "none")
    if how.colour_fix == "none":
        return Upscaled(plain, {"relay": before, "result": before})
    image, after = own_pictures.restored(layers, made[0], how.colour_fix)
    return Upscaled(image, {"relay": before, "result": after})
