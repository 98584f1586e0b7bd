"""What a callback sees after a step, and what it may do."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from cv3jax.cascade.stage_sampler import Watch


class CancelledError(Exception):
    """A callback returned False, so drawing ended after its step."""


@dataclasses.dataclass(frozen=True)
class Step:
    """A step that was just taken, of one batch of pictures.

    `preview` and `decode` show x̂0, the picture that the network expects at the end.
    """

    stage: str  # "base" or "relay"
    number: int  # from 1
    count: int  # of the stage
    pictures: range  # the pictures of this batch, by their place in the result
    _x0: Callable[[], Any] = dataclasses.field(repr=False)
    _preview: Callable[[Any], np.ndarray] = dataclasses.field(repr=False)
    _decode: Callable[[Any], np.ndarray] = dataclasses.field(repr=False)

    def latents(self) -> np.ndarray:
        """Return x̂0 as latents, float32 [N, h, w, z]."""
        return np.asarray(self._x0())[: len(self.pictures)]

    def preview(self) -> list[Image.Image]:
        """Return a small picture of x̂0 for each picture, one pixel for each latent position.

        It is approximate, a linear function of the latents, and takes almost no time.
        """
        return [Image.fromarray(one) for one in self._preview(self._x0())[: len(self.pictures)]]

    def decode(self) -> list[Image.Image]:
        """Return x̂0 of each picture through the autoencoder: exact, and as slow as decoding."""
        return [Image.fromarray(one) for one in self._decode(self._x0())[: len(self.pictures)]]


Callback = Callable[[Step], bool | None]  # returns False to cancel


def watcher(
    callback: Callback,
    pictures: range,
    preview: Callable[[Any], np.ndarray],
    decode: Callable[[Any], np.ndarray],
) -> Watch:
    """Return what a cascade calls after each step, for a callback and the pictures of a batch.

    preview, decode: latents → uint8 pictures. It raises CancelledError where the callback returns
    False.
    """

    def watch(stage: str, done: int, count: int, x0: Callable[[], Any]) -> None:
        answer = callback(Step(stage, done, count, pictures, x0, preview, decode))
        if isinstance(answer, bool | np.bool_) and not answer:
            raise CancelledError(f"cancelled after step {done} of {count} of the {stage} stage")

    return watch
