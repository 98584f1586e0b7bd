"""The settings of `cv3jax data build`: its filters, and how it proceeds.

Each filter is a field, and is off where the field is None or empty. docs/guides/data.md has them in
a table.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from data_pipeline.builder.blocklist import read_blocked
from data_pipeline.images.decode import MAX_ASPECT, MAX_IMAGE_BYTES, MAX_PIXELS
from data_pipeline.io.arguments import local
from data_pipeline.io.bounded_json import ParseError
from data_pipeline.io.bounded_yaml import load_yaml
from data_pipeline.io.errors import InputError
from data_pipeline.sources.items import MAX_CAPTION
from data_pipeline.sources.values import plain_tags


def _filter(
    default: Any, help: str, low: float = 0, high: float = float("inf"), kind: type = float
) -> Any:
    return dataclasses.field(
        default=default, metadata={"help": help, "low": low, "high": high, "kind": kind}
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """The filters, in the order in which they are applied; the first that drops an image counts.

    Sides are in pixels.
    """

    blocked_sources: str | None = _filter(
        None, "file of substrings, one per line, that no image's URL may contain", kind=str
    )
    nsfw_tags: str | None = _filter(
        None, "comma-separated NSFW tags to drop, such as NSFW,UNSURE", kind=str
    )
    max_unsafe: float | None = _filter(None, "largest punsafe, 0..1", 0, 1)
    max_watermark: float | None = _filter(None, "largest pwatermark, 0..1", 0, 1)
    min_aesthetic: float | None = _filter(None, "smallest aesthetic score, about 1..10", -100, 100)
    require_scores: bool = _filter(
        False, "drop images without the score that one of these filters needs", kind=bool
    )
    min_caption: int | None = _filter(
        None, "smallest number of characters of a caption", 1, MAX_CAPTION, int
    )
    max_caption: int | None = _filter(
        None, "largest number of characters of a caption", 1, MAX_CAPTION, int
    )
    max_repetition: float | None = _filter(
        None, "largest share of a caption's words that occurred before in it, 0..1", 0, 1
    )
    min_bytes: int | None = _filter(
        None, "smallest size of the encoded image, bytes", 1, MAX_IMAGE_BYTES, int
    )
    max_bytes: int = _filter(
        MAX_IMAGE_BYTES, "largest size of the encoded image, bytes", 1, MAX_IMAGE_BYTES, int
    )
    max_pixels: int = _filter(
        MAX_PIXELS,
        "largest number of pixels; more are not decoded (decompression bombs)",
        1,
        MAX_PIXELS,
        int,
    )
    min_side: int | None = _filter(None, "smallest shorter side, pixels", 1, 65_535, int)
    max_aspect: float = _filter(MAX_ASPECT, "largest ratio of longer to shorter side", 1, 65_535)
    keep_animations: bool = _filter(
        False, "keep animations; training sees their first frame", kind=bool
    )
    min_contrast: float = _filter(
        2.0, "smallest standard deviation of colours, of 255; 0 keeps uniform images", 0, 128
    )
    keep_exact: bool = _filter(False, "keep images whose pixels equal another's", kind=bool)
    near_radius: int = _filter(
        12, "bits of 64 in which near duplicates' hashes may differ; 0 keeps them", 0, 20, int
    )

    def __post_init__(self):
        """Check the values."""
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), field.metadata["kind"]
            if value is None and field.default is None:
                continue
            if kind is float and isinstance(value, int) and not isinstance(value, bool):
                object.__setattr__(self, field.name, value := float(value))
            wrong = not isinstance(value, kind) or (kind is int and isinstance(value, bool))
            if wrong or (
                kind in (int, float)
                and not field.metadata["low"] <= value <= field.metadata["high"]
            ):
                span = (
                    ""
                    if kind not in (int, float)
                    else f" in {field.metadata['low']:g}..{field.metadata['high']:g}"
                )
                raise InputError(
                    f"{field.name} = {value!r}: give {_NAMES[kind]}{span}"
                    f" ({field.metadata['help']})"
                )
        if self.blocked_sources is not None:
            local(self.blocked_sources, "--blocked-sources")
        if self.nsfw_tags is not None and not self.tags():
            raise InputError(
                "nsfw_tags is empty; give tags such as NSFW,UNSURE, or leave the filter out"
            )
        if self.keep_exact and self.near_radius:
            raise InputError(
                f"keep_exact keeps images that near_radius = {self.near_radius} would drop; set"
                " near_radius to 0 as well"
            )
        if self.min_caption and self.max_caption and self.min_caption > self.max_caption:
            raise InputError(
                f"min_caption = {self.min_caption} is above max_caption = {self.max_caption}; give"
                " a smaller one"
            )

    def tags(self) -> frozenset[str]:
        """Return the NSFW tags to drop."""
        return plain_tags(self.nsfw_tags or "")

    def fingerprint(self) -> str:
        """Return a text that changes when a filter does, the blocked sources included."""
        sources = read_blocked(self.blocked_sources) if self.blocked_sources else ()
        text = json.dumps(
            [{**dataclasses.asdict(self), "blocked_sources": sources}], sort_keys=True
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class BuildSettings:
    """How a build proceeds.

    Attributes:
        filters: the filters.
        metadata: parquet files of scores, tags and URLs.
        join_on: their column that says which item a row describes.
        shard_mb: inputs are combined into shards of about this many MB.
        max_bad_fraction: the largest share of damaged items; with more, the build ends.
        allow_unreadable: continue where a filter's field cannot be understood, or is missing in a
            whole source. Items without a value pass that filter.
        threads: threads that decode, in each process; None: one per core.

    Raises:
        InputError: a value is out of range; the message has the name of its flag.
    """

    filters: Settings
    metadata: tuple[str, ...] = ()
    join_on: str = "key"
    shard_mb: int = 256
    max_bad_fraction: float = 0.05
    threads: int | None = None
    allow_unreadable: bool = False

    def __post_init__(self):
        """Check the values."""
        for name, value, low, high in (
            ("--max-bad-fraction", self.max_bad_fraction, 0, 1),
            ("--shard-mb", self.shard_mb, 1, 2**20),
            ("--threads", 1 if self.threads is None else self.threads, 1, 256),
        ):
            if not low <= value <= high:
                raise InputError(f"{name} {value:g}: give a number in {low}..{high}")

    @property
    def shard_bytes(self) -> int:
        """The size of a shard in bytes."""
        return self.shard_mb * 10**6


_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def load_settings(path: Path | None, flags: dict[str, Any]) -> Settings:
    """Return the filters from a YAML file, if given, and from `flags`, which override it.

    Raises:
        InputError: the file cannot be read, a field is unknown, or a value is out of range.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = load_yaml(path) or {}
        except OSError as e:
            raise InputError(
                f"--filters {path} cannot be read ({e.strerror}); give a readable file"
            ) from e
        except ParseError as e:
            raise InputError(
                f"--filters {path} is not YAML ({e}); give a file such as 'min_side: 256'"
            ) from e
        if not isinstance(values, dict):
            raise InputError(
                f"--filters {path} is not a mapping of filters to values; give a file such as"
                " 'min_side: 256'"
            )
    known = [field.name for field in dataclasses.fields(Settings)]
    if unknown := [str(name) for name in values if name not in known]:
        raise InputError(
            f"--filters {path}: there is no filter {unknown[0]!r}; give some of {', '.join(known)}"
        )
    return Settings(**{**values, **flags})
