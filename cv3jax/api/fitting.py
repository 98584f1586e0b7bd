"""Choose the tiles of a call's pictures by what fits the devices, as the commands do."""

import dataclasses

from cv3jax.api import parts
from cv3jax.api.drawing import Request
from cv3jax.cascade.automatic_tiles import settings_that_fit
from cv3jax.cascade.memory import Pictures, check_fits
from cv3jax.cascade.own_pictures import Layers
from cv3jax.cascade.pipeline import Cascade as Engine
from cv3jax.cascade.sampler_settings import AS_DESCRIBED, SamplerSettings
from cv3jax.cascade.sizes import Size
from cv3jax.cascade.upscaling import Enlarging


class Fitting:
    """The settings of a loaded cascade's calls, with tiles where the whole does not fit.

    They are kept, so that the same call always draws the same pictures.
    """

    def __init__(self, engine: Engine):
        """Keep the cascade; nothing is checked yet."""
        self._engine = engine
        self._kept: dict[tuple, tuple[SamplerSettings, SamplerSettings]] = {}

    def drawing(self, request: Request, width: int, tile: int | None) -> Request:
        """Return a request, drawn in batches of `width`, with the tiles in which it fits.

        tile: None chooses them; otherwise they are the request's own. Raises NoRoomError where the
        pictures do not fit.
        """
        drawn = Pictures(width, request.sizes)
        base, relay = self._settings(drawn, request.base, request.relay, tile)
        return dataclasses.replace(request, base=base, relay=relay)

    def enlarging(self, layers: Layers, how: Enlarging, tile: int | None) -> Enlarging:
        """Return how to enlarge a picture, with the tiles in which it fits.

        Raises InputError where the cascade or the settings do not allow it, or nothing fits. tile:
        as for `drawing`.
        """
        how.check(self._engine.description)
        first = Size(*layers.colours.shape[:2])
        sizes = self._engine.sizes(first.times(how.factor), first)
        parts.check_tiles(self._engine, {"relay": (sizes[-1], how.settings)})
        drawn = Pictures(parts.ways(self._engine), sizes, given=True)
        _, settings = self._settings(drawn, AS_DESCRIBED, how.settings, tile)
        return dataclasses.replace(how, settings=settings)

    def _settings(
        self, drawn: Pictures, base: SamplerSettings, relay: SamplerSettings, tile: int | None
    ) -> tuple[SamplerSettings, SamplerSettings]:
        """Return the settings of base and relay with which these pictures fit."""
        call = (drawn, base, relay, tile is None)
        if call not in self._kept:
            if tile is None:
                self._kept[call] = settings_that_fit(self._engine, drawn, base, relay)
            else:
                check_fits(self._engine, drawn, base, relay)
                self._kept[call] = base, relay
        return self._kept[call]
