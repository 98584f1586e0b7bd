"""What a recipe says of its data, typed and checked."""

import dataclasses
import functools
from typing import TYPE_CHECKING

from cv3jax.recipes import require
from data_pipeline.io.errors import InputError

if TYPE_CHECKING:  # a wrong field is refused without what loads data
    from data_pipeline.loading.buckets import Size


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Where the records are, and what a step sees of each."""

    image_size: int
    zoom: tuple[float, float]
    zoom_levels: int
    crop_grid: int
    random_crop: bool
    flip: bool
    threads: int
    path: str | None = None
    recaption: float = 0.0
    workers: int = 0
    min_side: int | None = None
    max_damaged: int = 0
    buckets: str | None = None
    cache: str | None = None

    def __post_init__(self):
        zoom = self.zoom
        numbers = len(zoom) == 2 and all(isinstance(x, (int, float)) for x in zoom)
        fine = numbers and 1 <= zoom[0] <= zoom[1] <= 8
        require(fine, "data.zoom", zoom, "two numbers, 1 <= low <= high <= 8")
        object.__setattr__(self, "zoom", tuple(zoom))
        require(0 <= self.recaption <= 1, "data.recaption", self.recaption, "a probability, 0..1")
        none = "0 (none beside the training's own) or more"
        require(self.threads >= 0, "data.threads", self.threads, none)
        alone = "0 (threads alone) or more processes"
        require(self.workers >= 0, "data.workers", self.workers, alone)
        require(
            (self.min_side or 0) >= 0, "data.min_side", self.min_side, "0 (none) or more pixels"
        )
        require(self.max_damaged >= 0, "data.max_damaged", self.max_damaged, "0 or more")

    @functools.cached_property
    def sizes(self) -> "tuple[Size, ...]":
        """The sizes of config.data.buckets, none where it is not set.

        Raises InputError on a list that cannot be.
        """
        from data_pipeline.loading.buckets import parse

        try:
            return parse(self.buckets or "", self.image_size)
        except InputError as e:
            raise InputError(f"config.data.buckets: {e}") from e

    @property
    def whole_side(self) -> int:
        """The side in pixels of a whole picture, which is what the stage draws.

        It trains on crops of it where the least zoom is above 1.
        """
        return round(self.image_size * self.zoom[0])
