"""Show a callback the steps of a loaded cascade."""

import functools

import numpy as np

from cv3jax.api import parts
from cv3jax.api.steps import Callback, watcher
from cv3jax.cascade import preview
from cv3jax.cascade.pipeline import Cascade as Engine


class Watching:
    """What callbacks see of a cascade's steps."""

    def __init__(self, engine: Engine):
        """Keep the cascade."""
        self._engine = engine

    @functools.cached_property
    def matrix(self) -> np.ndarray:
        """The matrix [z + 1, 3] of previews: the checkpoint's, or else fitted now."""
        if (stored := self._engine.description.vae.preview) is not None:
            return np.asarray(stored, np.float32)
        encode = functools.partial(parts.encode, self._engine, seed=0)
        return preview.fit(encode, self._engine.factor)

    def watched(
        self, callback: Callback | None, tile: int, engine: Engine, pictures: range
    ) -> Engine:
        """Return `engine`, which draws these pictures in such tiles, with the callback's calls."""
        if callback is None:
            return engine
        shown = functools.partial(preview.shown, matrix=self.matrix)
        whole = functools.partial(self._engine.decode, tile=tile)
        return engine.watched_by(watcher(callback, pictures, shown, whole))
