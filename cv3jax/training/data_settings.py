"""What a recipe says of its data, typed and checked."""

import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

from cv3jax.fields import PATH, SWITCH, TEXT, Rule, check, field, number, optional, whole
from data_pipeline.io.errors import InputError
from data_pipeline.loading.bucket_sizes import Size, parse
from data_pipeline.records import CacheSettings


def _are_numbers(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(isinstance(x, (int, float)) for x in value)


_RANGE = Rule(
    "tuple of float",
    "two numbers, 1 <= low <= high <= 8",
    _are_numbers,
    lambda value: len(value) == 2 and 1 <= value[0] <= value[1] <= 8,
    ((0.99, 1.0), (2.0, 1.9), (1.0, 8.01), (1.0,)),
)
_LEVELS = Rule(
    "int",
    "0, or at least 2",
    whole(0).typed,
    lambda value: value == 0 or value >= 2,
    (-1, 1),
)
_BUCKETS = dataclasses.replace(
    optional(TEXT), right="none, a number such as 64, or sizes such as 512x512,448x576"
)
_SHUFFLE = Rule(
    "str",
    "global, or windows:N with N in 1..1,000,000 shards",
    TEXT.typed,
    lambda value: re.fullmatch(r"global|windows:0*[1-9]\d{0,5}|windows:0*1000000", value, re.ASCII),
    ("window", "windows:0", "windows:1000001", "windows:", "global:4"),
)
_GB = number(0.001, 1e6)


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Where the records are, and what a step sees of each."""

    image_size: int = field(
        "Side in pixels of what a step sees: the short side is resized to image_size × zoom, then"
        " a square is cropped.",
        whole(8, 8192),
    )
    zoom: tuple[float, float] = field(
        "Range from which each image's zoom is drawn; the stage makes pictures of image_size × the"
        " smallest zoom.",
        _RANGE,
    )
    zoom_levels: int = field(
        "How many evenly spaced values of zoom there are; 0: all of the range.", _LEVELS
    )
    crop_grid: int = field(
        "Crops begin at multiples of so many pixels; at most image_size.", whole(1)
    )
    random_crop: bool = field("Whether crops are drawn at random; False: the middle.", SWITCH)
    flip: bool = field(
        "Whether half of the images are mirrored; wrong for captions that say left or right.",
        SWITCH,
    )
    threads: int = field(
        "Threads that prepare batches, in each worker if there are workers; 0: none.", whole(0)
    )
    path: str | None = field(
        "Record directory, or several with their sampling weights: A:3,B:1.", PATH, None
    )
    recaption: float = field(
        "Probability that a record's recaption, if it has one, replaces its caption.",
        number(0, 1),
        0.0,
    )
    workers: int = field("Processes that prepare batches; 0: threads alone.", whole(0), 0)
    min_side: int | None = field(
        "Pictures with a shorter side below this many pixels are left out; 0 or none: they are"
        " enlarged.",
        optional(whole(0)),
        None,
    )
    max_damaged: int = field(
        "How many unreadable records are skipped; one more ends the run.", whole(0), 0
    )
    buckets: str | None = field(
        "Aspect-ratio buckets: sizes of about image_size² with sides that are multiples of a"
        " number, or HEIGHTxWIDTH sizes. A step is compiled for each.",
        _BUCKETS,
        None,
    )
    cache: str | None = field(
        "Feature cache of data.path, made by `cv3jax data encode`: a directory, or an address, of"
        " which all is copied to this host's disk.",
        PATH,
        None,
    )
    shuffle: str = field(
        "Order of the records. global: shuffled among all; windows:N: the shards shuffled, then the"
        " records within windows of N shards, so that shards are read one after the other.",
        _SHUFFLE,
        "global",
    )
    cache_dir: str | None = field(
        "Directory on each host's disk for the shards of datasets in s3:// or gs://.", PATH, None
    )
    cache_gb: float = field(
        "The most of these shards that are kept, in 10⁹ bytes, by all processes of a host.",
        _GB,
        100.0,
    )

    def __post_init__(self):
        """Raise InputError where a field breaks its rule."""
        check(self, "data")
        object.__setattr__(self, "zoom", tuple(self.zoom))
        _ = self.sizes  # refuses a list that cannot be

    @functools.cached_property
    def sizes(self) -> tuple[Size, ...]:
        """The sizes of config.data.buckets, none where it is not set.

        Raises InputError on a list that cannot be.
        """
        try:
            return parse(self.buckets or "", self.image_size)
        except InputError as e:
            raise InputError(f"config.data.buckets: {e}") from e

    @property
    def window(self) -> int:
        """The most shards of a window of config.data.shuffle, 0 where it is global."""
        return int(self.shuffle.partition(":")[2] or 0)

    @property
    def shard_cache(self) -> CacheSettings:
        """Return where the shards of buckets are kept."""
        return CacheSettings(
            Path(self.cache_dir) if self.cache_dir else None, int(self.cache_gb * 1e9)
        )

    @property
    def whole_side(self) -> int:
        """Return the side in pixels of a whole picture, which is what the stage draws.

        It trains on crops of it where the least zoom is above 1.
        """
        return round(self.image_size * self.zoom[0])
