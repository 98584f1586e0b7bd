"""Captioned images on disk: what a record is, and datasets of them, written in one go and read at
random.
"""

import contextlib
import hashlib
import json
import re
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import tensorflow_datasets as tfds

from data_pipeline.images.decode import (
    MAX_IMAGE_BYTES,
    MAX_PIXELS,
    decode_rgb,
    open_image,
    upright_size,
)
from data_pipeline.images.perceptual_hash import phash
from data_pipeline.io.errors import InputError
from data_pipeline.io.open_files import room
from data_pipeline.io.staging import holding, replace_directory
from data_pipeline.records.array_records import ShardWriter, check_replaceable, describe
from data_pipeline.records.reading import ExampleSource, find_shards
from data_pipeline.records.sizes import write_sizes

NAME = "records"
ABOUT = "Captioned images for cv3jax; images as encoded bytes."
_TEXT_FIELDS = ("caption", "recaption", "url", "key", "sha256", "phash", "scores")
FEATURES = tfds.features.FeaturesDict(
    {
        # A scalar of bytes, not features.Image: the encoded file comes back as it was received,
        # whatever its format.
        "image": tfds.features.Tensor(
            shape=(), dtype=np.object_, doc="an encoded image, as received"
        ),
        "caption": tfds.features.Text(doc="the source's caption"),
        "recaption": tfds.features.Text(doc="a caption written by a model, or empty"),
        "url": tfds.features.Text(doc="where the image came from, or empty"),
        "key": tfds.features.Text(doc="stable id, unique in the dataset"),
        "width": tfds.features.Scalar(np.int64, doc="pixels, upright (EXIF orientation applied)"),
        "height": tfds.features.Scalar(np.int64, doc="pixels, upright (EXIF orientation applied)"),
        "sha256": tfds.features.Text(doc="hex digest of the image bytes"),
        "phash": tfds.features.Text(doc="64-bit perceptual hash (imagehash.phash), hex"),
        "scores": tfds.features.Text(doc="JSON: what the source gave"),
    }
)


class Record(TypedDict):
    """One captioned image; FEATURES says what each field holds."""

    image: bytes
    caption: str
    recaption: str
    url: str
    key: str
    width: int
    height: int
    sha256: str
    phash: str
    scores: str


def make_record(
    image: bytes,
    caption: str,
    *,
    key: str,
    recaption: str = "",
    url: str = "",
    scores: Mapping[str, Any] | None = None,
    max_bytes: int = MAX_IMAGE_BYTES,
    max_pixels: int = MAX_PIXELS,
) -> Record:
    """Decodes the image once, so that no dataset holds one that cannot be read, and fills in size
    and hashes.

    Raises:
        InputError: the image is damaged, too large, or of a format that is not read.
    """
    opened = open_image(image, max_bytes=max_bytes, max_pixels=max_pixels)
    height, width = upright_size(opened)
    pixels = decode_rgb(opened)
    return Record(
        image=image,
        caption=caption,
        recaption=recaption,
        url=url,
        key=key,
        width=width,
        height=height,
        sha256=hashlib.sha256(image).hexdigest(),
        phash=f"{phash(pixels).bits:016x}",
        scores=json.dumps(dict(scores or {}), sort_keys=True),
    )


_OWN_FILES = re.compile(
    rf"\d+\.writing|{NAME}-.*\.array_record-.*|.*\.json(\.incomplete.*)?|sizes\.npy.*"
)


@contextlib.contextmanager
def writing(out: Path, overwrite: bool) -> Iterator[Path]:
    """Hold the place where the dataset `out` is written until it is whole; see `staging.holding`.

    Raises:
        InputError: another process has it, something of somebody's own is in it, or `out` is taken
            by now.
    """
    with holding(out, own=lambda name: bool(_OWN_FILES.fullmatch(name))) as staging:
        check_replaceable(out, overwrite)
        yield staging


class RecordWriter:
    """Writes records round-robin into `shards` files.

    A context manager: leaving it normally publishes the dataset.

    Until then everything is in `NAME.partial`, which an exception removes and a later writer
    replaces, so a killed process leaves nothing that could be taken for a dataset. `staging` is
    that directory, for files that belong beside the records.

    Raises:
        InputError: `out` exists (without `overwrite`), is something else than a dataset or no place
            to write, or another process writes it; `shards` is not in 1..10000 or more than may be
            open at once; a record's key came before, or nothing was written.
        OSError: the disk is full, or fails.
    """

    def __init__(self, out: str | Path, *, shards: int = 8, overwrite: bool = False):
        if not 1 <= shards <= 10_000:
            raise InputError(f"shards = {shards}: give a number in 1..10000")
        if shards > room():
            raise InputError(
                f"shards = {shards}: at most {room()} are written at once where so few files may be"
                " open; give fewer, or raise the limit (ulimit -n)"
            )
        self.out = Path(out).absolute()
        self.staging = self.out.with_name(self.out.name + ".partial")
        self.count = 0
        self._shards = shards
        self._writers: list[ShardWriter] = []
        self._sizes: list[array] = []  # height and width by turns, of each shard's records
        self._keys: set[str] = set()
        self._overwrite, self._holding = overwrite, contextlib.ExitStack()
        check_replaceable(self.out, overwrite)

    def __enter__(self) -> "RecordWriter":
        self._holding.enter_context(writing(self.out, self._overwrite))
        return self

    def __exit__(self, kind, value, traceback) -> None:
        with self._holding:
            for writer in self._writers:
                writer.close()
            if kind is None:
                self._publish()

    def write(self, record: Record) -> None:
        if record["key"] in self._keys:
            raise InputError(
                f"record key {record['key']!r} came twice for {self.out}; keys must be unique"
            )
        self._keys.add(record["key"])
        shard = self.count % self._shards
        if shard == len(self._writers):
            self._writers.append(ShardWriter(self.staging / f"{shard:05d}.writing", FEATURES))
            self._sizes.append(array("i"))
        self._writers[shard].write(record)
        self._sizes[shard].extend((record["height"], record["width"]))
        self.count += 1

    def _publish(self) -> None:
        if not self.count:
            raise InputError(f"no records for {self.out}: nothing was written (count = 0)")
        paths, lengths = (
            [writer.path for writer in self._writers],
            [writer.count for writer in self._writers],
        )
        describe(self.staging, paths, lengths, name=NAME, features=FEATURES, about=ABOUT)
        write_sizes(self.staging, np.concatenate([np.asarray(sizes) for sizes in self._sizes]))
        replace_directory(self.staging, self.out)


def captions(record: Mapping[str, Any]) -> list[str]:
    """The source's captions of a record: `caption`, and those that `scores` holds under
    "captions".

    Raises:
        InputError: the scores are no JSON of that kind.
    """
    if '"captions"' not in record.get("scores", ""):
        return [record["caption"]]
    try:
        others = json.loads(record["scores"]).get("captions")
    except (ValueError, AttributeError) as e:
        raise InputError(f"record {record['key']!r}: its scores are no JSON object") from e
    others = others if isinstance(others, list) else []
    return [record["caption"], *(text for text in others if isinstance(text, str) and text)]


class RecordSource(ExampleSource):
    """Random access: `len(source)` and `source[i]` → Record. Safe to read from many threads."""

    def decode(self, example: dict[str, Any]) -> Record:
        fields = {k: example[k].decode() for k in _TEXT_FIELDS}
        return Record(
            image=example["image"],
            width=int(example["width"]),
            height=int(example["height"]),
            **fields,
        )


def open_records(path: str | Path) -> RecordSource:
    """Opens a dataset that RecordWriter, `cv3jax data build`, or a TFDS build with the same
    features has written.

    Raises:
        InputError: see `find_shards`.
    """
    return RecordSource(Path(path), find_shards(Path(path), FEATURES, "cv3jax data pack"), FEATURES)
