"""How a loader makes batches of records, checked when it is said."""

import dataclasses
from collections.abc import Iterable

from data_pipeline.io.errors import InputError
from data_pipeline.loading.bucket_sizes import Size, check_buckets


def _check_rules(rules: Iterable[tuple[bool, str]]) -> None:
    for fine, message in rules:
        if not fine:
            raise InputError(message)


@dataclasses.dataclass(frozen=True)
class CropSettings:
    """What a step sees of a record: the window of its image, and which of its two captions.

    Attributes:
        zoom: range of the resized short side over that of the crop, uniform, at least 1.
        zoom_levels: only so many values of that range, evenly spaced, ends included; 0: all of it.
        crop_grid: crops begin at multiples of this many pixels.
        random_crop: else the middle.
        flip: mirror half of the images. Wrong for captions that say left or right.
        recaption_prob: how often a record's recaption, where it has one, replaces its caption (0.95
            in CogView3 §3.1).

    Raises:
        InputError: a value out of range.
    """

    zoom: tuple[float, float] = (1.0, 1.0)
    zoom_levels: int = 0
    crop_grid: int = 1
    random_crop: bool = True
    flip: bool = False
    recaption_prob: float = 0.95

    def __post_init__(self):
        low, high = self.zoom
        _check_rules(
            (
                (
                    1 <= low <= high <= 8,
                    f"zoom = {self.zoom}: low and high, with 1 <= low <= high <= 8",
                ),
                (
                    self.zoom_levels == 0 or self.zoom_levels >= 2,
                    f"zoom_levels = {self.zoom_levels}: at least 2, or 0 for any zoom",
                ),
                (self.crop_grid >= 1, f"crop_grid = {self.crop_grid}: 1 to the image size"),
                (
                    0 <= self.recaption_prob <= 1,
                    f"recaption_prob = {self.recaption_prob}: a probability, in 0..1",
                ),
            )
        )


@dataclasses.dataclass(frozen=True)
class LoaderSettings:
    """What batches a loader makes, in which order, and with how many threads.

    Attributes:
        batch_size: of all hosts together.
        image_size: S, pixels.
        seed: of order, crops, flips and the choice of caption.
        crop: what a step sees of a record. A `prepare` of the caller's own takes its place.
        num_threads, prefetch: threads that prepare batches, and batches prepared ahead; 0 threads:
            none, in this one.
        num_workers: processes that do instead, of num_threads each; 0: none.
        buckets: sizes of which each batch has one, every record that which crops least of it, in
            `buckets.assign`'s words; none: all batches are S × S. A bucket's records come in epochs
            of their own, and its batches as often as it has records.
        min_side: pictures with a shorter side of fewer pixels are left out; 0: none is.
        max_damaged: so many damaged records are passed over (see `damaged`); one more ends the
            iteration.
        shuffle: else in the order of the records.
        num_epochs: None: for ever. A mixture's weights are for ever only: with epochs every record
            comes as often as every other.
        drop_remainder: leaves out the last incomplete batch. Without it every record comes, and of
            that batch some hosts may have fewer rows, or none.

    Raises:
        InputError: a value out of range.
    """

    batch_size: int
    image_size: int
    seed: int
    crop: CropSettings = CropSettings()
    num_threads: int = 4
    num_workers: int = 0
    prefetch: int = 8
    buckets: tuple[Size, ...] = ()
    min_side: int = 0
    max_damaged: int = 0
    shuffle: bool = True
    num_epochs: int | None = None
    drop_remainder: bool = True

    def __post_init__(self):
        grid, epochs = self.crop.crop_grid, self.num_epochs
        _check_rules(
            (
                (self.batch_size >= 1, f"batch_size = {self.batch_size}: at least 1"),
                (
                    8 <= self.image_size <= 8192,
                    f"image_size = {self.image_size}: 8..8192 pixels",
                ),
                (self.num_threads >= 0, f"num_threads = {self.num_threads}: at least 0"),
                (self.num_workers >= 0, f"num_workers = {self.num_workers}: at least 0"),
                (self.prefetch >= 1, f"prefetch = {self.prefetch}: at least 1"),
                (self.min_side >= 0, f"min_side = {self.min_side}: at least 0"),
                (self.max_damaged >= 0, f"max_damaged = {self.max_damaged}: at least 0"),
                (grid <= self.image_size, f"crop_grid = {grid}: 1 to the image size"),
                (
                    epochs is None or epochs >= 1,
                    f"num_epochs = {epochs}: at least 1, or None for ever",
                ),
                (
                    epochs is None or not self.buckets,
                    f"num_epochs = {epochs} with buckets: each has epochs of its own; give None",
                ),
            )
        )
        check_buckets(self.buckets)
