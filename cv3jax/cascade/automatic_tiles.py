"""Draw pictures in tiles where the compiled programs say that they do not fit as a whole."""

import dataclasses

from cv3jax.cascade.limits import wrong_tile
from cv3jax.cascade.memory import NoRoomError, Pictures, check_fits
from cv3jax.cascade.pipeline import Cascade
from cv3jax.cascade.sampler_settings import AS_DESCRIBED, SamplerSettings
from data_pipeline.io import progress
from data_pipeline.io.errors import InputError

TIMES = (4, 2, 1)  # sides of the tiles that are tried, in trained sides of the relay


def settings_that_fit(
    cascade: Cascade,
    pictures: Pictures,
    base: SamplerSettings = AS_DESCRIBED,
    relay: SamplerSettings = AS_DESCRIBED,
) -> tuple[SamplerSettings, SamplerSettings]:
    """Return the settings of base and relay with which these pictures fit the devices.

    They are the given ones. Where these have no tile, are not `whole`, and the whole does not fit,
    the largest tile of `tiles_of` that fits is taken, and a line on stderr says so.

    cascade: of `planned`, or a loaded one. Raises NoRoomError where nothing fits.
    """
    try:
        check_fits(cascade, pictures, base, relay)
    except NoRoomError as e:
        whole = e
    else:
        return base, relay
    fixed = any(one.tile or one.whole for one in (base, relay))
    tried = [] if fixed else tiles_of(cascade, pictures)
    for tile in tried:
        tiled = tuple(dataclasses.replace(one, tile=tile) for one in (base, relay))
        try:
            check_fits(cascade, pictures, *tiled)
        except InputError:  # too large, or too low for the mesh's context
            continue
        progress.say(
            f"cv3jax: pictures of {pictures.sizes[-1]} do not fit as a whole: drawing them in tiles"
            f" of {tile} pixels, as --tile {tile} does"
        )
        return tiled
    if tried:
        sides = ", ".join(map(str, tried))
        raise NoRoomError(f"{whole}; tiles of {sides} pixels do not fit either") from whole
    raise whole


def tiles_of(cascade: Cascade, pictures: Pictures) -> list[int]:
    """Return the tiles to try, in pixels per side, largest first.

    They are multiples of the side that the relay was trained on, or the base without a relay, and
    smaller than the picture.
    """
    stages = cascade.description.stages
    side = stages["relay" if "relay" in stages else "base"].image_size
    smaller = [times * side for times in TIMES if times * side < max(pictures.sizes[-1])]
    return [
        tile for tile in smaller if not any(wrong_tile(stage, tile) for stage in stages.values())
    ]
