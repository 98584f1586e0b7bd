"""From what the engine drew to a file that a client can have."""

from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from cv3jax.cascade.sizes import Size
from cv3jax.serving.http import given
from cv3jax.serving.http.encoding import encode, enlarged, texts_of
from cv3jax.serving.http.job import about
from cv3jax.serving.http.journal import PictureRow
from cv3jax.serving.http.plan import EDIT, Model, Plan
from cv3jax.serving.http.store import Store
from data_pipeline.io.errors import InputError


class Safety(Protocol):
    """What decides whether a picture may be shown. It may be asked from several threads."""

    def allows(self, image: Image.Image) -> bool:
        """Return whether a picture, mode RGB, may be shown."""


class Finisher(NamedTuple):
    """What pictures pass through after they are drawn. `pixels` bounds a given picture's size."""

    store: Store
    model: Model
    pixels: int
    safety: Safety | None = None

    def finish(
        self, job: str, plan: Plan, number: int, image: np.ndarray, base: np.ndarray | None
    ) -> PictureRow:
        """Return the journal's row of a picture whose file is on the disk.

        image: uint8 [H, W, 3], as the engine drew it. base: the base's own picture, which gets a
        file too, or None. A picture that the safety check withholds has no file.

        Raises OSError where the disk is full or fails, and InputError where the given picture of an
        edit is gone.
        """
        picture = Image.fromarray(image)
        if plan.kind == EDIT:
            layers = given.layers_of(self._given(job), plan, self.pixels)
            picture = given.restored(layers, image, plan)
        said = about(plan, number)
        if not self._allows(picture):
            return PictureRow(number, None, 0, {**said, "blocked": True})
        if picture.mode == "RGBA" and plan.output_format != "jpeg":
            said["background"] = "transparent"
        data = encode(picture, plan, texts_of(plan, number, self.model))
        file, kept = self.store.write(data, plan.output_format), None
        if base is not None:
            kept = self.store.write(encode(Image.fromarray(base), plan), plan.output_format)
        return PictureRow(number, file, len(data), said, kept)

    def partial(self, plan: Plan, image: np.ndarray, size: Size | None) -> bytes | None:
        """Return a partial image as bytes, or None for one that is withheld.

        image: uint8 [h, w, 3]. size: to which a preview is enlarged; None: it stays as it is.
        """
        picture = Image.fromarray(image) if size is None else enlarged(image, size)
        return encode(picture, plan) if self._allows(picture) else None

    def _given(self, job: str) -> bytes:
        """Return the picture of an edit. One that is gone does not come again with more room."""
        try:
            return self.store.read_given(job)
        except FileNotFoundError as e:
            raise InputError(f"the picture that {job} was given is gone") from e

    def _allows(self, picture: Image.Image) -> bool:
        return self.safety is None or self.safety.allows(picture.convert("RGB"))
