"""Draw the pictures of a call in batches, and keep what the stages made and how long it took."""

import collections
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from PIL import Image

from cv3jax.api.result import Pictures
from cv3jax.cascade.pipeline import Cascade as Engine
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.sizes import Size
from cv3jax.diffusion.pixels import to_uint8

LATENTS = " latents"  # ends the names of what `Laps` keeps


@dataclasses.dataclass(frozen=True)
class Request:
    """What a call draws: a prompt and a seed for each picture, and the settings of all."""

    prompts: list[str]
    seeds: list[int]
    sizes: tuple[Size, ...]  # of the base's pictures, and after each relay pass
    base: SamplerSettings
    relay: SamplerSettings

    @property
    def stages(self) -> dict[str, SamplerSettings]:
        """The settings of the stages that draw."""
        return {"base": self.base} | ({"relay": self.relay} if len(self.sizes) > 1 else {})


def draw(
    engine: Engine, request: Request, width: int, watched: Callable[[Engine, range], Engine]
) -> Pictures:
    """Return the pictures of a request, drawn in batches of `width`.

    watched: (the cascade, the pictures of a batch) → the cascade that draws them.
    """
    laps, count = Laps(), len(request.seeds)
    made: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    for begin in range(0, count, width):
        rows = np.minimum(np.arange(begin, begin + width), count - 1)
        kept = range(begin, min(begin + width, count))
        drawn = watched(engine.timed_by(laps), kept).generate(
            [request.prompts[row] for row in rows],
            [request.seeds[row] for row in rows],
            size=request.sizes[-1],
            base=request.base,
            relay=request.relay,
            final=True,
        )
        for name, value in (drawn | laps.take()).items():
            made[name].append(np.asarray(value)[: len(kept)])
    whole = {name: np.concatenate(parts) for name, parts in made.items()}
    latents = {name for name in whole if name.endswith(LATENTS)}
    stages = {name: value for name, value in whole.items() if name not in latents}
    return Pictures(
        images=[Image.fromarray(one) for one in stages.get("relay", stages["base"])],
        prompts=request.prompts,
        seeds=request.seeds,
        stages=stages,
        latents={name.removesuffix(LATENTS): whole[name] for name in sorted(latents)},
        settings=_settings(engine, request),
        seconds=dict(laps.seconds),
    )


def warm(engine: Engine, request: Request) -> dict[str, float]:
    """Compile all that draws a request in one batch, by drawing it without a sampling step.

    Returns the seconds of each part.
    """
    return draw(engine.without_steps(), request, len(request.seeds), lambda one, _: one).seconds


def _settings(engine: Engine, request: Request) -> dict[str, Any]:
    """Return the settings as they were used, those of the checkpoint included."""
    stages = engine.description.stages
    used: dict[str, Any] = {"size": tuple(request.sizes[-1]), "tile": request.base.tile or None}
    for name, settings in request.stages.items():
        chosen = settings.of(stages[name])
        used[name] = {"steps": chosen.steps, "guidance": chosen.guidance, "eta": chosen.eta}
    return used


class Laps:
    """The seconds of each part, and what it made on the way to the pictures."""

    def __init__(self):
        """Start the time of the first part."""
        self.seconds: dict[str, float] = collections.defaultdict(float)
        self._kept: dict[str, np.ndarray] = {}
        self._last = time.monotonic()

    def __call__(self, part: str, value: Any) -> Any:
        """Return `value`, which `part` made, when it is computed."""
        jax.block_until_ready(value)
        now = time.monotonic()
        self.seconds[part] += now - self._last
        self._last = now
        if part in ("base", "relay"):
            self._kept[part + LATENTS] = np.asarray(value)
        elif part == "rest":  # (the enlarged pictures in [-1, 1], noise)
            self._kept["upsampled"] = np.asarray(to_uint8(value[0]))
        return value

    def take(self) -> dict[str, np.ndarray]:
        """Return the latents and the enlarged pictures since the last call."""
        kept, self._kept = self._kept, {}
        return kept
