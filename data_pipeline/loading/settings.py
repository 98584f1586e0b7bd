"""Settings of a loader, which are checked when they are created."""

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
    """What a step sees of a record: the window of its image, and which of its captions.

    Attributes:
        zoom: the range of the resized short side relative to the crop's, uniform, at least 1.
        zoom_levels: draw from so many evenly spaced values of that range, ends included; 0: any
            value.
        crop_grid: crops begin at multiples of this many pixels.
        random_crop: crop at a random position; otherwise the middle.
        flip: mirror half of the images. Wrong for captions that mention left or right.
        recaption_prob: the probability that a record's recaption, where it has one, replaces its
            caption (0.95 in CogView3 §3.1).
        alpha: whether an example also has the image's alpha channel, as `mask`. Its colours are
            then those of the file, and not on white.

    Raises:
        InputError: a value is out of range.
    """

    zoom: tuple[float, float] = (1.0, 1.0)
    zoom_levels: int = 0
    crop_grid: int = 1
    random_crop: bool = True
    flip: bool = False
    recaption_prob: float = 0.95
    alpha: bool = False

    def __post_init__(self):
        """Check the values."""
        low, high = self.zoom
        _check_rules(
            (
                (
                    1 <= low <= high <= 8,
                    f"zoom = {self.zoom}: give low and high, with 1 <= low <= high <= 8",
                ),
                (
                    self.zoom_levels == 0 or self.zoom_levels >= 2,
                    f"zoom_levels = {self.zoom_levels}: give at least 2, or 0 for any zoom",
                ),
                (self.crop_grid >= 1, f"crop_grid = {self.crop_grid}: give 1 to the image size"),
                (
                    0 <= self.recaption_prob <= 1,
                    f"recaption_prob = {self.recaption_prob}: give a probability in 0..1",
                ),
            )
        )


@dataclasses.dataclass(frozen=True)
class LoaderSettings:
    """The content and the order of a loader's batches, and the threads that prepare them.

    Attributes:
        batch_size: the number of records per batch, on all hosts together.
        image_size: S, pixels.
        seed: the seed of order, crops, flips and the choice of captions.
        crop: what a step sees of a record. A `prepare` of the caller replaces it.
        num_threads: threads that prepare batches; 0: the calling thread does.
        prefetch: the number of batches that are prepared in advance.
        num_workers: processes that prepare batches instead, with num_threads each; 0: none.
        niceness: of the threads, 0..19: above 0 they take only the time that other threads leave
            (`priority.behind`).
        buckets: sizes, of which each batch has one. Each record is in the bucket whose aspect ratio
            is nearest (`buckets.assign`). A bucket runs through its own epochs, and its share of
            batches is its share of records. Empty: all batches are S × S.
        min_side: leave out pictures whose shorter side has fewer pixels; 0: none.
        max_damaged: skip this many damaged records (see `damaged`); one more is an error.
        shuffle: shuffle each epoch; otherwise keep the order of the records.
        window: shuffle within windows of at most so many shards (`windows.WindowOrder`); 0: among
            all records.
        num_epochs: the number of epochs; None: endless. The weights of a mixture apply to endless
            streams only: with epochs, every record occurs equally often.
        drop_remainder: leave out the last batch where it is incomplete. Otherwise every record
            occurs, and some hosts may have fewer rows of that batch, or none.

    Raises:
        InputError: a value is out of range.
    """

    batch_size: int
    image_size: int
    seed: int
    crop: CropSettings = CropSettings()
    num_threads: int = 4
    num_workers: int = 0
    niceness: int = 0
    prefetch: int = 8
    buckets: tuple[Size, ...] = ()
    min_side: int = 0
    max_damaged: int = 0
    shuffle: bool = True
    window: int = 0
    num_epochs: int | None = None
    drop_remainder: bool = True

    def __post_init__(self):
        """Check the values."""
        grid, epochs = self.crop.crop_grid, self.num_epochs
        _check_rules(
            (
                (self.batch_size >= 1, f"batch_size = {self.batch_size}: give at least 1"),
                (
                    8 <= self.image_size <= 8192,
                    f"image_size = {self.image_size}: give 8..8192 pixels",
                ),
                (self.num_threads >= 0, f"num_threads = {self.num_threads}: give at least 0"),
                (self.num_workers >= 0, f"num_workers = {self.num_workers}: give at least 0"),
                (0 <= self.niceness <= 19, f"niceness = {self.niceness}: give 0..19"),
                (self.prefetch >= 1, f"prefetch = {self.prefetch}: give at least 1"),
                (self.min_side >= 0, f"min_side = {self.min_side}: give at least 0"),
                (self.max_damaged >= 0, f"max_damaged = {self.max_damaged}: give at least 0"),
                (self.window >= 0, f"window = {self.window}: give at least 0"),
                (grid <= self.image_size, f"crop_grid = {grid}: give 1 to the image size"),
                (
                    epochs is None or epochs >= 1,
                    f"num_epochs = {epochs}: give at least 1, or None for endless epochs",
                ),
                (
                    epochs is None or not self.buckets,
                    f"num_epochs = {epochs} with buckets, which each have their own epochs; give"
                    " None",
                ),
            )
        )
        check_buckets(self.buckets)
